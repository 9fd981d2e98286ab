//! Settings of `[rl]` that limit steps, and rollouts without scores, through the real `train`.

use crate::small::Place;
use crate::t5::read_student;
use schemas::{Rollout, Score};

/// One minibatch per step.
const SMALL: [&str; 4] = ["--minibatch", "8", "--accumulation", "1"];

/// A learning rate far too high.
const FAST: [&str; 2] = ["--rl-learning-rate", "1e-2"];

fn learned(start: &Place, flags: &[&str]) -> Place {
    learned_with(start, &[&FAST, flags].concat())
}

fn learned_with(start: &Place, flags: &[&str]) -> Place {
    let place = start.copy();
    let output =
        place.train(&["--round", "1", "--stage", "rl"]).args(SMALL).args(flags).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place
}

/// The effect of a step is known before the next one is taken: the step is undone, and training ends.
#[test]
fn training_ends_at_the_kl_bound() {
    let start = Place::new(40).scored();
    let slow = ["--rl-learning-rate", "1e-3", "--schedule", "constant"];
    let free = learned_with(&start, &[&slow[..], &["--max-kl", "0"]].concat());
    let free = free.numbers("rl", "drift");
    let bound = free[free.len() / 2] / 2.0;
    let place = start.copy();
    let bound_told = bound.to_string();
    let rl = [&["--round", "1", "--stage", "rl"][..], &SMALL, &slow, &["--max-kl", &bound_told]].concat();
    let output = place.train(&rl).output().expect("train");
    let line = String::from_utf8_lossy(&output.stdout);
    let found = place.numbers("rl", "drift");
    let first = free.iter().position(|kl| *kl > bound).expect("above the bound");
    assert_eq!(found, free[..first], "alike, and then no step");
    let expected = format!("ended at rl.max_kl after {} of {} steps", first - 1, free.len());
    assert!(line.contains(&expected), "{expected}: {line}");
    assert_eq!(place.numbers("rl", "stopped_at_kl"), [free[first]]);
}

/// Ratios, and therefore all training, refer to the sampling distribution; the softmax at temperature 1 has other ratios.
#[test]
fn temperature_and_top_p_are_part_of_the_policy() {
    let drawn = ["--rollout-temperature", "0.5", "--top-p", "0.8"];
    let start = Place::new(40).scored_with(&drawn);
    let first = |flags: &[&str]| {
        let place = learned(&start, &[&drawn[..], flags].concat());
        (place.numbers("rl", "sampler_entropy")[0], place.numbers("rl", "kl_to_sampler")[0])
    };
    let (sampled, kl) = first(&[]);
    let (full, _) = first(&["--logprobs", "full"]);
    assert!(kl < 1e-6, "ratios start at 1: {kl}");
    assert!(sampled < 0.8 * full, "surprise at what was sampled: {sampled}, at temperature 1 {full}");
}

#[test]
fn the_norm_of_the_gradient_is_clipped() {
    let start = Place::new(40).scored();
    let moved = |flags: &[&str]| {
        let place = learned(&start, flags);
        let weights = |name: &str| read_student(&place.checkpoint(name)).expect("student").weights;
        let (before, after) = (weights("base"), weights("round-1/rl"));
        let square = |(name, weight): (&str, &tch::Tensor)| {
            (weight - before.get(name)).square().sum(tch::Kind::Double).double_value(&[])
        };
        let norms = place.numbers("rl", "gradient_norm");
        (after.iter().map(square).sum::<f64>().sqrt(), norms[0])
    };
    let (free, norm) = moved(&["--rl-max-grad-norm", "0", "--max-kl", "0"]);
    // Below AdamW's epsilon of 1e-8, steps shrink with the gradient.
    let (clipped, same) = moved(&["--rl-max-grad-norm", "1e-9", "--rl-weight-decay", "0"]);
    assert!(clipped * 20.0 < free, "{clipped} {free}");
    assert_eq!(norm, same, "what is logged is the norm before clipping");
}

#[test]
fn values_that_moved_far_stop_pulling() {
    let flags = ["--baseline", "sampled", "--value-init", "random", "--value-loss", "true", "--max-kl", "0"];
    let start = Place::new(40).scored_with(&flags);
    let losses = |more: &[&str]| learned(&start, &[&flags[..], more].concat()).numbers("rl", "value_loss");
    let (free, clipped) = (losses(&[]), losses(&["--value-clip", "1e-6"]));
    assert_eq!(free.len(), clipped.len());
    assert!((free[0] - clipped[0]).abs() < 1e-6, "values have not moved yet");
    let sum = |losses: &[f64]| losses.iter().sum::<f64>();
    assert!(sum(&clipped) > sum(&free) * 1.05, "{clipped:?} {free:?}");
}

