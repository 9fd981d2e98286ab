//! Several opinions on a rollout: which are combined, which are awaited, and the weight of sentences on which they disagree.

use crate::small::{Place, provenance};
use schemas::{Reject, Rollout, Score};
use std::fs;

const MAIN: &str = "\n[teacher]\nprovider = \"openai\"\nmodel = \"a\"\n";
const OTHER: &str = "\n[[teachers]]\nprovider = \"anthropic\"\nmodel = \"b\"\n";

/// A place with rollouts, not scored.
fn sampled() -> Place {
    let place = Place::new(6);
    place.stage("rollout");
    place
}

/// Adds lines to the settings.
fn with(place: &Place, more: &str) -> Place {
    let copy = place.copy();
    let path = copy.path().join("ares.toml");
    let text = fs::read_to_string(&path).expect("settings");
    // Its own lines of [rl] come with those of the place.
    let text = match more.split_once("[rl]\n") {
        Some((before, rl)) => text.replace("[rl]\n", &format!("[rl]\n{rl}\n")) + before,
        None => text + more,
    };
    fs::write(path, text).expect("settings");
    copy
}

fn rollouts(place: &Place) -> Vec<Rollout> {
    place.dataset().read(1).expect("rollouts")
}

/// Adds a Teacher's scores of rollouts, each computed from the index of the sentence.
fn opine(place: &Place, of: &[Rollout], teacher: &str, repeat: Option<u32>, score: impl Fn(usize) -> f32) {
    place.write_scores(of, |_| {});
    let dataset = place.dataset();
    let mut rows: Vec<Score> = dataset.read(1).expect("scores");
    rows.retain(|row| row.teacher == "test");
    for (row, at) in rows.iter_mut().zip(0..) {
        (row.teacher, row.repeat, row.score) = (teacher.to_owned(), repeat, score(at));
    }
    let part = format!("{teacher}-{}", repeat.unwrap_or(9));
    dataset.write_part(1, &part, rows, &provenance()).expect("written");
    dataset.remove_part::<Score>(1, "test").expect("removed");
}

/// A Teacher's score: far from the other Teacher's on every fifth sentence.
fn of_a(at: usize) -> f32 {
    (at % 4) as f32 / 4.0
}

fn of_b(at: usize) -> f32 {
    if at.is_multiple_of(5) { 1.0 } else { (at % 4) as f32 / 4.0 + 0.125 }
}

/// Runs RL; returns standard output and error.
fn learn(place: &Place) -> (String, String) {
    let output = place.train(&["--round", "1", "--stage", "rl"]).output().expect("train");
    let [said, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{said}{errors}");
    (said, errors)
}

/// The policy that it learned.
fn policy(place: &Place) -> Vec<u8> {
    fs::read(place.checkpoint("round-1/rl").join("model.safetensors")).expect("learned")
}

#[test]
fn two_opinions_teach_what_their_combination_teaches() {
    let sampled = sampled();
    let all = rollouts(&sampled);
    let both = with(&sampled, &[MAIN, OTHER].concat());
    opine(&both, &all, "a", Some(0), of_a);
    opine(&both, &all, "b", Some(0), of_b);
    let (said, errors) = learn(&both);
    assert!(!errors.contains("note: round 1"), "{errors}");
    assert!(!said.contains("left out"), "{said}");
    // Their means by hand.
    let one = with(&sampled, MAIN);
    opine(&one, &all, "a", None, |at| (of_a(at) + of_b(at)) / 2.0);
    learn(&one);
    assert_eq!(policy(&both), policy(&one));

    // Of two opinions left by a removed Teacher, one counts, which is reported.
    let without = with(&sampled, MAIN);
    opine(&without, &all, "a", None, of_a);
    opine(&without, &all, "b", Some(0), of_b);
    opine(&without, &all, "a", Some(1), of_b);
    let (_, errors) = learn(&without);
    let sentence = format!("scores by a (scoring 2) on {} rollouts are not combined", all.len());
    assert!(errors.contains(&sentence), "{errors}");
    assert_ne!(policy(&without), policy(&both));
}

#[test]
fn it_waits_for_a_teacher_and_goes_on_without_one() {
    let sampled = sampled();
    let all = rollouts(&sampled);
    let some = with(&sampled, &[MAIN, OTHER].concat());
    opine(&some, &all, "a", Some(0), of_a);
    opine(&some, &all[..2], "b", Some(0), of_b);
    let (said, _) = learn(&some);
    let waiting = format!(
        "round 1: {} rationales wait for scores by b; next: collect-feedback --round 1",
        all.len() - 2
    );
    assert!(said.contains(&waiting), "{waiting}: {said}");
    assert!(!some.checkpoint("round-1/rl").exists());
    // Fewer opinions are enough.
    let enough = with(&some, &[MAIN, OTHER, "[rl]\nmin_coverage = 0.5\n"].concat());
    let (_, errors) = learn(&enough);
    let few = all.len() - 2;
    let note = format!(
        "{few} of {} scored rollouts have fewer than 2 opinions (0 were rejected, {few} are pending)",
        all.len()
    );
    assert!(errors.contains(&note), "{note}: {errors}");
    // Rejected ones are not awaited.
    let rejected = with(&some, &[MAIN, OTHER].concat());
    let rejects = all[2..].iter().map(|rollout| Reject {
        kind: "scores".into(),
        subject_id: rollout.rollout_id.clone(),
        problem_id: rollout.problem_id.clone(),
        round: 1,
        reason: "refusal".into(),
        reply: String::new(),
        attempts: 1,
        request_key: "k".into(),
        teacher: Some("b".into()),
        repeat: Some(0),
    });
    rejected.dataset().write_part(1, "rejects", rejects, &provenance()).expect("written");
    let (_, errors) = learn(&rejected);
    assert!(errors.contains(&format!("({few} were rejected, 0 are pending)")), "{errors}");
    assert_eq!(policy(&rejected), policy(&enough));
}

#[test]
fn sentences_on_which_opinions_differ_count_less_or_nothing() {
    let sampled = sampled();
    let all = rollouts(&sampled);
    let by_hand = |score: &dyn Fn(f32, f32) -> f32| {
        let one = with(&sampled, MAIN);
        opine(&one, &all, "a", None, |at| score((of_a(at) + of_b(at)) / 2.0, (of_a(at) - of_b(at)).abs()));
        learn(&one);
        policy(&one)
    };
    let both = |rl: &str| {
        let both = with(&sampled, &[MAIN, OTHER, "[rl]\n", rl].concat());
        opine(&both, &all, "a", Some(0), of_a);
        opine(&both, &all, "b", Some(0), of_b);
        let (said, _) = learn(&both);
        (policy(&both), said)
    };
    // Half of a quarter is exact in binary, so that weights agree to the bit.
    let (left_out, said) = both("max_spread = 0.25");
    assert_eq!(left_out, by_hand(&|mean, spread| if spread > 0.25 { 0.5 } else { mean }));
    assert!(said.contains("sentences on which opinions differ)"), "{said}");
    let (weighted, said) = both("max_spread = 0.25\ndisagreement = \"down_weight\"");
    let by = |mean: f32, spread: f32| 0.5 + (0.25 / spread).min(1.0) * (mean - 0.5);
    assert_eq!(weighted, by_hand(&by));
    assert!(said.contains("sentences in part, on which opinions differ)"), "{said}");
    assert_ne!(left_out, weighted);
}
