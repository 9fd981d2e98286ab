//! Whose fault a failure is: an item's, a setting's, the service's, or our own load's.

use crate::shared::{Place, fast};
use std::time::{Duration, Instant};
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, Shape, Shapes};

/// Requests with a fault of the item, by the share of requests that have it.
fn odd(shape: Shape, share: f64) -> Options {
    Options { shapes: Shapes::only(shape, share), ..fast() }
}

#[test]
fn a_flagged_item_is_rejected_and_the_run_goes_on() {
    let place = Place::new(50, 4);
    let service = place.service(odd(Shape::FlaggedItem, 0.1));
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert!((5..40).contains(&tables.rejects.len()), "{}", tables.rejects.len());
    assert!(tables.rejects.iter().all(|row| row.reason.starts_with("refusal")), "{:?}", tables.rejects);
    assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 200, "the books balance");
}

#[test]
fn a_refusal_of_everything_ends_the_run() {
    let place = Place::new(50, 4);
    let service = place.service(odd(Shape::FlaggedItem, 1.0));
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(service.stats().requests < 100, "{}", service.stats().requests);
}

/// A 403 without a reason, from the start or after good replies.
#[test]
fn a_key_that_loses_its_rights_ends_the_run_and_rejects_nothing() {
    for after in [0, 30] {
        let place = Place::new(20, 4);
        let faults = Faults { seed: 1, share: 1.0, kinds: vec![Fault::Forbidden], after };
        let service = place.service(Options { faults, ..fast() });
        let ran = place.collect(&service, &["--stage", "scores", "--concurrency", "4"]);
        assert_eq!(ran.status, Some(1), "{after}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("access was ended"), "{after}: {}", ran.stderr);
        assert_eq!(place.tables().rejects, [], "{after}");
    }
}

/// The same for only some items.
#[test]
fn items_that_are_not_let_through_are_rejected_while_others_are() {
    let place = Place::new(20, 4);
    let faults = Faults { seed: 1, share: 0.1, kinds: vec![Fault::Forbidden], after: 5 };
    let service = place.service(Options { faults, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores", "--concurrency", "4"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert!((1..30).contains(&tables.rejects.len()), "{:?}", tables.rejects);
    assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 80);
}

/// No other item is left as evidence, so an answered one is sent again as a probe.
#[test]
fn what_fails_for_ever_is_rejected_in_a_short_run_too() {
    let place = Place::new(6, 4);
    let service = place.service(odd(Shape::BadGatewayItem, 0.2));
    let ran = place.collect(&service, &["--stage", "scores", "--timeout-secs", "4"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert!((1..12).contains(&tables.rejects.len()), "{:?}", tables.rejects);
    assert!(tables.rejects.iter().all(|row| row.reason.starts_with("no answer: HTTP 502")));
    assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 24);
    assert!(place.collect(&service, &["--stage", "scores"]).stdout.contains("nothing to do"));
}

/// Bad items at the head of the queue do not delay the others, and are rejected long before the timeout.
#[test]
fn bad_items_do_not_stop_the_line() {
    let place = Place::new(8, 4);
    let service = place.service(odd(Shape::BadGatewayItem, 0.3));
    let start = Instant::now();
    let ran = place.collect(&service, &["--stage", "scores", "--concurrency", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert!(tables.rejects.len() >= 4, "{:?}", tables.rejects);
    assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 32);
    assert!(start.elapsed() < Duration::from_secs(60), "patience is 600 s: {:?}", start.elapsed());
}

#[test]
fn an_outage_rejects_nothing() {
    let place = Place::new(20, 4);
    let kinds = vec![Fault::Internal, Fault::Overloaded];
    let faults = Faults { seed: 1, share: 1.0, kinds, after: 20 };
    let service = place.service(Options { faults, ..fast() });
    let more = ["--stage", "scores", "--concurrency", "4", "--timeout-secs", "4"];
    let ran = place.collect(&service, &more);
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("run the same command again"), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!(tables.rejects, []);
    assert!(tables.scores.len() / 3 >= 20);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
    assert_eq!((place.tables().scores.len(), place.tables().rejects.len()), (240, 0));
}

/// A slow server that answers one by one.
#[test]
fn a_server_with_one_slot_answers_everything() {
    for more in [&[][..], &["--requests-per-minute", "60000"]] {
        let place = Place::new(20, 4);
        let latency = Duration::from_millis(60);
        let service = place.service(Options { slots: Some(1), latency, ..fast() });
        let arguments = [&["--stage", "scores", "--timeout-secs", "1"], more].concat();
        let ran = place.collect(&service, &arguments);
        assert_eq!(ran.status, Some(0), "{more:?}: {}", ran.stderr);
        let tables = place.tables();
        assert_eq!((tables.scores.len(), tables.rejects.len()), (240, 0), "{more:?}");
    }
}

#[test]
fn one_cause_behind_all_rejects_ends_the_run() {
    let cases = [(Fault::Truncated, "teacher.max_output_tokens"), (Fault::WrongJson, "--model")];
    for (fault, setting) in cases {
        let place = Place::new(60, 4);
        let service = place.service(Options { faults: Faults::only(fault, 1.0), ..fast() });
        let ran = place.collect(&service, &["--stage", "scores"]);
        assert_eq!(ran.status, Some(1), "{fault:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(setting), "{fault:?}: {}", ran.stderr);
        let (stats, rejects) = (service.stats(), place.tables().rejects.len());
        assert!(
            stats.requests < 200 && (30..60).contains(&rejects),
            "{fault:?}: {} sent, {rejects}",
            stats.requests
        );
    }
}

#[test]
fn one_cause_behind_all_rejects_of_a_batch_is_named() {
    let place = Place::new(15, 4);
    let batch = BatchOptions::default();
    let service = place.service(Options { faults: Faults::only(Fault::Truncated, 1.0), batch, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores", "--batch"]);
    assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("teacher.max_output_tokens"), "{}", ran.stderr);
    assert_eq!(place.tables().rejects.len(), 60, "what was paid is kept");
}
