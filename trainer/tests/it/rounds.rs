//! The stages of rounds, and the sources of dpo pairs, through the real `train`.

use crate::small::Place;
use crate::t5::read_student;
use schemas::{Metric, Rationale, Rollout};

fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = place.train(arguments).output().expect("train");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Rollouts of round 2, scored.
fn second_round(place: &Place) -> Vec<Rollout> {
    succeeds(place, &["--round", "2", "--stage", "rollout"]);
    let rollouts: Vec<Rollout> = place.dataset().read(2).expect("rollouts");
    place.write_scores(&rollouts, |_| {});
    rollouts
}

#[test]
fn rounds_of_rl_follow_one_another() {
    let place = Place::new(40).scored();
    let said = succeeds(&place, &["--round", "1", "--stages", "rl"]);
    assert!(said.contains("round 1: complete; next: train --round 2"), "{said}");
    assert!(place.dataset().read::<Rationale>(1).expect("rationales").is_empty(), "nothing to correct");
    let after = read_student(&place.checkpoint("round-1/rl")).expect("student").weights.fingerprint();
    assert!(succeeds(&place, &["--round", "1", "--stages", "rl"]).contains("round 1: complete"));

    let rollouts = second_round(&place);
    assert!(rollouts.iter().all(|row| row.policy == after), "sampled by the policy after RL");
    assert!(rollouts.iter().any(|row| row.logprobs != row.ref_logprobs), "the base student is the reference");
    // A complete round may follow.
    let said = succeeds(&place, &["--round", "2"]);
    assert!(said.contains("rationales wait for corrections"), "{said}");

    // Without the setting, no round can follow one without fine-tuning.
    let place = Place::new(40).scored();
    place.stage("rl");
    let output = place.train(&["--round", "2"]).output().expect("train");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected the policy of round 1, found none"));
}

#[test]
fn dpo_learns_from_samples_and_from_corrections() {
    let fast =
        ["--algorithm", "dpo", "--rl-learning-rate", "3e-3", "--minibatch", "8", "--accumulation", "1"];
    let start = Place::new(40).scored();
    let place = start.copy();
    let said = succeeds(&place, &[&["--round", "1", "--stage", "rl"], &fast[..]].concat());
    assert!(said.contains("rl: dpo on "), "{said}");
    assert!(place.numbers("rl", "pairs")[0] > 5.0);
    let accuracy = place.numbers("rl", "accuracy");
    assert_eq!(accuracy[0], 0.0, "the policy prefers nothing to what it was");
    assert!(accuracy.last() > Some(&0.9), "{accuracy:?}");

    // Corrections of round 1, learned in round 2.
    let place = Place::new(40).fine_tuned();
    second_round(&place);
    let corrections = ["--dpo-pairs", "corrections"];
    succeeds(&place, &[&["--round", "2", "--stage", "rl"], &fast[..], &corrections].concat());
    let rows: Vec<Metric> = place.dataset().read(2).expect("metrics");
    let of = |name: &str| -> Vec<f64> {
        let own = rows.iter().filter(|row| row.name == name && row.stage == "rl");
        own.map(|row| row.value).collect()
    };
    assert!(of("pairs")[0] > 5.0);
    assert!(of("margin").last() > Some(&0.0));
}