#[test]
fn the_kl_coefficient_follows_the_kl_of_the_round() {
    let place = Place::new(40).fine_tuned();
    let output = place.train(&["--round", "2", "--stage", "rollout"]).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.write_scores(&place.dataset().read::<Rollout>(2).expect("rollouts"), |_| {});
    for (target, factor) in [("1e-6", 1.5), ("1e6", 0.5)] {
        let place = place.copy();
        let train = place.train(&["--round", "2", "--stage", "rl", "--kl-target", target]).output();
        let output = train.expect("train");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<schemas::Metric> = place.dataset().read(2).expect("metrics");
        let of = |name: &str| rows.iter().find(|row| row.name == name).expect("a number").value;
        assert!(of("kl_to_reference") > 1e-3, "the policy has moved from the base student");
        assert!((of("kl_coefficient") - 1e-4 * factor).abs() < 1e-12, "{}", of("kl_coefficient"));
        let before: Vec<schemas::Metric> = place.dataset().read(1).expect("metrics");
        let before = before.iter().find(|row| row.name == "mean_sentence_score").expect("a number").value;
        let line = String::from_utf8_lossy(&output.stdout);
        let expected =
            format!("mean sentence score {:.3} ({before:.3} in round 1)", of("mean_sentence_score"));
        assert!(line.contains(&expected), "{expected}: {line}");
    }
}

#[test]
fn a_few_rollouts_may_lack_scores() {
    let place = Place::new(40);
    place.stage("rollout");
    let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let with_sentences: Vec<&Rollout> = rollouts.iter().filter(|row| !row.sentences.is_empty()).collect();
    let without = with_sentences[3].rollout_id.clone();
    let scored: Vec<Rollout> = rollouts.iter().filter(|row| row.rollout_id != without).cloned().collect();
    place.write_scores(&scored, |_| {});
    let rl = |flags: &[&str]| {
        let place = place.copy();
        let rl = ["--round", "1", "--stage", "rl", "--penalize-empty", "false"];
        let output = place.train(&rl).args(flags).output().expect("train");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8_lossy(&output.stdout).into_owned(), place)
    };
    let (line, place_after) = rl(&[]);
    assert!(line.contains("1 not scored"), "{line}");
    assert_eq!(place_after.numbers("rl", "rollouts"), [(with_sentences.len() - 1) as f64]);
    let (line, place_after) = rl(&["--min-coverage", "1"]);
    assert!(line.contains("1 rationale waits for scores"), "{line}");
    assert!(!place_after.checkpoint("round-1/rl").exists());
    assert!(place.dataset().read::<Score>(1).expect("scores").iter().all(|row| row.rollout_id != without));
}

