//! The fault matrix: each fault alone, and all at random together.

use crate::shared::{Place, fast, files};
use workspace_tests::command::{collect_feedback, run};
use workspace_tests::small_dataset::{write_problems, write_rollouts};
use workspace_tests::teacher_service::{Fault, Faults, Options};

#[test]
fn each_passing_fault_alone_ends_in_the_same_tables() {
    let calm = Place::new(400, 4);
    let service = calm.service(fast());
    assert_eq!(calm.collect(&service, &[]).status, Some(0));
    let expected = calm.tables().without_effort();
    assert_eq!(expected.requests.len(), 2_000, "1,600 rollouts and 400 rationales");
    for fault in Fault::PASSING {
        let place = Place::new(400, 4);
        let service = place.service(Options { faults: Faults::only(*fault, 0.2), ..fast() });
        let ran = place.collect(&service, &[]);
        assert_eq!(ran.status, Some(0), "{fault:?}: {}", ran.stderr);
        assert_eq!(place.tables().without_effort(), expected, "{fault:?}");
        let stats = service.stats();
        assert!(stats.faults.contains_key(fault.name()), "{fault:?}");
        assert_eq!((stats.in_flight, stats.bought_again()), (0, 0), "{fault:?}");
    }
}

#[test]
fn all_faults_at_random_lose_nothing_and_buy_nothing_twice() {
    let calm = Place::new(500, 4);
    let service = calm.service(fast());
    assert_eq!(calm.collect(&service, &["--stage", "scores"]).status, Some(0));
    let expected = calm.tables().without_effort();
    let place = Place::new(500, 4);
    let faults = Faults { seed: 7, share: 0.15, kinds: Fault::PASSING.to_vec(), after: 0 };
    let service = place.service(Options { faults, ..fast() });
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().without_effort(), expected);
    assert_eq!(service.stats().bought_again(), 0);
    assert!(service.stats().faults.len() >= 8, "{:?}", service.stats().faults);
}

#[test]
fn lasting_faults_are_rejects_told_apart() {
    let kinds = vec![Fault::Refusal, Fault::Truncated, Fault::BadRequest];
    let place = Place::new(50, 4);
    let service =
        place.service(Options { faults: Faults { seed: 3, share: 0.2, kinds, after: 5 }, ..fast() });
    // Few at once: otherwise all are in flight before the first good reply.
    let ran = place.collect(&service, &["--stage", "scores", "--concurrency", "4"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    let count = |reason: &str| tables.rejects.iter().filter(|row| row.reason.starts_with(reason)).count();
    assert!(
        count("refusal") > 0
            && count("truncated") > 0
            && count("bad request: invalid_request_error: a field is wrong") > 0
    );
    assert_eq!(count("refusal") + count("truncated") + count("bad request"), tables.rejects.len());
    assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 200, "the books balance");
    assert_eq!(tables.requests.len(), 200);
    assert!(place.collect(&service, &["--stage", "scores"]).stdout.contains("nothing to do"));
}

#[test]
fn malformed_for_ever_is_rejected_after_two_follow_ups() {
    let place = Place::new(4, 1);
    let service = place.service(Options { faults: Faults::only(Fault::WrongJson, 1.0), ..fast() });
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!(tables.rejects.len(), 4);
    assert_eq!(tables.rejects[0].reason, "malformed: `scores` is missing");
    assert_eq!(tables.rejects[0].attempts, 3);
    assert_eq!(service.stats().requests, 12);
}

#[test]
fn final_errors_stop_the_run_with_everything_saved() {
    for (fault, words) in [(Fault::NoMoney, "insufficient_quota"), (Fault::BadKey, "authentication_error")] {
        let place = Place::new(50, 4);
        let service = place.service(Options {
            faults: Faults { seed: 1, share: 1.0, kinds: vec![fault], after: 60 },
            ..fast()
        });
        let ran = place.collect(&service, &["--stage", "scores", "--concurrency", "4"]);
        assert_eq!(ran.status, Some(1), "{}", ran.stdout);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("hint: "), "{}", ran.stderr);
        let saved = place.tables().scores.len() / 3;
        assert!(saved >= 60, "{saved}");
        let good = service.stats().good;
        drop(service);
        let service = place.service(fast());
        assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
        assert_eq!(good + service.stats().good, 190, "nothing is paid for twice");
        assert_eq!(place.tables().scores.len(), 600);
    }
}

#[test]
fn service_that_is_not_there() {
    let place = Place::new(3, 1);
    let arguments =
        ["--round", "1", "--teacher", "openai", "--base-url", "http://127.0.0.1:9", "--timeout-secs", "1"];
    let ran = place.reference(&arguments);
    assert_eq!(ran.status, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("the Teacher service failed"), "{}", ran.stderr);
    assert_eq!(place.tables().scores.len(), 0);
}

