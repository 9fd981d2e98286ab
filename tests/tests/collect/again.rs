//! What is requested again, and what must not be: repeated stages, rejects after their cause was fixed,
//! outages, batches that the service does not list.

use crate::shared::{Place, Tables, fast};
use schemas::{Answer, Correction, Problem, Provenance, Rationale, table};
use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;
use workspace_tests::command::collect_feedback;
use workspace_tests::small_dataset::write_rollouts;
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, TeacherService};

/// The service answers `after` requests, and then fails this way.
fn then(fault: Fault, after: u64) -> Options {
    Options { faults: Faults { seed: 1, share: 1.0, kinds: vec![fault], after }, ..fast() }
}

fn keys(tables: &Tables) -> HashSet<String> {
    tables.corrections.iter().map(|row| row.request_key.clone()).collect()
}

#[test]
fn a_stage_that_was_done_again_is_asked_about_what_it_says_now() {
    let place = Place::new(40, 1);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &[]).status, Some(0));
    let before = place.tables();
    // RL is repeated: other texts under the same ids.
    let mut rationales: Vec<Rationale> = place.dataset.read(1).unwrap();
    for row in rationales.iter_mut().filter(|row| row.stage == "rl") {
        row.deduplicated.push_str("\nThis was said later.");
    }
    for folder in ["rationales/round-1", "corrections/round-1"] {
        std::fs::remove_dir_all(place.path().join(folder)).unwrap();
    }
    place.dataset.write_part(1, "again", rationales, &Provenance::new("test", "")).unwrap();

    let stopping = place.service(then(Fault::NoMoney, 10));
    let ran = place.collect(&stopping, &["--concurrency", "2"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let (some, old) = (place.tables(), keys(&before));
    assert!(some.corrections.len() >= 10 && some.corrections.len() < 40, "{}", some.corrections.len());
    let is_new =
        |row: &Correction| row.original.ends_with("This was said later.") && !old.contains(&row.request_key);
    assert!(some.corrections.iter().all(is_new), "no old reply under a new text");

    assert_eq!(place.collect(&service, &[]).status, Some(0));
    let after = place.tables();
    assert_eq!(after.corrections.len(), 40);
    assert!(after.corrections.iter().all(is_new));
    assert_eq!(after.scores, before.scores);
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert_eq!(place.tables().corrections, after.corrections);
}

/// `train` stops with the same message; neither program sends the user to the other.
#[test]
fn rationales_that_are_all_empty_are_told_as_what_they_are() {
    let place = Place::new(6, 1);
    let mut rationales: Vec<Rationale> = place.dataset.read(1).unwrap();
    for row in &mut rationales {
        (row.rationale, row.deduplicated, row.sentences) = (String::new(), String::new(), Vec::new());
    }
    std::fs::remove_dir_all(place.path().join("rationales/round-1")).unwrap();
    place.dataset.write_part(1, "empty", rationales, &Provenance::new("test", "")).unwrap();
    let service = place.service(fast());
    for arguments in [&[][..], &[], &["--stage", "corrections"]] {
        let ran = place.collect(&service, arguments);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains(&Rationale::nothing_to_correct(1)), "{}", ran.stdout);
        assert!(!ran.stdout.contains("next: train"), "{}", ran.stdout);
    }
}

/// For a dataset without val and test problems, `train` writes a part of answers without rows.
#[test]
fn a_round_without_problems_to_answer_is_over_too() {
    let place = Place::new(6, 1);
    let problems: Vec<Problem> = place.dataset.problems().unwrap();
    let train = problems.into_iter().map(|problem| Problem { split: "train".into(), ..problem });
    table::write(&place.dataset.problems_path(), train, &Provenance::new("test", "")).unwrap();
    let service = place.service(fast());
    let ran = place.collect(&service, &[]);
    assert!(ran.stdout.contains("next: train --round 1"), "{}{}", ran.stdout, ran.stderr);
    place.dataset.write_part::<Answer>(1, "sft", Vec::new(), &Provenance::new("test", "")).unwrap();
    assert!(place.collect(&service, &[]).stdout.contains("next: train --round 2"));
    let judged = place.reference(&["judge", "--round", "1"]);
    assert!(
        judged.stdout.contains("the dataset has no test problems, so there is nothing to judge"),
        "{}",
        judged.stdout
    );
}

