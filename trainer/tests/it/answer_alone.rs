//! RL on the answer reward alone, without a Teacher, through the real `train`.

use crate::small::{Place, error_lines};
use schemas::{Metric, Rollout, Score};

const ALONE: [&str; 6] = ["--stages", "rl", "--answer-reward", "alone", "--answer-weight", "1"];

fn train(place: &Place, arguments: &[&str]) -> (String, String) {
    let output = place.train(arguments).output().expect("train");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), said)
}

fn eval(place: &Place, of: &[&str]) {
    train(place, &[&["eval", "--answer-epochs", "1"], of].concat());
}

/// Two successive rounds of RL; no scores are requested or awaited.
#[test]
fn rounds_need_no_teacher() {
    let place = Place::new(40);
    let round = |number: &'static str| [&["--round", number], &ALONE[..]].concat();
    let lines = error_lines(&place.train(&round("1")).output().expect("train")).join("\n");
    assert!(
        lines.contains("expected the answer model, found none\nnext: train eval --checkpoint base"),
        "{lines}"
    );
    eval(&place, &["--checkpoint", "base"]);
    let (said, _) = train(&place, &round("1"));
    assert!(said.contains("round 1: complete; next: train --round 2"), "{said}");
    assert!(said.contains("probability of the correct answer 0."), "{said}");
    assert!(!said.contains("sentence score"), "{said}");
    assert!(place.checkpoint("round-1/rl/model.safetensors").is_file());
    let (said, _) = train(&place, &round("1"));
    assert!(said.contains("round 1: complete"), "a second run has nothing to do: {said}");

    eval(&place, &["--round", "1", "--checkpoint", "rl"]);
    let (said, _) = train(&place, &round("2"));
    assert!(said.contains("round 2: complete"), "{said}");
    for round in [1, 2] {
        assert!(place.dataset().read::<Score>(round).expect("scores").is_empty());
        let names: Vec<String> =
            place.dataset().read::<Metric>(round).expect("metrics").into_iter().map(|row| row.name).collect();
        assert!(names.iter().any(|name| name == "answer_probability/with"));
        assert!(!names.iter().any(|name| name == "mean_sentence_score"));
    }
}

/// A rationale earns its increase of the answer's probability, and the neutral score is not subtracted; rationales of problems
/// with hidden answers are left out.
#[test]
fn the_reward_is_that_of_the_answer() {
    let place = Place::new(40);
    eval(&place, &["--checkpoint", "base"]);
    train(&place, &["--round", "1", "--stage", "rollout"]);
    let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let reward = |flags: &[&str]| {
        let place = place.copy();
        let rl = ["--round", "1", "--stage", "rl", "--penalize-empty", "false", "--answer-reward", "alone"];
        let (line, _) = train(&place, &[&rl[..], flags].concat());
        let of = |name: &str| place.numbers("rl", name)[0];
        let gain = of("answer_probability/with") - of("answer_probability/without");
        (of("mean_reward"), gain, of("rollouts"), line)
    };
    for flags in [
        &["--answer-weight", "2"][..],
        &["--answer-weight", "2", "--neutral-score", "0.9", "--algorithm", "grpo"],
        &["--answer-weight", "2", "--reward", "rationale"],
        &["--answer-weight", "2", "--algorithm", "dpo", "--dpo-margin", "1e-6"],
    ] {
        let (found, gain, count, _) = reward(flags);
        assert!(gain.abs() > 1e-6, "rationales tell the model something");
        assert!((found - 2.0 * gain).abs() < 1e-5, "{flags:?}: {found} {gain}");
        assert_eq!(count, rollouts.iter().filter(|row| !row.sentences.is_empty()).count() as f64);
    }
    // With `product`, the Teacher's scores count less if the correct answer is less likely.
    let scored = place.copy();
    scored.write_scores(&rollouts, |score| score.score = 1.0);
    let product = [
        "--answer-reward",
        "product",
        "--answer-weight",
        "1",
        "--neutral-score",
        "0",
        "--reward",
        "rationale",
    ];
    let rl = ["--round", "1", "--stage", "rl", "--penalize-empty", "false"];
    train(&scored, &[&rl[..], &product].concat());
    let with = scored.numbers("rl", "answer_probability/with")[0];
    let found = scored.numbers("rl", "mean_reward")[0];
    assert!((found - with).abs() < 1e-5, "{found} {with}");

    let mut problems = place.dataset().problems().expect("problems");
    for problem in problems.iter_mut().filter(|problem| problem.problem_id == rollouts[0].problem_id) {
        problem.answer_index = None;
    }
    schemas::table::write(&place.dataset().problems_path(), problems, &crate::small::provenance())
        .expect("written");
    let (.., line) = reward(&["--answer-weight", "1"]);
    assert!(line.contains(" of problems with a hidden answer"), "{line}");
}

/// dpo prefers the rationale that makes the correct answer more likely, by a margin of its probability.
#[test]
fn pairs_are_made_by_the_answer() {
    let place = Place::new(40);
    eval(&place, &["--checkpoint", "base"]);
    train(&place, &["--round", "1", "--stage", "rollout"]);
    let flags = ["--algorithm", "dpo", "--dpo-margin", "1e-6"];
    train(&place, &[&["--round", "1"], &ALONE[..], &flags].concat());
    assert!(place.numbers("rl", "pairs")[0] > 5.0);
}