#[test]
fn a_key_that_the_service_quotes_is_kept_nowhere() {
    let place = Place::new(30, 4);
    let key = "sk-quoted-0123456789";
    let faults = Faults { seed: 3, share: 0.3, kinds: vec![Fault::EchoedKey], after: 5 };
    let service = place.service(Options { faults, key: Some(key.into()), ..fast() });
    let url = service.url();
    let arguments = ["--round", "1", "--teacher", "openai", "--base-url", &url, "--stage", "scores"];
    let mut command = collect_feedback(place.path(), &arguments);
    command.args(["--concurrency", "4"]).env("OPENAI_API_KEY", key);
    let ran = run(command).unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    let quoted = |reason: &str| reason.contains("the key was [key]");
    assert!(tables.rejects.iter().any(|row| quoted(&row.reason)), "{:?}", tables.rejects);
    for (path, ..) in files(place.path()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(key.len()).any(|part| part == key.as_bytes()), "{}", path.display());
    }
    assert!(!ran.stderr.contains(key) && !ran.stdout.contains(key));
}

/// A connection closed without a reply may have cost one: the budget counts it, in later runs too.
#[test]
fn what_may_have_been_lost_counts_under_the_cap() {
    let place = Place::new(60, 4);
    let faults = Faults { seed: 5, share: 0.4, kinds: vec![Fault::HangUp], after: 0 };
    let service = place.service(Options { faults, ..fast() });
    let arguments = ["--stage", "scores", "--model", "gpt-4o", "--max-usd", "0.3"];
    for _ in 0..3 {
        let ran = place.collect(&service, &arguments);
        assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
        let stats = service.stats();
        let lost = stats.faults.get("hang-up").copied().unwrap_or_default();
        let most = 2.5 * stats.input_tokens as f64 / 1e6 + 10.0 * stats.output_tokens as f64 / 1e6;
        assert!(lost > 5 && most < 0.3, "{lost} lost, ${most} paid");
    }
    let (before, stats) = (service.stats().requests, place.reference(&["status"]).stdout);
    assert!(stats.contains("may have cost"), "{stats}");
    assert_eq!(place.collect(&service, &arguments).status, Some(3));
    assert!(service.stats().requests <= before + 1, "nothing more is bought by running it again");
}

/// If a service answered before and refuses the few remaining items, they are at fault; otherwise the
/// settings are.
#[test]
fn the_last_items_can_be_rejected() {
    let place = Place::new(4, 2);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
    write_problems(&place.dataset, 0..5).unwrap();
    write_rollouts(&place.dataset, "00001", 4..5, 2).unwrap();
    let bad = place.service(Options { faults: Faults::only(Fault::BadRequest, 1.0), ..fast() });
    let ran = place.collect(&bad, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().rejects.len(), 2);

    let place = Place::new(4, 2);
    let bad = place.service(Options { faults: Faults::only(Fault::BadRequest, 1.0), ..fast() });
    let ran = place.collect(&bad, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert_eq!(place.tables().rejects, [], "no reply ever came");
}

/// Rows of another round were copied into the folder: nothing is paid for them.
#[test]
fn rollouts_of_another_round_are_refused_before_anything_is_asked() {
    let place = Place::new(4, 2);
    let (one, two) = (place.path().join("rollouts/round-1"), place.path().join("rollouts/round-2"));
    std::fs::create_dir_all(&two).unwrap();
    std::fs::copy(one.join("part-00000.parquet"), two.join("part-00000.parquet")).unwrap();
    let service = place.service(fast());
    let url = service.url();
    for command in [&["--round", "2"][..], &["estimate", "--round", "2"]] {
        let ran = place.reference(&[command, &["--teacher", "openai", "--base-url", &url]].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stdout);
        assert!(ran.stderr.contains("column `round`, row 0: expected 2, found 1"), "{}", ran.stderr);
    }
    assert_eq!(service.stats().requests, 0);
}

/// A closed output, as by `| head`, does not stop the work.
#[test]
fn a_closed_pipe_ends_nothing() {
    let place = Place::new(20, 4);
    let service = place.service(fast());
    let url = service.url();
    for arguments in [&["--round", "1", "--teacher", "openai", "--base-url", &url][..], &["status", "--json"]]
    {
        let mut command = collect_feedback(place.path(), arguments);
        let piped = std::process::Stdio::piped;
        let mut child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
    assert_eq!(place.tables().corrections.len(), 20);
}
