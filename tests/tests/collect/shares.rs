//! Corrections for a share of the problems: what is pending, what a larger share adds, what a smaller one leaves.

use crate::shared::{Place, Tables, fast, files};
use schemas::Rationale;
use schemas::share::Share;
use std::collections::BTreeSet;
use std::time::Duration;
use workspace_tests::command::{collect_feedback, start};
use workspace_tests::teacher_service::{BatchOptions, Options};

/// Sets `sft.corrections_share`; `None` leaves it unset.
fn set(place: &Place, share: Option<f64>) {
    let share = share.map_or_else(String::new, |share| format!("[sft]\ncorrections_share = {share}\n"));
    let text = format!("[teacher]\nsamples_per_request = 1\n{share}");
    std::fs::write(place.path().join("ares.toml"), text).unwrap();
}

/// Problems of a share of round 1 whose rationales could be corrected.
fn of_share(place: &Place, share: f64) -> BTreeSet<String> {
    let share = Share::of_round(share, 42, 1);
    let problems = place.dataset.read::<Rationale>(1).unwrap().into_iter().map(|row| row.problem_id);
    problems.filter(|problem| share.contains(problem)).collect()
}

fn corrected(tables: &Tables) -> BTreeSet<String> {
    tables.corrections.iter().map(|row| row.problem_id.clone()).collect()
}

#[test]
fn all_are_scored_and_a_share_is_corrected() {
    let place = Place::new(40, 2);
    let service = place.service(fast());
    let expected = of_share(&place, 0.4);
    assert!(expected.len() > 5 && expected.len() < 35, "{}", expected.len());
    set(&place, Some(0.4));
    let estimate =
        |place: &Place| place.reference(&["estimate", "--round", "1", "--stage", "corrections"]).stdout;
    let pending = |count: usize| format!("\n  items pending   {count:>12}\n");
    assert!(estimate(&place).contains(&pending(expected.len())), "{}", estimate(&place));
    let ran = place.collect(&service, &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("round 1: 80 rollouts scored"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains(&format!("round 1: {} rationales corrected", expected.len())),
        "{}",
        ran.stdout
    );
    assert_eq!(corrected(&place.tables()), expected);

    // Nothing is pending, in either program.
    let before = files(place.path());
    let ran = place.collect(&service, &[]);
    let told = format!("round 1: {} rationales have corrections; nothing to do", expected.len());
    assert!(ran.stdout.contains(&told), "{}", ran.stdout);
    assert_eq!(before, files(place.path()));
    let status = place.reference(&["status"]).stdout;
    let account = format!(
        "round 1, corrections: 40 rationales = {} corrected + 0 rejected + 0 waiting + 0 empty + {} outside the round's share",
        expected.len(),
        40 - expected.len()
    );
    assert!(status.contains(&account) && status.contains("The books balance."), "{status}");
    assert!(estimate(&place).contains(&pending(0)), "{}", estimate(&place));

    // A larger share adds to it, and buys nothing twice.
    let larger = of_share(&place, 0.8);
    assert!(expected.is_subset(&larger));
    set(&place, Some(0.8));
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains(&format!(" + {} waiting + ", larger.len() - expected.len())), "{status}");
    let ran = place.collect(&service, &[]);
    let more = format!("round 1: {} rationales corrected", larger.len() - expected.len());
    assert!(ran.stdout.contains(&more), "{}", ran.stdout);
    assert_eq!(corrected(&place.tables()), larger);
    assert_eq!(service.stats().bought_again(), 0);

    // Answers bought by a killed run are kept, although they are outside the share now.
    set(&place, Some(0.4));
    let folder = place.path().join("corrections").join("round-1");
    let mut parts: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.sort();
    assert_eq!(parts.len(), 2, "{parts:?}");
    std::fs::remove_file(&parts[1]).unwrap();
    let ran = place.collect(&service, &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(corrected(&place.tables()), larger);
    assert_eq!(service.stats().bought_again(), 0);
    assert!(place.reference(&["status"]).stdout.contains("The books balance."));

    // A smaller one removes nothing, not even when the tables are rebuilt.
    set(&place, Some(0.1));
    let kept = place.tables();
    let told = format!("round 1: {} rationales have corrections; nothing to do", larger.len());
    let ran = place.collect(&service, &[]);
    assert!(ran.stdout.contains(&told), "{}", ran.stdout);
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert_eq!(place.tables().corrections, kept.corrections);
    assert!(place.reference(&["status"]).stdout.contains("The books balance."));
    // The flag has the same effect as the file.
    set(&place, None);
    let ran = place.collect(&service, &["--corrections-share", "0.8"]);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    assert!(ran.stdout.contains("next: train --round 1 --corrections-share 0.8"), "{}", ran.stdout);
}

/// Corrections in a batch are paid for, even if none of them is asked for by now: each run says how to fetch them.
#[test]
fn a_batch_that_was_sent_for_a_larger_share_is_fetched() {
    let place = Place::new(20, 1);
    let latency = Duration::from_secs(2);
    let service =
        place.service(Options { batch: BatchOptions { latency, ..BatchOptions::default() }, ..fast() });
    let url = service.url();
    let arguments =
        ["--round", "1", "--stage", "corrections", "--batch", "--teacher", "openai", "--base-url", &url];
    let mut child = start(collect_feedback(place.path(), &arguments)).unwrap();
    while service.stats().batches == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let open = |said: &str| {
        let line = said.lines().find(|line| line.contains("is open at the service")).map(ToOwned::to_owned);
        line.unwrap_or_else(|| panic!("{said}"))
    };
    let told =
        "1 batch with 20 requests to openai/gpt-6-luna for corrections of round 1 is open at the service";
    for share in [0.4, 1e-9] {
        set(&place, Some(share));
        let ran = place.collect(&service, &["--stage", "corrections"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(open(&ran.stderr).starts_with(&format!("note: {told}")), "{share}: {}", ran.stderr);
    }
    assert_eq!(service.stats().requests, 20, "nothing is sent again");
    let line = open(&place.reference(&["status"]).stdout);
    let (what, command) = line.split_once("; to fetch its results: collect-feedback ").unwrap();
    assert_eq!(what, told);
    let data = format!(" --data {}", place.path().display());
    let arguments: Vec<&str> = command.strip_suffix(&data).unwrap().split(' ').collect();
    let ran = place.reference(&arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("round 1: 20 rationales corrected"), "{}", ran.stdout);
    assert_eq!(corrected(&place.tables()).len(), 20);
    assert_eq!((service.stats().batches, service.stats().bought_again()), (1, 0));
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance.") && !status.contains("open at the service"), "{status}");
}

#[test]
fn another_seed_and_too_small_a_share() {
    let place = Place::new(12, 1);
    set(&place, Some(1e-9));
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("sft.corrections_share = 0.000000001 chooses no train problem"),
        "{}",
        ran.stdout
    );
    set(&place, Some(0.5));
    let ran = place.reference(&["--round", "1", "--rollout-seed", "7"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let share = Share::of_round(0.5, 7, 1);
    let expected: BTreeSet<String> =
        of_share(&place, 1.0).into_iter().filter(|id| share.contains(id)).collect();
    assert_eq!(corrected(&place.tables()), expected);
    assert_ne!(expected, of_share(&place, 0.5));
}
