//! Rounds on a share of the problems, through the real `train`.

use crate::small::{Place, error_lines};
use schemas::share::Share;
use schemas::{Correction, Rollout};
use std::collections::BTreeSet;

fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = place.train(arguments).output().expect("train");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn train_problems(place: &Place, share: &Share) -> BTreeSet<String> {
    let problems = place.dataset().problems().expect("problems").into_iter();
    let train = problems.filter(|problem| problem.split == "train").map(|problem| problem.problem_id);
    train.filter(|problem| share.contains(problem)).collect()
}

fn sampled(place: &Place, round: u32) -> BTreeSet<String> {
    place.dataset().read::<Rollout>(round).expect("rollouts").into_iter().map(|row| row.problem_id).collect()
}

/// Each round samples different problems; a larger share adds to them.
#[test]
fn rounds_sample_other_problems() {
    let place = Place::new(60);
    let seed = schemas::Settings::default().rollout.seed;
    let rl = ["--stages", "rl", "--problems-share", "0.35"];
    let shares = [1, 2].map(|round| Share::of_round(0.35, seed, round));
    let expected = shares.map(|share| train_problems(&place, &share));
    assert!(expected[0].is_disjoint(&expected[1]) && expected.iter().all(|problems| problems.len() > 5));
    for (round, number) in [(1, "1"), (2, "2")] {
        let flags = [&["--round", number], &rl[..]].concat();
        succeeds(&place, &flags);
        assert_eq!(sampled(&place, round), expected[round as usize - 1]);
        place.write_scores(&place.dataset().read(round).expect("rollouts"), |_| {});
        if round == 1 {
            let wider = place.copy();
            succeeds(&wider, &["--round", "1", "--stage", "rollout", "--problems-share", "0.7"]);
            let all = train_problems(&place, &Share::of_round(0.7, seed, 1));
            assert!(expected[0].is_subset(&all) && sampled(&wider, 1) == all);
        }
        assert!(succeeds(&place, &flags).contains(&format!("round {round}: complete")));
    }
    let none = place.train(&["--round", "3", "--problems-share", "1e-9"]).output().expect("train");
    let lines = error_lines(&none).join("\n");
    assert!(
        lines.contains("rollout.problems_share = 0.000000001: expected train problems in the round's share"),
        "{lines}"
    );
}

/// Fine-tuning waits for the corrections of its share, and learns from all available ones.
#[test]
fn a_share_of_the_rationales_is_corrected() {
    let place = Place::new(60).scored();
    place.stage("rl");
    let share = ["--round", "1", "--corrections-share", "0.4", "--seed", "7"];
    let expected = train_problems(&place, &Share::of_round(0.4, 7, 1));
    place.write_corrections(|_| {});
    let all: Vec<Correction> = place.dataset().read(1).expect("corrections");
    let wanted: Vec<Correction> =
        all.iter().filter(|row| expected.contains(&row.problem_id)).cloned().collect();
    assert!(wanted.len() > 5 && wanted.len() < all.len());
    let with = |rows: &[Correction]| {
        place.dataset().write_part(1, "test", rows.to_vec(), &crate::small::provenance()).expect("written");
    };
    with(&wanted[1..]);
    let said = succeeds(&place, &share);
    let expected = "round 1: 1 rationale waits for corrections; next: collect-feedback --round 1";
    assert!(said.contains(expected), "{said}");
    assert!(
        said.contains(" --sft-corrections-share 0.4 --rollout-seed 7")
            || said.contains(" --rollout-seed 7 --sft-corrections-share 0.4"),
        "{said}"
    );

    // More corrections than the share are accepted.
    let other = all.iter().find(|row| !expected.contains(&row.problem_id)).expect("another").clone();
    with(&[&wanted[..], &[other]].concat());
    let said = succeeds(&place, &[&share[..], &["--stage", "sft"]].concat());
    assert!(said.contains(&format!("sft: {} corrections learned", wanted.len() + 1)), "{said}");

    let place = Place::new(20).scored();
    place.stage("rl");
    let none = place.train(&["--round", "1", "--corrections-share", "1e-9"]).output().expect("train");
    let lines = error_lines(&none).join("\n");
    assert!(lines.contains("sft.corrections_share = 0.000000001: expected train problems"), "{lines}");
}
