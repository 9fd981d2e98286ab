//! `discard` and `undiscard`: a Teacher's answers are removed from a round and restored, and nothing is paid
//! for twice without the user's consent.

use crate::shared::{Place, Tables, fast};
use schemas::{Provenance, Rationale};
use std::collections::BTreeSet;
use workspace_tests::command::Ran;
use workspace_tests::small_dataset::rationale;
use workspace_tests::teacher_service::{Fault, Faults, Options};

const WHICH: [&str; 4] = ["--round", "1", "--stage", "scores"];

fn teachers(tables: &Tables) -> BTreeSet<String> {
    tables.scores.iter().map(|row| row.teacher.clone()).collect()
}

fn command(place: &Place, verb: &str, more: &[&str]) -> Ran {
    place.reference(&[&[verb], &WHICH[..], more].concat())
}

fn spent(place: &Place) -> f64 {
    place.tables().requests.iter().filter_map(|row| row.cost_usd).sum()
}

/// A round scored by gpt-4o, with some rejects.
fn scored() -> (Place, Tables) {
    let place = Place::new(20, 3);
    let faults = Faults { seed: 3, share: 0.2, kinds: vec![Fault::Refusal], after: 0 };
    let service = place.service(Options { faults, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores", "--model", "gpt-4o"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert!(!tables.rejects.is_empty() && !tables.scores.is_empty());
    (place, tables)
}

#[test]
fn answers_leave_the_tables_and_come_back_without_a_request() {
    let (place, before) = scored();
    let paid = spent(&place);
    let ran = command(&place, "discard", &["--teacher", "openai", "--model", "gpt-4o"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("requests for scores by gpt-4o discarded"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("to undo: collect-feedback undiscard --round 1 --stage scores"),
        "{}",
        ran.stdout
    );
    let tables = place.tables();
    assert_eq!((tables.scores.len(), tables.rejects.len()), (0, 0));
    assert_eq!(tables.requests, before.requests, "what was paid stays in the ledger");
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance."), "{status}");
    // Repeating it changes nothing.
    assert!(command(&place, "discard", &[]).stdout.contains("no answers of scores to change"));
    // A rebuild does not restore them.
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert_eq!(place.tables().scores.len(), 0);

    // The same Teacher is not paid twice without the user's consent.
    let service = place.service(fast());
    let again = ["--stage", "scores", "--model", "gpt-4o"];
    let ran = place.collect(&service, &again);
    assert_eq!((ran.status, service.stats().requests), (Some(2), 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("collect-feedback undiscard --round 1 --stage scores"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--ask-discarded"), "{}", ran.stderr);

    let ran = command(&place, "undiscard", &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables(), before);
    assert!((spent(&place) - paid).abs() < 1e-12);
    assert!(command(&place, "undiscard", &[]).stdout.contains("no answers of scores to change"));
    assert!(place.collect(&service, &again).stdout.contains("nothing to do"));
    assert_eq!(service.stats().requests, 0);
}

#[test]
fn another_teacher_may_answer_then_and_the_first_comes_back_only_in_its_place() {
    let (place, before) = scored();
    assert_eq!(command(&place, "discard", &[]).status, Some(0));
    let service = place.service(fast());
    let ran = place.collect(&service, &["--stage", "scores", "--model", "gpt-4.1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let second = place.tables();
    assert_eq!(teachers(&second), ["gpt-4.1".to_owned()].into());
    assert_eq!((second.scores.len(), second.rejects.len()), (180, 0));
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance."), "{status}");

    let ran = command(&place, "undiscard", &["--model", "gpt-4o"]);
    assert_eq!(ran.status, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("--model gpt-4.1"), "{}", ran.stderr);
    assert_eq!(place.tables(), second);
    assert_eq!(command(&place, "discard", &["--model", "gpt-4.1"]).status, Some(0));
    assert_eq!(command(&place, "undiscard", &["--model", "gpt-4o"]).status, Some(0));
    let after = place.tables();
    assert_eq!((after.scores, after.rejects), (before.scores, before.rejects));
}

#[test]
fn what_was_discarded_is_asked_again_where_that_is_asked_for() {
    let (place, before) = scored();
    let distinct = before.requests.iter().filter(|row| !row.cached).count() as u64;
    assert_eq!(command(&place, "discard", &[]).status, Some(0));
    let service = place.service(fast());
    let again = ["--stage", "scores", "--model", "gpt-4o", "--ask-discarded"];
    let ran = place.collect(&service, &again);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, distinct);
    let tables = place.tables();
    assert_eq!(tables.scores.len(), 180);
    let old: BTreeSet<_> = before.requests.iter().map(|row| row.request_key.clone()).collect();
    assert!(tables.scores.iter().all(|row| !old.contains(&row.request_key)), "new requests");
    assert!(tables.requests.len() > before.requests.len());
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance."), "{status}");
    // With or without the flag, nothing is pending.
    assert!(place.collect(&service, &again).stdout.contains("nothing to do"));
    assert!(place.collect(&service, &again[..4]).stdout.contains("nothing to do"));
    assert_eq!(service.stats().requests, distinct);
}

/// The store is marked, and the kill comes before the tables are written.
#[test]
fn a_discard_that_was_killed_is_completed_by_the_next_command() {
    for next in ["discard", "collect", "rebuild"] {
        let (place, before) = scored();
        let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
        cache
            .execute_batch(
                "INSERT INTO discarded SELECT DISTINCT scope, round, request_key, 1 FROM subjects;
                 INSERT INTO rewrites VALUES ('scores', 1);",
            )
            .unwrap();
        drop(cache);
        assert_eq!(place.tables(), before);
        let service = place.service(fast());
        match next {
            "discard" => assert_eq!(command(&place, "discard", &[]).status, Some(0)),
            "collect" => {
                let ran = place.collect(&service, &["--stage", "scores", "--model", "gpt-4.1"]);
                assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            }
            _ => assert_eq!(place.reference(&["rebuild"]).status, Some(0)),
        }
        assert!(!teachers(&place.tables()).contains("gpt-4o"), "{next}");
        // The same for `undiscard`.
        if next == "discard" {
            let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
            cache.execute_batch("DELETE FROM discarded; INSERT INTO rewrites VALUES ('scores', 1);").unwrap();
            drop(cache);
            let ran = place.reference(&["--round", "1", "--stage", "scores"]);
            assert!(ran.stdout.contains("nothing to do"), "{}{}", ran.stdout, ran.stderr);
            assert_eq!(place.tables(), before);
        }
    }
}

#[test]
fn judgements_are_discarded_by_their_baseline() {
    let place = Place::new(12, 1);
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let rows = (0..12).map(|number| rationale(number, round, stage, "test"));
        let rows = rows.map(|row| Rationale { deduplicated: format!("{} {stage}", row.deduplicated), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
    let service = place.service(fast());
    let url = service.url();
    for against in ["base", "1"] {
        let arguments = [
            "judge",
            "--round",
            "1",
            "--against",
            against,
            "--both-orders",
            "--teacher",
            "openai",
            "--base-url",
            &url,
        ];
        let ran = place.reference(&arguments);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    let rows = |against: &str| {
        place.tables().judgements.into_iter().filter(|row| row.against == against).collect::<Vec<_>>()
    };
    assert_eq!((rows("base").len(), rows("1").len()), (24, 24));
    let (base, sent) = (rows("base"), service.stats().requests);
    let which = ["--round", "1", "--stage", "judgements", "--against", "base"];
    let ran = place.reference(&[&["discard"], &which[..]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!((rows("base").len(), rows("1").len()), (0, 24));
    let ran = place.reference(&[&["undiscard"], &which[..]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let sorted = |mut rows: Vec<schemas::Judgement>| {
        rows.sort_by_key(|row| (row.problem_id.clone(), row.candidate_shown_first));
        rows
    };
    assert_eq!(sorted(rows("base")), sorted(base));
    assert_eq!(service.stats().requests, sent);
}

#[test]
fn there_may_be_nothing_to_discard() {
    let place = Place::new(3, 1);
    for verb in ["discard", "undiscard"] {
        let ran = command(&place, verb, &[]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("no answers of scores to change"), "{}", ran.stdout);
    }
    assert!(!place.dataset.feedback_path().exists());
    assert_eq!(place.reference(&["discard", "--round", "1"]).status, Some(2), "the stage is named");
}
