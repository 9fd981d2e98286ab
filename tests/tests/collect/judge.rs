//! Judgements: pairs in both orders, and which of them are kept.

use crate::shared::{Place, fast};
use schemas::{Judgement, Problem, Provenance, Rationale};
use std::collections::HashSet;
use workspace_tests::small_dataset::{problem, rationale};
use workspace_tests::teacher_service::{Fault, Faults, Options, TeacherService};

const PAIRS: usize = 6;

/// A dataset with rationales of the base student and of round 1 for six test problems.
fn place() -> Place {
    let place = Place::new(12, 1);
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let split = |number: usize| if number.is_multiple_of(2) { "test" } else { "train" };
        let rows = (0..12).map(|number| rationale(number, round, stage, split(number)));
        let rows = rows.map(|row| Rationale { deduplicated: format!("{} {stage}", row.deduplicated), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
    place
}

fn judge(place: &Place, service: &TeacherService, more: &[&str]) -> Vec<Judgement> {
    let url = service.url();
    let mut arguments = vec!["judge", "--round", "1", "--teacher", "openai", "--base-url", &url];
    arguments.extend(more);
    let ran = place.reference(&arguments);
    assert_eq!(ran.status, Some(0), "{more:?}: {}", ran.stderr);
    judgements(place)
}

fn judgements(place: &Place) -> Vec<Judgement> {
    let mut rows = place.tables().judgements;
    rows.sort_by_key(pair);
    rows
}

fn pair(row: &Judgement) -> (String, String, bool) {
    (row.against.clone(), row.problem_id.clone(), row.candidate_shown_first)
}

fn assert_balanced(place: &Place) {
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance."), "{status}");
}

/// A text compared with itself looks the same in both orders: one request, and a row of the ledger for each of them.
#[test]
fn pairs_that_are_shown_alike_are_booked_in_each_order() {
    let place = place();
    let service = place.service(fast());
    let rows = judge(&place, &service, &["--against", "1", "--both-orders"]);
    assert_eq!(rows.len(), 2 * PAIRS);
    let booked = |place: &Place| {
        let rows = place.tables().requests;
        (rows.len(), rows.iter().filter(|row| row.cached).count())
    };
    assert_eq!(booked(&place), (2 * PAIRS, PAIRS));
    assert_eq!(service.stats().requests, PAIRS as u64);
    assert_balanced(&place);
    judge(&place, &service, &["--against", "1", "--both-orders"]);
    assert_eq!(booked(&place), (2 * PAIRS, PAIRS), "nothing is booked twice");
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert_eq!(booked(&place), (2 * PAIRS, PAIRS));
}

/// Problems that are alike share a reply in one job, and again in the next: each has its row of the ledger in both.
#[test]
fn pairs_that_are_alike_are_booked_against_each_baseline() {
    let place = place();
    let alike = (0..12).map(|number| Problem { problem_id: problem(number).problem_id, ..problem(1) });
    schemas::table::write(&place.dataset.problems_path(), alike, &Provenance::new("test", "")).unwrap();
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let rows = (0..12).map(|number| rationale(number, round, stage, "test"));
        let rows = rows.map(|row| Rationale { deduplicated: "All marbles are red.".into(), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
    let service = place.service(fast());
    judge(&place, &service, &["--against", "base"]);
    judge(&place, &service, &["--against", "1"]);
    let rows = place.tables().requests;
    let cached = rows.iter().filter(|row| row.cached).count() as u64;
    assert_eq!(rows.len(), 24);
    assert_eq!(cached, 24 - service.stats().requests);
    assert_balanced(&place);
}

/// The same pair may have been shown in the same order for two jobs.
#[test]
fn a_rebuild_has_one_judgement_of_a_pair_in_an_order() {
    let place = place();
    let service = place.service(fast());
    judge(&place, &service, &[]);
    for table in ["judgements", "requests", "rejects"] {
        std::fs::remove_dir_all(place.path().join(table).join("round-1")).unwrap();
    }
    let rows = judge(&place, &service, &["--both-orders"]);
    assert_eq!(rows.len(), 2 * PAIRS);
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    let again = judgements(&place);
    let distinct: HashSet<_> = again.iter().map(pair).collect();
    assert_eq!((again.len(), distinct.len()), (2 * PAIRS, 2 * PAIRS));
    let verdicts =
        |rows: &[Judgement]| -> Vec<_> { rows.iter().map(|row| (pair(row), row.verdict.clone())).collect() };
    assert_eq!(verdicts(&again), verdicts(&rows));
    assert_balanced(&place);
}

/// Retrying the rejects of one job does not affect the judgements of a job with another order.
#[test]
fn judgements_of_other_orders_stay_where_rejects_are_asked_again() {
    let place = place();
    let good = place.service(fast());
    let first = judge(&place, &good, &[]);
    assert_eq!(first.len(), PAIRS);
    let bad = place.service(Options {
        faults: Faults { seed: 5, share: 0.6, kinds: vec![Fault::Refusal], after: 0 },
        ..fast()
    });
    judge(&place, &bad, &["--both-orders"]);
    let rejected = place.tables().rejects.len();
    assert!((1..PAIRS).contains(&rejected), "{rejected}");
    let all = judge(&place, &good, &["--both-orders", "--retry-rejects"]);
    assert_eq!(all.len(), 2 * PAIRS);
    assert_eq!(place.tables().rejects, []);
    let keys: HashSet<_> = all.iter().map(|row| row.request_key.clone()).collect();
    assert!(first.iter().all(|row| keys.contains(&row.request_key)), "what was paid for first still counts");
    // The same the other way round.
    assert_eq!(judge(&place, &good, &["--retry-rejects"]).len(), 2 * PAIRS);
    assert_balanced(&place);
}

/// A reject shared by two jobs and successfully retried by one of them stays answered in a rebuild.
#[test]
fn a_rebuild_takes_an_answer_before_a_reject() {
    let place = place();
    let faults = Faults { seed: 5, share: 0.6, kinds: vec![Fault::Refusal], after: 0 };
    let bad = place.service(Options { faults, ..fast() });
    judge(&place, &bad, &[]);
    let rejected = place.tables().rejects.len();
    assert!((1..PAIRS).contains(&rejected), "{rejected}");
    judge(&place, &bad, &["--both-orders"]);
    let good = place.service(fast());
    let all = judge(&place, &good, &["--both-orders", "--retry-rejects"]);
    assert_eq!((all.len(), place.tables().rejects.len()), (2 * PAIRS, 0));
    let asked = good.stats().requests;
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    let verdicts = |rows: Vec<Judgement>| -> Vec<_> {
        rows.into_iter().map(|row| (pair(&row), row.verdict, row.request_key)).collect()
    };
    assert_eq!(verdicts(judgements(&place)), verdicts(all));
    judge(&place, &good, &["--both-orders", "--retry-rejects"]);
    assert_eq!(good.stats().requests, asked, "nothing is left to ask again");
    assert_balanced(&place);
}

/// A repeated stage has other texts under the same ids.
#[test]
fn judgements_of_older_texts_are_made_anew() {
    let place = place();
    let service = place.service(fast());
    let before = judge(&place, &service, &[]);
    let mut rows: Vec<Rationale> = place.dataset.read(1).unwrap();
    rows.retain(|row| row.stage == "sft");
    rows.iter_mut().for_each(|row| row.deduplicated.push_str(" It was said later."));
    place.dataset.write_part(1, "sft", rows, &Provenance::new("test", "")).unwrap();
    let after = judge(&place, &service, &[]);
    assert_eq!((before.len(), after.len()), (PAIRS, PAIRS));
    assert!(after.iter().all(|row| row.candidate.ends_with("It was said later.")));
    assert_balanced(&place);
}

#[test]
fn without_the_base_students_rationales_the_next_command_makes_them() {
    let place = place();
    std::fs::remove_dir_all(place.path().join("rationales/round-0")).unwrap();
    let ran = place.reference(&["judge", "--round", "1"]);
    assert!(ran.stdout.contains("next: train eval"), "{}", ran.stdout);
}