#[test]
fn rejects_are_asked_anew_where_that_is_asked_for() {
    let calm = Place::new(30, 4);
    let service = calm.service(fast());
    assert_eq!(calm.collect(&service, &["--stage", "scores"]).status, Some(0));

    let place = Place::new(30, 4);
    let picture = place.path().join("images/p0.png");
    let bytes = std::fs::read(&picture).unwrap();
    std::fs::remove_file(&picture).unwrap();
    let kinds = vec![Fault::Truncated, Fault::Refusal];
    let bad = place.service(Options { faults: Faults { seed: 3, share: 0.3, kinds, after: 0 }, ..fast() });
    assert_eq!(place.collect(&bad, &["--stage", "scores"]).status, Some(0));
    let rejected = place.tables().rejects;
    let (missing, others): (Vec<_>, Vec<_>) =
        rejected.iter().partition(|row| row.reason.starts_with("missing image"));
    assert!(missing.len() == 4 && others.len() > 10, "{rejected:?}");
    let distinct: HashSet<&String> = others.iter().map(|row| &row.request_key).collect();

    std::fs::write(&picture, bytes).unwrap();
    assert!(place.collect(&service, &["--stage", "scores"]).stdout.contains("nothing to do"));
    let estimated = |more: &[&str]| -> usize {
        let mut arguments = vec!["estimate", "--round", "1", "--stage", "scores", "--teacher", "openai"];
        arguments.extend(more);
        let said = place.reference(&arguments).stdout;
        let line = said.lines().find(|line| line.trim_start().starts_with("requests")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap()
    };
    let requests = estimated(&["--retry-rejects"]);
    assert!(requests >= distinct.len() && requests <= distinct.len() + 4, "{requests}, {}", distinct.len());
    assert_eq!(estimated(&[]), 0);
    // Cut off in the middle, it continues with the same requests.
    let again = ["--stage", "scores", "--retry-rejects", "--concurrency", "2"];
    let stopping = place.service(then(Fault::NoMoney, 5));
    assert_eq!(place.collect(&stopping, &again).status, Some(1));
    assert!(!place.tables().rejects.is_empty());
    let rest = place.service(fast());
    let ran = place.collect(&rest, &again);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!(tables.rejects, []);
    let answers = |tables: &Tables| -> Vec<(String, u32, f32)> {
        tables.scores.iter().map(|row| (row.rollout_id.clone(), row.sentence_index, row.score)).collect()
    };
    assert_eq!(answers(&tables), answers(&calm.tables()));
    let sent = stopping.stats().good + rest.stats().good;
    assert!(sent >= distinct.len() as u64 && sent <= distinct.len() as u64 + 4, "{sent}, {}", distinct.len());
    let ran = place.collect(&rest, &again);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    let status = place.reference(&["status"]);
    assert!(!status.stdout.contains("do not balance"), "{}", status.stdout);
}

#[test]
fn an_outage_in_the_middle_rejects_nothing() {
    for fault in [Fault::Overloaded, Fault::Internal, Fault::Limited] {
        let place = Place::new(40, 4);
        let service = place.service(then(fault, 30));
        let ran =
            place.collect(&service, &["--stage", "scores", "--timeout-secs", "2", "--concurrency", "8"]);
        assert_eq!(ran.status, Some(1), "{fault:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("run the same command again"), "{fault:?}: {}", ran.stderr);
        let tables = place.tables();
        assert_eq!(tables.rejects, [], "{fault:?}");
        assert!(tables.scores.len() >= 90, "{fault:?}");
        let good = service.stats().good;
        let calm = place.service(fast());
        assert_eq!(place.collect(&calm, &["--stage", "scores"]).status, Some(0));
        assert_eq!(place.tables().scores.len(), 480);
        assert_eq!(good + calm.stats().good, 152, "{fault:?}: nothing is paid for twice");
    }
}

#[test]
fn paid_replies_in_another_envelope_are_kept() {
    let place = Place::new(40, 4);
    let service = place.service(Options { faults: Faults::only(Fault::Strange, 0.1), ..fast() });
    let model = ["--stage", "scores", "--model", "gpt-4o", "--concurrency", "4"];
    let ran = place.collect(&service, &model);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let rejects = place.tables().rejects;
    assert!(
        !rejects.is_empty() && rejects.iter().all(|row| row.reason.starts_with("malformed: ")),
        "{rejects:?}"
    );
    assert!(service.stats().seen.values().all(|times| *times == 1), "each is bought once");
    let paid = place.tables().requests.into_iter().filter(|row| row.status == "malformed" && !row.cached);
    assert!(
        paid.clone().count() > 0 && paid.clone().all(|row| row.cost_usd.is_some_and(|dollars| dollars > 0.0))
    );

    // If none can be read, the run stops before everything is bought.
    let place = Place::new(40, 4);
    let service = place.service(then(Fault::Strange, 0));
    let ran = place.collect(&service, &model);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("replies, none readable"), "{}", ran.stderr);
    assert!((10..30).contains(&service.stats().requests), "{}", service.stats().requests);
}

const BATCH: [&str; 3] = ["--stage", "scores", "--batch"];

fn in_batches(batch: BatchOptions) -> Options {
    Options { batch, ..fast() }
}

/// Sends a batch and interrupts the run that waits for it.
fn sent(place: &Place, service: &TeacherService, more: &[&str]) {
    let url = service.url();
    let arguments = ["--round", "1", "--teacher", "openai", "--base-url", &url];
    let mut command = collect_feedback(place.path(), &[&arguments[..], &BATCH[..], more].concat());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    while service.stats().batches == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_batch_that_is_not_to_be_seen_is_not_bought_again_unasked() {
    let place = Place::new(10, 2);
    let latency = Duration::from_secs(60);
    let service = place.service(in_batches(BatchOptions { latency, ..Default::default() }));
    sent(&place, &service, &[]);
    // At the same address, with another account's key: it knows nothing of the batch.
    let port = service.url().rsplit(':').next().unwrap().parse().unwrap();
    drop(service);
    std::thread::sleep(Duration::from_millis(200));
    let other = place.service(Options { port, ..fast() });
    let ran = place.collect(&other, &BATCH);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("batch batch_0 was sent to "), "{}", ran.stderr);
    assert!(ran.stderr.contains("use the key of the workspace or project that sent it"), "{}", ran.stderr);
    assert_eq!(other.stats().requests, 0);
    let ran = place.collect(&other, &[&BATCH[..], &["--abandon-batch", "batch_9"]].concat());
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    let ran = place.collect(&other, &[&BATCH[..], &["--abandon-batch", "batch_0"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().scores.len(), 60);
}

#[test]
fn a_setting_that_all_requests_are_refused_for_rejects_nothing() {
    let place = Place::new(10, 2);
    let service = place.service(then(Fault::BadRequest, 0));
    let ran = place.collect(&service, &BATCH);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("every request of the batch was refused"), "{}", ran.stderr);
    assert_eq!(place.tables().rejects, []);
    let mended = place.service(fast());
    assert_eq!(place.collect(&mended, &BATCH).status, Some(0));
    assert_eq!(place.tables().scores.len(), 60);
}

#[test]
fn what_runs_at_the_service_counts_under_the_cap() {
    let model = ["--model", "gpt-4o", "--max-usd"];
    let corrections = [&["--stage", "corrections"][..], &model[..], &["1"]].concat();
    // A dollar is enough for the corrections alone.
    let calm = Place::new(60, 4);
    let service = calm.service(fast());
    let ran = calm.collect(&service, &corrections);
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);

    // But not next to a batch that may cost more than that.
    let place = Place::new(60, 4);
    let latency = Duration::from_secs(60);
    let service = place.service(in_batches(BatchOptions { latency, ..Default::default() }));
    sent(&place, &service, &[&model[..], &["100"]].concat());
    let ran = place.collect(&service, &corrections);
    assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(place.tables().corrections.len(), 0);
}

#[test]
fn replies_that_come_too_late_are_waited_for_a_few_times_only() {
    let late = |share| Options {
        latency: Duration::from_millis(500), // three times that is beyond the time-out
        faults: Faults::only(Fault::Slow, share),
        ..Options::default()
    };
    let flags = ["--stage", "scores", "--timeout-secs", "1"];
    let place = Place::new(10, 2);
    let service = place.service(late(0.3));
    let ran = place.collect(&service, &flags);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!((place.tables().rejects.len(), place.tables().scores.len()), (0, 60));
    assert!(service.stats().faults.contains_key(Fault::Slow.name()));

    let place = Place::new(2, 1);
    let service = place.service(late(1.0));
    let ran = place.collect(&service, &flags);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("no reply in time"), "{}", ran.stderr);
    assert_eq!(place.tables().rejects, [], "none gets through, so it is the service");
    assert!(service.stats().requests <= 6, "{}", service.stats().requests);
}

