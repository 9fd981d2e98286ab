//! Batch mode: the same tables at half the price, and nothing bought twice despite failures.

use crate::shared::{Place, Tables, fast};
use std::process::Command;
use std::time::{Duration, Instant};
use workspace_tests::command::{Ran, collect_feedback, run, start};
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, TeacherService};

const TEACHERS: [(&str, &str); 2] = [("anthropic", "claude-haiku-4-5"), ("openai", "gpt-4o")];

fn ask(place: &Place, service: &TeacherService, teacher: &str, model: &str, more: &[&str]) -> Ran {
    let url = service.url();
    let mut arguments = vec!["--round", "1", "--teacher", teacher, "--model", model, "--base-url", &url];
    arguments.extend(more);
    run(collect_feedback(place.path(), &arguments)).unwrap()
}

fn dollars(tables: &Tables) -> f64 {
    tables.requests.iter().map(|row| row.cost_usd.unwrap()).sum()
}

fn options(batch: BatchOptions) -> Options {
    Options { batch, ..fast() }
}

#[test]
fn same_tables_at_half_the_price() {
    for (teacher, model) in TEACHERS {
        let single = Place::new(30, 4);
        let service = single.service(fast());
        assert_eq!(ask(&single, &service, teacher, model, &[]).status, Some(0));

        let place = Place::new(30, 4);
        let service =
            place.service(options(BatchOptions { latency: Duration::from_secs(1), ..Default::default() }));
        let ran = ask(&place, &service, teacher, model, &["--batch"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains(": 114 requests, "), "{}", ran.stderr);
        assert!(ran.stderr.contains("0/114 completed, checking again in"), "{}", ran.stderr);
        assert!(
            ran.stdout.contains("round 1: 120 rollouts scored, 0 rejected, 6 shared a reply; 114 requests"),
            "{}",
            ran.stdout
        );
        let stats = service.stats();
        assert_eq!(
            (stats.batches, stats.requests, stats.bought_again()),
            (2, 144, 0),
            "scores and corrections"
        );
        let (half, whole) = (dollars(&place.tables()), dollars(&single.tables()));
        assert!(whole > 0.0 && (half / whole - 0.5).abs() < 1e-6, "{half} of {whole}");
        assert_eq!(place.tables().without_effort(), single.tables().without_effort());
        assert!(ask(&place, &service, teacher, model, &["--batch"]).stdout.contains("nothing to do"));
        let before = place.tables();
        assert_eq!(place.reference(&["rebuild"]).status, Some(0));
        assert_eq!(place.tables(), before);
        assert_eq!(service.stats().batches, 2);
    }
}

#[test]
fn everything_that_passes_passes() {
    let calm = Place::new(40, 4);
    let service = calm.service(fast());
    assert_eq!(ask(&calm, &service, "openai", "gpt-4o", &[]).status, Some(0));
    let expected = calm.tables().without_effort();
    for (teacher, model) in TEACHERS {
        let place = Place::new(40, 4);
        let batch = BatchOptions {
            expire: 1,
            cut_submissions: 1,
            cut_results: 2,
            failing_looks: 2,
            ..Default::default()
        };
        let faults = Faults { seed: 11, share: 0.3, kinds: Fault::PASSING.to_vec(), after: 0 };
        let service = place.service(Options { faults, ..options(batch) });
        let ran = ask(&place, &service, teacher, model, &["--batch"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("without an answer"), "{}", ran.stderr);
        let tables = place.tables().without_effort();
        assert_eq!(
            (tables.scores.len(), tables.corrections.len()),
            (expected.scores.len(), expected.corrections.len())
        );
        assert!(
            tables
                .scores
                .iter()
                .zip(&expected.scores)
                .all(|(a, b)| (&a.rollout_id, a.score) == (&b.rollout_id, b.score))
        );
        assert!(tables.rejects.is_empty());
        assert_eq!(service.stats().bought_again(), 0, "{teacher}");
    }
}

#[test]
fn lasting_faults_are_rejects() {
    for (teacher, model) in TEACHERS {
        let kinds = vec![Fault::Refusal, Fault::Truncated, Fault::BadRequest];
        let place = Place::new(50, 4);
        let service =
            place.service(Options { faults: Faults { seed: 3, share: 0.2, kinds, after: 0 }, ..fast() });
        let ran = ask(&place, &service, teacher, model, &["--stage", "scores", "--batch"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let tables = place.tables();
        let count = |reason: &str| tables.rejects.iter().filter(|row| row.reason.starts_with(reason)).count();
        assert!(
            count("refusal") > 0 && count("truncated") > 0 && count("bad request: ") > 0,
            "{:?}",
            tables.rejects
        );
        assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 200, "the books balance");
    }
}

#[test]
fn kill_nine_between_any_two_steps_buys_nothing_twice() {
    for (teacher, model) in TEACHERS {
        let calm = Place::new(60, 4);
        let service = calm.service(fast());
        assert_eq!(ask(&calm, &service, teacher, model, &["--stage", "scores", "--batch"]).status, Some(0));
        let expected = calm.tables();
        let needed = service.stats().requests;

        // A slow submission leaves time to be killed after the batch was taken and before its id is known.
        let place = Place::new(60, 4);
        let batch = BatchOptions {
            latency: Duration::from_secs(2),
            submit_latency: Duration::from_millis(400),
            ..Default::default()
        };
        let service = place.service(options(batch));
        let url = service.url();
        let arguments = [
            "--round",
            "1",
            "--stage",
            "scores",
            "--teacher",
            teacher,
            "--model",
            model,
            "--base-url",
            &url,
            "--batch",
        ];
        let mut kills = 0;
        for moment in [20, 60, 120, 200, 300, 400, 600, 900, 1_300, 2_600] {
            let mut child = start(collect_feedback(place.path(), &arguments)).unwrap();
            std::thread::sleep(Duration::from_millis(moment));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        let ran = run(collect_feedback(place.path(), &arguments)).unwrap();
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let stats = service.stats();
        assert!(kills >= 5, "{kills}");
        assert_eq!(
            (stats.requests, stats.bought_again()),
            (needed, 0),
            "{teacher}: {} batches",
            stats.batches
        );
        assert_eq!(place.tables(), expected);
    }
}

#[test]
fn interrupt_leaves_the_batch_running_and_a_run_without_batches_does_not_buy_it_again() {
    let place = Place::new(30, 4);
    let latency = Duration::from_secs(4);
    let service = place.service(options(BatchOptions { latency, ..Default::default() }));
    let url = service.url();
    let arguments =
        ["--round", "1", "--stage", "scores", "--teacher", "openai", "--base-url", &url, "--batch"];
    let mut command = collect_feedback(place.path(), &arguments);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let begun = Instant::now();
    let child = command.spawn().unwrap();
    while service.stats().batches == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    let next = "1 batches with 114 requests are still running at the service (batch_0); next: collect-feedback --round 1 --stage scores --batch";
    assert!(said.contains(next), "{said}");
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("are in a batch at the service and were skipped"), "{}", ran.stderr);
    std::thread::sleep(latency.saturating_sub(begun.elapsed()));
    let ran = run(collect_feedback(place.path(), &arguments)).unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!((service.stats().requests, service.stats().batches), (114, 1));
    assert_eq!(place.tables().scores.len(), 360);
}

#[test]
fn cap_is_checked_before_a_batch_is_sent() {
    let calm = Place::new(60, 4);
    let service = calm.service(fast());
    assert_eq!(ask(&calm, &service, "openai", "gpt-4o", &["--stage", "scores", "--batch"]).status, Some(0));
    let whole = dollars(&calm.tables());
    let place = Place::new(60, 4);
    let service = place.service(fast());
    let cap = whole / 2.0;
    let arguments = ["--stage", "scores", "--batch", "--max-usd"];
    let ran = ask(&place, &service, "openai", "gpt-4o", &[&arguments[..], &[&cap.to_string()]].concat());
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    let spent = dollars(&place.tables());
    assert!(spent > 0.3 * cap && spent <= cap, "cap {cap}, spent {spent}");
    let ran = ask(&place, &service, "openai", "gpt-4o", &[&arguments[..], &["100"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().bought_again(), 0);
    assert_eq!(place.tables().without_effort(), calm.tables().without_effort());
}

#[test]
fn batch_that_is_refused_as_a_whole_ends_the_run() {
    let place = Place::new(6, 2);
    let service = place.service(options(BatchOptions { fail_first: true, ..Default::default() }));
    let ran = ask(&place, &service, "openai", "gpt-4o", &["--stage", "scores", "--batch"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("batch_0 failed: token_limit_exceeded: too many tokens waiting"),
        "{}",
        ran.stderr
    );
    let ran = ask(&place, &service, "openai", "gpt-4o", &["--stage", "scores", "--batch"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().scores.len(), 36);
}

/// Unreadable results leave the batch open: nothing is bought again unless the user asks for it.
#[test]
fn results_that_cannot_be_read_are_bought_again_only_where_that_is_said() {
    for (teacher, model) in TEACHERS {
        let place = Place::new(10, 2);
        let service = place.service(options(BatchOptions { garble_lines: 1, ..Default::default() }));
        let flags = ["--batch", "--stage", "scores"];
        for _ in 0..2 {
            let ran = ask(&place, &service, teacher, model, &flags);
            assert_eq!(ran.status, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains("results cannot be read"), "{}", ran.stderr);
            assert!(ran.stderr.contains("--abandon-batch"), "{}", ran.stderr);
            assert_eq!(service.stats().batches, 1, "nothing is sent again");
        }
        let kept = place.tables().requests.iter().filter(|row| !row.cached).count();
        assert!(kept > 0, "the others are kept");
        // Reading them again costs nothing.
        let losses = |place: &Place| -> f64 {
            let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
            cache
                .query_row("SELECT coalesce(sum(likely_usd), 0.0) FROM losses", [], |row| row.get(0))
                .unwrap()
        };
        assert_eq!(losses(&place), 0.0);
        let id = if teacher == "anthropic" { "msgbatch_0" } else { "batch_0" };
        let ran = ask(&place, &service, teacher, model, &[&flags[..], &["--abandon-batch", id]].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(place.tables().scores.len(), 60);
        assert_eq!(service.stats().good, 20 + (20 - kept as u64), "only what has no answer");
        assert!(losses(&place) > 0.0, "what was abandoned may have been charged");
    }
}
