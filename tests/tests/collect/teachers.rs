//! A round's answers of a kind come from one Teacher, unless the user allows others.

use crate::shared::{Place, fast, files};
use schemas::{Provenance, Rationale};
use std::collections::BTreeMap;
use std::time::Duration;
use workspace_tests::command::collect_feedback;
use workspace_tests::small_dataset::rationale;
use workspace_tests::teacher_service::{Fault, Faults, Options};

const SCORES: [&str; 2] = ["--stage", "scores"];

fn teachers(place: &Place) -> BTreeMap<String, usize> {
    let mut teachers = BTreeMap::new();
    for row in place.tables().scores {
        *teachers.entry(row.teacher).or_default() += 1;
    }
    teachers
}

/// A round partly scored by a Teacher before its credit ran out.
fn half_scored(model: &str) -> Place {
    let place = Place::new(40, 2);
    let faults = Faults { seed: 1, share: 1.0, kinds: vec![Fault::NoMoney], after: 10 };
    let service = place.service(Options { faults, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores", "--model", model, "--concurrency", "2"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let scored = place.tables().scores.len();
    assert!(scored > 0 && scored < 240, "{scored}");
    place
}

/// Runs a command that a message named.
fn named(place: &Place, ran: &str, begins: &str) -> Vec<String> {
    let line =
        ran.lines().find_map(|line| line.split(begins).nth(1)).unwrap_or_else(|| panic!("{begins}: {ran}"));
    let line = line.split("collect-feedback ").nth(1).unwrap();
    let mut words: Vec<String> = line.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect();
    let data = words.iter().position(|word| word == "--data").unwrap();
    assert_eq!(words[data + 1], place.path().display().to_string());
    words.truncate(data);
    words
}

#[test]
fn another_teacher_is_refused_before_anything_is_sent_or_changed() {
    let place = half_scored("gpt-4o");
    let before = files(place.path());
    let first = teachers(&place);
    // The flags are forgotten: the embedded Teacher would fill the rest.
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("rollouts by gpt-4o; reference-v2 would answer the rest"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--mix-teachers"), "{}", ran.stderr);
    // Another model of the same service.
    let service = place.service(fast());
    let other = place.collect(&service, &["--stage", "scores", "--model", "gpt-4.1"]);
    assert_eq!(other.status, Some(2), "{}", other.stderr);
    assert_eq!(service.stats().requests, 0);
    let tables_of = |files: Vec<(std::path::PathBuf, u64, std::time::SystemTime)>| {
        files
            .into_iter()
            .filter(|file| file.0.extension().is_some_and(|ext| ext == "parquet"))
            .collect::<Vec<_>>()
    };
    assert_eq!(tables_of(files(place.path())), tables_of(before), "nothing was changed");

    // The command that continues with the first.
    let go_on = named(&place, &ran.stderr, "to continue with gpt-4o: ");
    assert_eq!(go_on, ["--round", "1", "--stage", "scores", "--teacher", "openai", "--model", "gpt-4o"]);
    let ran = place.collect(&service, &["--stage", "scores", "--model", "gpt-4o"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let all = teachers(&place);
    assert_eq!((all.len(), all["gpt-4o"]), (1, 240), "{first:?}");
    // Nothing is pending, so no Teacher is refused.
    let ran = place.reference(&[&["--round", "1"][..], &SCORES].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    assert!(ran.stderr.contains("note: answers of gpt-4o, not of reference-v2, to "), "{}", ran.stderr);
    // Corrections are independent of scores.
    assert_eq!(place.reference(&["--round", "1", "--stage", "corrections"]).status, Some(0));
}

#[test]
fn the_embedded_teacher_is_a_teacher() {
    let place = Place::new(12, 2);
    assert_eq!(place.reference(&[&["--round", "1"][..], &SCORES].concat()).status, Some(0));
    // More rollouts come.
    workspace_tests::small_dataset::write_rollouts(&place.dataset, "00000", 0..12, 3).unwrap();
    let service = place.service(fast());
    let ran = place.collect(&service, &SCORES);
    assert_eq!(ran.status, Some(2), "{}{}", ran.stdout, ran.stderr);
    let go_on = named(&place, &ran.stderr, "to continue with reference-v2: ");
    assert_eq!(go_on, ["--round", "1", "--stage", "scores", "--teacher", "reference"]);
    let words: Vec<&str> = go_on.iter().map(String::as_str).collect();
    let ran = place.reference(&words);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(teachers(&place).len(), 1);
    assert_eq!(service.stats().requests, 0);
}

#[test]
fn several_teachers_are_allowed_where_that_is_asked_for_and_the_report_says_so() {
    let place = half_scored("gpt-4o");
    let service = place.service(fast());
    let more = ["--stage", "scores", "--model", "gpt-4.1", "--mix-teachers"];
    let ran = place.collect(&service, &more);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let teachers = teachers(&place);
    assert_eq!((teachers.len(), teachers.values().sum::<usize>()), (2, 240), "{teachers:?}");
    let ran = place.reference(&["report", "--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let html = std::fs::read_to_string(place.path().join("report-round-1.html")).unwrap();
    assert!(html.contains("Several Teachers answered this round"), "no banner");
    for (teacher, rows) in teachers {
        assert!(html.contains(&format!("{teacher}: {rows}")), "{teacher} {rows}");
    }
}

#[test]
fn what_a_killed_run_bought_counts_before_it_is_in_the_tables() {
    let place = Place::new(40, 4);
    let slow = place.service(Options { latency: Duration::from_millis(40), ..Options::default() });
    let url = slow.url();
    let mut arguments = vec!["--round", "1", "--teacher", "openai", "--model", "gpt-4o", "--base-url", &url];
    arguments.extend(["--stage", "scores", "--concurrency", "4"]);
    let mut child =
        collect_feedback(place.path(), &arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    while slow.stats().good < 30 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.tables().scores.is_empty());
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("--teacher openai --model gpt-4o"), "{}", ran.stderr);
    assert!(place.tables().scores.is_empty() && place.tables().requests.is_empty());
}

#[test]
fn each_baseline_and_order_of_judgements_has_a_teacher_of_its_own() {
    let place = Place::new(12, 1);
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let rows = (0..12).map(|number| rationale(number, round, stage, "test"));
        let rows = rows.map(|row| Rationale { deduplicated: format!("{} {stage}", row.deduplicated), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
    let faults = Faults { seed: 1, share: 1.0, kinds: vec![Fault::NoMoney], after: 4 };
    let broke = place.service(Options { faults, ..fast() });
    let url = broke.url();
    let judge = |more: &[&str]| {
        let mut arguments = vec!["judge", "--round", "1"];
        arguments.extend(more);
        place.reference(&arguments)
    };
    let flags = ["--teacher", "openai", "--model", "gpt-4o", "--concurrency", "1", "--base-url", &url];
    assert_eq!(judge(&flags).status, Some(1));
    let some = place.tables().judgements.len();
    assert!(some > 0 && some < 12, "{some}");
    let ran = judge(&[]);
    assert_eq!(ran.status, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stderr
            .contains("collect-feedback judge --round 1 --against base --teacher openai --model gpt-4o"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("discard --round 1 --stage judgements --against base --teacher openai --model gpt-4o"),
        "{}",
        ran.stderr
    );
    let ran = judge(&["--against", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

#[test]
fn next_lines_carry_the_flags_that_name_the_teacher() {
    let place = Place::new(6, 2);
    let faults = Faults { seed: 3, share: 1.0, kinds: vec![Fault::Refusal], after: 0 };
    let service = place.service(Options { faults, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores", "--model", "gpt-4o"]);
    let expected = format!(
        "collect-feedback --round 1 --retry-rejects --teacher openai --model gpt-4o --base-url {} --data {}",
        service.url(),
        place.path().display()
    );
    assert!(ran.stdout.contains(&expected) || ran.stderr.contains(&expected), "{}{}", ran.stdout, ran.stderr);
}