/// What a killed run bought with another model, prompt or setting is kept, and is in the ledger.
#[test]
fn what_a_killed_run_bought_stands_whatever_is_asked_next() {
    let other_prompts = tempfile::tempdir().unwrap();
    let prompt = "Give each numbered sentence of the rationale a score from 0.0 to 1.0, as JSON.";
    std::fs::write(other_prompts.path().join("scores.md"), prompt).unwrap();
    let cases: [(&[&str], bool); 3] = [
        (&["--model", "gpt-4o", "--mix-teachers"], true),
        (&["--teacher-temperature", "0.3"], true),
        (&["--prompts", other_prompts.path().to_str().unwrap()], false),
    ];
    for (other, stands) in cases {
        let place = Place::new(60, 4);
        let slow = place.service(Options { latency: Duration::from_millis(40), ..Options::default() });
        let url = slow.url();
        let mut arguments = vec!["--round", "1", "--teacher", "openai", "--base-url", &url];
        arguments.extend(["--stage", "scores", "--concurrency", "4"]);
        let mut command = collect_feedback(place.path(), &arguments);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        while slow.stats().good < 60 {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(place.tables().scores.is_empty(), "{other:?}");
        let service = place.service(fast());
        let ran = place.collect(&service, &[&["--stage", "scores"], other].concat());
        assert_eq!(ran.status, Some(0), "{other:?}: {}", ran.stderr);
        let tables = place.tables();
        assert_eq!((tables.scores.len(), tables.rejects.len()), (720, 0), "{other:?}");
        let again = service.stats().good;
        if stands {
            assert!(again <= 228 - 60 + 4, "{other:?}: {again} bought, 60 were there");
        } else {
            assert_eq!(again, 228, "{other:?}: another prompt makes items pending again");
        }
        let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
        let paid: f64 = cache.query_row("SELECT sum(cost_usd) FROM replies", [], |row| row.get(0)).unwrap();
        let booked: f64 = tables.requests.iter().filter_map(|row| row.cost_usd).sum();
        assert!((paid - booked).abs() < 1e-9, "{other:?}: {paid} paid, {booked} in the ledger");
        let status = place.reference(&["status"]).stdout;
        assert!(status.contains("The books balance.") && !status.contains(", from a run"), "{status}");
    }
}

/// Rejects of the run itself are not retried in it: a Teacher that always refuses would be asked forever.
#[test]
fn rejects_are_asked_again_once_a_run() {
    for batch in [false, true] {
        let place = Place::new(4, 2);
        let service = place.service(then(Fault::Refusal, 0));
        let flags: &[&str] = if batch { &BATCH } else { &["--stage", "scores"] };
        assert_eq!(place.collect(&service, flags).status, Some(0));
        let first = service.stats().requests;
        let ran = place.collect(&service, &[flags, &["--retry-rejects"]].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(service.stats().requests, 2 * first, "each once more");
        assert_eq!(place.tables().rejects.len(), 8);
    }
}

/// Back to an older prompt with other settings: its answers are used again, and the tables contain them.
#[test]
fn an_older_prompts_answers_come_back_whatever_the_settings() {
    let prompts = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let prompt =
            format!("{text} each numbered sentence of the rationale a score from 0.0 to 1.0, as JSON.");
        std::fs::write(folder.path().join("scores.md"), prompt).unwrap();
        folder
    };
    let (one, two) = (prompts("Give"), prompts("Please give"));
    let place = Place::new(10, 2);
    let service = place.service(fast());
    let collect = |folder: &tempfile::TempDir, more: &[&str]| {
        let flags = ["--stage", "scores", "--prompts", folder.path().to_str().unwrap()];
        let ran = place.collect(&service, &[&flags[..], more].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let rows = place.tables().scores;
        let versions: HashSet<String> = rows.iter().map(|row| row.prompt_version.clone()).collect();
        assert_eq!((rows.len(), versions.len()), (60, 1));
        (versions, ran.stdout)
    };
    let (first, _) = collect(&one, &["--teacher-temperature", "0.5"]);
    let (second, _) = collect(&two, &[]);
    assert_ne!(first, second);
    let asked = service.stats().requests;
    assert_eq!(collect(&one, &[]).0, first);
    let (versions, said) = collect(&one, &[]);
    assert!(said.contains("nothing to do"), "{said}");
    assert_eq!((versions, service.stats().requests), (first, asked));
}

/// The ledger only grows: what was paid for rollouts that no longer exist is kept.
#[test]
fn the_ledger_keeps_what_was_paid_for_rollouts_that_are_gone() {
    let place = Place::new(10, 3);
    let service = place.service(fast());
    let flags = ["--stage", "scores", "--model", "gpt-4o"];
    assert_eq!(place.collect(&service, &flags).status, Some(0));
    let dollars =
        |place: &Place| -> f64 { place.tables().requests.iter().map(|row| row.cost_usd.unwrap()).sum() };
    let before = dollars(&place);
    for table in ["scores", "rollouts"] {
        std::fs::remove_dir_all(place.path().join(table).join("round-1")).unwrap();
    }
    write_rollouts(&place.dataset, "00000", 0..10, 2).unwrap();
    assert_eq!(place.collect(&service, &flags).status, Some(0));
    assert_eq!(place.tables().scores.len(), 60);
    assert!((dollars(&place) - before).abs() < 1e-12);
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    assert!((dollars(&place) - before).abs() < 1e-12);
    let status = place.reference(&["status"]).stdout;
    assert!(status.contains("The books balance.") && !status.contains(", from a run"), "{status}");
}

/// Items in a batch of one provider are not bought from another.
#[test]
fn what_lies_in_another_providers_batch_is_left_out() {
    let place = Place::new(6, 2);
    let service =
        place.service(in_batches(BatchOptions { latency: Duration::from_secs(600), ..Default::default() }));
    let url = service.url();
    let mut arguments = vec!["--round", "1", "--teacher", "anthropic", "--base-url", &url];
    arguments.extend(BATCH);
    let mut child =
        collect_feedback(place.path(), &arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    while service.stats().batches == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200)); // its id is written down
    child.kill().unwrap();
    child.wait().unwrap();
    let sent = service.stats().requests;
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("--batch --teacher anthropic --model claude-haiku-5-5"), "{}", ran.stderr);
    assert_eq!(service.stats().requests, sent, "nothing is paid for twice");
}