#[test]
fn rollouts_of_another_seed_have_values_of_another_head() {
    let sampled = ["--baseline", "sampled"];
    let place = Place::new(10).scored_with(&sampled);
    let said = |flags: &[&str]| {
        let place = place.copy();
        let rl = [&["--round", "1", "--stage", "rl"], &sampled[..], flags].concat();
        let output = place.train(&rl).output().expect("train");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let warning = "warning: 20 of 20 rollouts were not sampled with rollout.seed = 7";
    assert!(said(&["--seed", "7"]).contains(warning));
    assert!(!said(&[]).contains("not sampled with"));
    assert!(
        !said(&["--seed", "7", "--algorithm", "grpo"]).contains("not sampled with"),
        "no values are used"
    );
}

#[test]
fn what_the_samples_are_like_is_told() {
    let place = learned(&Place::new(40).scored(), &["--penalize-empty", "false"]);
    let rollouts: Vec<Rollout> = place.dataset().read(1).expect("rollouts");
    let scores: Vec<Score> = place.dataset().read(1).expect("scores");
    let share = |counts: fn(&Rollout) -> bool| {
        rollouts.iter().filter(|row| counts(row)).count() as f64 / rollouts.len() as f64
    };
    assert_eq!(place.numbers("rl", "truncated/rollouts"), [share(|row| row.truncated)]);
    assert_eq!(place.numbers("rl", "empty/rollouts"), [share(|row| row.sentences.is_empty())]);
    assert_eq!(place.numbers("rl", "repeated/rollouts").len(), 1);
    // In round 1 the policy is the reference, so the reward consists of the scores alone.
    let sum: f64 = scores.iter().map(|row| f64::from(row.score) - 0.5).sum();
    let with_sentences = rollouts.iter().filter(|row| !row.sentences.is_empty()).count();
    let found = place.numbers("rl", "mean_reward")[0];
    assert!((found - sum / with_sentences as f64).abs() < 1e-5, "{found}");
}

#[test]
fn rollouts_do_not_depend_on_what_is_decoded_together() {
    let start = Place::new(40);
    let sampled = |together: &str| {
        let place = start.copy();
        let flags = ["--round", "1", "--stage", "rollout", "--decode-batch", together];
        let flags = [&flags[..], &["--baseline", "sampled", "--value-init", "random"]].concat();
        assert!(place.train(&flags).output().expect("train").status.success());
        place.dataset().read::<Rollout>(1).expect("rollouts")
    };
    let expected = sampled("32");
    for together in ["1", "2", "6"] {
        for (found, expected) in sampled(together).iter().zip(&expected) {
            assert_eq!((&found.rollout_id, &found.token_ids), (&expected.rollout_id, &expected.token_ids));
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(close(&found.logprobs, &expected.logprobs) && close(&found.values, &expected.values));
        }
    }
}

/// A learning rate that ruins the policy: it is reported, and with `rl.keep = best` the round continues with the starting policy.
#[test]
fn a_policy_that_became_worse_is_told_and_may_be_left() {
    let start = Place::new(40);
    let mut problems = start.dataset().problems().expect("problems");
    problems.iter_mut().step_by(5).for_each(|problem| problem.split = "val".into());
    schemas::table::write(&start.dataset().problems_path(), problems, &crate::small::provenance())
        .expect("written");
    let base = start.checkpoint("base");
    let better = start.checkpoint("better");
    let (from, out) = (base.display().to_string(), better.display().to_string());
    let learn = ["--epochs", "30", "--sft-learning-rate", "1e-2"];
    let pretrain = [&["pretrain", "--from", &from, "--out", &out][..], &learn].concat();
    assert!(start.train(&pretrain).output().expect("train").status.success());
    std::fs::remove_dir_all(&base).expect("removed");
    std::fs::rename(&better, &base).expect("renamed");
    let start = start.scored();
    let ruined = |keep: &str, more: &[&str]| {
        let place = start.copy();
        let rate = ["--rl-learning-rate", "1", "--max-kl", "0", "--kl-penalty", "0", "--rl-keep", keep];
        let rl = [&["--round", "1", "--stage", "rl"][..], &SMALL, &rate, more].concat();
        let output = place.train(&rl).output().expect("train");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("ROUGE-L on val fell from"), "{said}");
        assert!(said.contains("it moved far from the sampling policy"), "{said}");
        let (before, after) =
            (place.numbers("rl", "rouge_l/before")[0], place.numbers("rl", "rouge_l/after")[0]);
        assert!(before > after, "{before} {after}");
        let half = place.numbers("rl", "rouge_l/half_width")[0];
        assert!(half > 0.0 && half < before - after, "{half}");
        assert!(place.numbers("rl", "sentences/before")[0] > 0.0);
        let kept = place.numbers("rl", "kept_start")[0] > 0.0;
        assert_eq!(kept, keep == "best");
        (String::from_utf8_lossy(&output.stdout).into_owned(), place)
    };
    let weights = |place: &Place, name: &str| {
        read_student(&place.checkpoint(name)).expect("student").weights.fingerprint()
    };
    let (line, place) = ruined("last", &[]);
    let reward = place.numbers("rl", "mean_reward")[0];
    assert!(line.contains(&format!(", mean reward {reward:.3}, ROUGE-L on val 0.")), "{line}");
    assert!(line.contains(" (change -0.") && !line.contains("chance"), "{line}");
    assert_ne!(weights(&place, "round-1/rl"), weights(&place, "base"));
    let (line, place) = ruined("best", &[]);
    assert!(line.contains("(the starting policy is kept)"), "{line}");
    assert_eq!(weights(&place, "round-1/rl"), weights(&place, "base"));
    // With LoRA the next stage is given an adapter, as it would be otherwise.
    let (_, place) = ruined("best", &["--student-lora-rank", "4"]);
    assert!(place.checkpoint("round-1/rl/adapter_config.json").is_file());
}

/// The reward of a rationale grows by its increase of the correct option's probability, regardless of its sentences.
#[test]
fn the_right_answer_is_part_of_the_reward() {
    let place = Place::new(40).scored();
    let weighted = ["--answer-weight", "2", "--penalize-empty", "false"];
    let rl = [&["--round", "1", "--stage", "rl"][..], &weighted].concat();
    let lines = crate::small::error_lines(&place.train(&rl).output().expect("train")).join("\n");
    assert!(lines.contains("rl.answer_weight: expected the answer model, found none"), "{lines}");
    assert!(lines.contains("next: train eval --checkpoint base"), "{lines}");

    let eval = ["eval", "--checkpoint", "base", "--answer-epochs", "1"];
    assert!(place.train(&eval).output().expect("train").status.success());
    let reward = |place: &Place| place.numbers("rl", "mean_reward")[0];
    let plain = reward(&learned(&place, &["--penalize-empty", "false"]));
    for algorithm in ["ppo", "grpo"] {
        for unit in ["sentence", "rationale"] {
            let flags = [&weighted[..], &["--reward", unit, "--algorithm", algorithm]].concat();
            let with = learned(&place, &flags);
            let of = |name: &str| with.numbers("rl", &format!("answer_probability/{name}"))[0];
            assert!(of("without") > 0.05 && of("with") < 0.95, "{} {}", of("without"), of("with"));
            assert!((of("with") - of("without")).abs() > 1e-6, "rationales tell the model something");
            if unit == "sentence" {
                let found = reward(&with) - plain;
                let expected = 2.0 * (of("with") - of("without"));
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
