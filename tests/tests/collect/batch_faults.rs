//! Batches with late, unusual or incomplete files, interrupted submissions, refused requests, or unknown
//! costs. Nothing is bought twice, and the budget is never exceeded.

use crate::shared::{Place, Tables, fast};
use schemas::{Provenance, Rationale};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use workspace_tests::command::{Ran, collect_feedback, run};
use workspace_tests::small_dataset::rationale;
use workspace_tests::teacher_service::{
    BatchOptions, Fault, Faults, Options, Service, Shape, Shapes, TeacherService,
};

const TEACHERS: [(&str, &str); 2] = [("anthropic", "claude-haiku-4-5"), ("openai", "gpt-4o")];
const SCORES: [&str; 3] = ["--stage", "scores", "--batch"];

fn command(place: &Place, base: &str, (teacher, model): (&str, &str), more: &[&str]) -> Command {
    let asked = ["--round", "1", "--teacher", teacher, "--model", model, "--base-url", base];
    let arguments = [more, &asked[..]].concat();
    let mut command = collect_feedback(place.path(), &arguments);
    command.env("ANTHROPIC_API_KEY", "key-of-a-test").env("OPENAI_API_KEY", "key-of-a-test");
    command
}

fn ask(place: &Place, service: &TeacherService, teacher: (&str, &str), more: &[&str]) -> Ran {
    run(command(place, &service.url(), teacher, more)).unwrap()
}

fn options(batch: BatchOptions) -> Options {
    Options { batch, ..fast() }
}

/// One number that a query finds in the store; 0 before there is one.
fn stored(place: &Place, query: &str) -> f64 {
    let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
    cache.busy_timeout(Duration::from_secs(10)).unwrap();
    cache.query_row(query, [], |row| row.get(0)).unwrap_or(0.0)
}

fn losses(place: &Place) -> f64 {
    stored(place, "SELECT coalesce(sum(likely_usd), 0.0) FROM losses")
}

fn spent(tables: &Tables) -> f64 {
    tables.requests.iter().filter_map(|row| row.cost_usd).sum()
}

/// Starts a run and waits until it prints a text.
fn until_it_says(mut command: Command, words: &str) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.by_ref().map(Result::unwrap).find(|line| line.contains(words));
    assert!(said.is_some(), "it ended and did not say: {words}");
    std::thread::spawn(move || lines.for_each(drop)); // so that it can keep printing
    child
}

fn interrupt(mut child: Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// Rationales of two students, so that there is something to judge.
fn with_rationales(place: &Place) {
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let rows = (0..12).map(|number| rationale(number, round, stage, "test"));
        let rows = rows.map(|row| Rationale { deduplicated: format!("{} {stage}", row.deduplicated), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
}

#[test]
fn odd_and_late_files_are_read_for_all_kinds() {
    let odd = BatchOptions {
        empty_error_id: true,
        late_output: Duration::from_secs(2),
        double_lines: u32::MAX,
        bom: true,
        ..BatchOptions::default()
    };
    for teacher in TEACHERS {
        let tables = [BatchOptions::default(), odd.clone()].map(|batch| {
            let place = Place::new(12, 2);
            with_rationales(&place);
            let service = place.service(options(batch));
            for stage in [&["--batch"][..], &["judge", "--against", "base", "--batch"]] {
                let ran = ask(&place, &service, teacher, stage);
                assert_eq!(ran.status, Some(0), "{teacher:?}: {}", ran.stderr);
            }
            let stats = service.stats();
            assert_eq!((stats.batches, stats.bought_again(), losses(&place)), (3, 0, 0.0), "{teacher:?}");
            place.tables()
        });
        assert_eq!(tables[0], tables[1]);
        assert!(!tables[0].corrections.is_empty() && !tables[0].judgements.is_empty());
    }
}

#[test]
fn errors_in_one_envelope_more_are_what_they_say() {
    for teacher in TEACHERS {
        for kinds in [vec![Fault::BadRequest], vec![Fault::Overloaded, Fault::Limited]] {
            let place = Place::new(30, 4);
            let is_passing = !kinds.contains(&Fault::BadRequest);
            let faults = Faults { seed: 3, share: 0.2, kinds, after: 0 };
            let batch = BatchOptions { wrap_errors: true, ..BatchOptions::default() };
            let service = place.service(Options { faults, ..options(batch) });
            let ran = ask(&place, &service, teacher, &SCORES);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            let tables = place.tables();
            assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 120, "{}", ran.stderr);
            assert_eq!(tables.rejects.is_empty(), is_passing, "{:?}", tables.rejects);
            assert!(tables.rejects.iter().all(|row| row.reason.starts_with("bad request: invalid")));
        }
    }
}

/// Missing results that are in the batch's counts were paid for.
#[test]
fn missing_lines_are_waited_for_and_bought_again_only_where_that_is_said() {
    for teacher in TEACHERS {
        let place = Place::new(10, 2);
        let service = place.service(options(BatchOptions { lose_lines: 1, ..Default::default() }));
        for _ in 0..2 {
            let waiting = command(&place, &service.url(), teacher, &SCORES);
            interrupt(until_it_says(
                waiting,
                "10 of its 20 results are not available yet; checking again in",
            ));
            assert_eq!((service.stats().batches, losses(&place)), (1, 0.0));
        }
        let kept = place.tables().requests.iter().filter(|row| !row.cached).count();
        assert_eq!(kept, 10, "those that came are kept");
        let id = if teacher.0 == "anthropic" { "msgbatch_0" } else { "batch_0" };
        let ran = ask(&place, &service, teacher, &[&SCORES[..], &["--abandon-batch", id]].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!((place.tables().scores.len(), service.stats().batches), (60, 2));
        assert!(losses(&place) > 0.0);
    }
}

/// A batch that was cancelled says how many of its requests were done: the others were not charged.
#[test]
fn what_a_cancelled_batch_has_not_done_is_sent_again() {
    let place = Place::new(10, 2);
    let service = place.service(options(BatchOptions { cancel: 1, ..Default::default() }));
    let ran = ask(&place, &service, TEACHERS[1], &SCORES);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("10 of 20 answered, 10 without an answer"), "{}", ran.stderr);
    assert_eq!((place.tables().scores.len(), service.stats().batches), (60, 2));
    assert_eq!(losses(&place), 0.0);

    let place = Place::new(10, 2);
    let service = place.service(options(BatchOptions { cancel: u32::MAX, ..Default::default() }));
    let ran = ask(&place, &service, TEACHERS[1], &SCORES);
    assert!(service.stats().batches <= 8, "endless retries: {}", ran.stderr);
}

/// A run that is killed while a batch is sent, and whose service is gone afterwards.
#[test]
fn a_batch_whose_service_is_gone_is_given_up_by_our_own_name_of_it() {
    for teacher in TEACHERS {
        let place = Place::new(10, 2);
        let slow = BatchOptions { submit_latency: Duration::from_secs(60), ..Default::default() };
        let service = place.service(options(slow));
        let mut child =
            command(&place, &service.url(), teacher, &SCORES).stderr(Stdio::null()).spawn().unwrap();
        while service.stats().batches == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(service);

        let other = place.service(fast());
        let ran = ask(&place, &other, teacher, &SCORES);
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        let (_, rest) = ran.stderr.split_once("whether batch ").unwrap();
        let (plan, rest) = rest.split_once(' ').unwrap();
        assert!(plan.len() == 24 && rest.starts_with("with 20 requests"), "{}", ran.stderr);
        assert!(rest.contains("--abandon-batch and the batch's name"), "{}", ran.stderr);
        assert_eq!(other.stats().requests, 0);
        let ran = ask(&place, &other, teacher, &[&SCORES[..], &["--abandon-batch", "another"]].concat());
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(plan), "{}", ran.stderr);
        let ran = ask(&place, &other, teacher, &[&SCORES[..], &["--abandon-batch", plan]].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("20 of its 20 requests have no answer"), "{}", ran.stderr);
        assert_eq!((place.tables().scores.len(), other.stats().requests), (60, 20));
        assert!(losses(&place) > 0.0, "it may have been charged");
    }
}

#[test]
fn a_file_that_was_uploaded_becomes_the_batch_it_was_sent_for() {
    let place = Place::new(10, 2);
    let failing = BatchOptions { failing_creations: 1, ..Default::default() };
    let service = place.service(options(failing));
    let mut child =
        command(&place, &service.url(), TEACHERS[1], &SCORES).stderr(Stdio::null()).spawn().unwrap();
    while !place.dataset.feedback_path().is_file()
        || stored(&place, "SELECT 1.0 FROM batches WHERE file_id IS NOT NULL") == 0.0
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300)); // its batch was refused in the meantime
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(service.stats().batches, 0);

    let ran = ask(&place, &service, TEACHERS[1], &SCORES);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("created from the file that an earlier run uploaded"), "{}", ran.stderr);
    assert_eq!((place.tables().scores.len(), service.stats().batches), (60, 1));
    assert_eq!(stored(&place, "SELECT count(*) + 0.0 FROM batches"), 1.0);
}

/// The length of replies to one prompt is not used to predict replies to another.
#[test]
fn cap_holds_after_the_prompt_became_a_wordier_one() {
    for teacher in TEACHERS {
        let place = Place::new(60, 4);
        let short = place.service(fast());
        let ran = ask(&place, &short, teacher, &["--stage", "scores", "--max-usd", "0.1"]);
        assert_eq!(ran.status, Some(3), "{}", ran.stderr);
        let before = place.tables();
        assert!(before.scores.len() > 20 * 3, "enough replies to go by");

        let prompts = place.folder.path().join("prompts");
        std::fs::create_dir(&prompts).unwrap();
        let prompt = "Grade each sentence, and explain your grade at length.";
        for kind in ["scores", "corrections", "judgements"] {
            std::fs::write(prompts.join(format!("{kind}.md")), prompt).unwrap();
        }
        let wordy = place.service(Options { extra_output_tokens: 900, ..fast() });
        let (cap, prompts) = (spent(&before) + 0.15, prompts.to_str().unwrap());
        let capped = ["--prompts", prompts, "--max-usd", &cap.to_string()];
        let ran = ask(&place, &wordy, teacher, &[&SCORES[..], &capped].concat());
        assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
        let after = spent(&place.tables());
        assert!(after > spent(&before) && after <= cap, "{teacher:?}: cap {cap}, spent {after}");
    }
}

/// A file that overrides the catalogue of models.
fn models(place: &Place, text: &str) -> String {
    let path = place.folder.path().join("models.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The format for an unknown model is determined before thousands of requests are refused.
#[test]
fn an_unlisted_model_is_asked_alone_before_the_first_batch() {
    let place = Place::new(12, 2);
    let service = place.service(Options { service: Service::Gemini, ..fast() });
    let base = format!("{}/v1beta/openai", service.url());
    let models = models(&place, "[unlisted.\"gemini-*\"]\nefforts = [\"tiny\"]\n");
    let flags = [&SCORES[..], &["--models", &models]].concat();
    let ran = run(command(&place, &base, ("openai", "gemini-3.5-flash"), &flags)).unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let (tables, stats) = (place.tables(), service.stats());
    assert_eq!((tables.scores.len(), tables.rejects.len(), stats.batches), (72, 0, 1), "{}", ran.stderr);
    assert!((1..=3).contains(&stats.refused), "{:?}", stats.refusals);
    assert!(ran.stderr.contains("reasoning effort is omitted"), "{}", ran.stderr);
}

/// Refusals of a listed model in a batch are learned from, and reject no item.
#[test]
fn a_batch_that_is_refused_for_a_field_is_sent_again_without_it() {
    for kind in ["scores", "corrections"] {
        let place = Place::new(12, 2);
        let service = place.service(Options { service: Service::OpenAi, ..fast() });
        let models = models(&place, "[models.\"gpt-4o\"]\nefforts = [\"low\"]\n");
        let flags = ["--stage", kind, "--batch", "--models", &models];
        let ran = ask(&place, &service, TEACHERS[1], &flags);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("reasoning effort is omitted"), "{}", ran.stderr);
        assert!(place.tables().rejects.is_empty(), "{:?}", place.tables().rejects);
        let stats = service.stats();
        assert_eq!((stats.batches, stats.refused, stats.bought_again()), (2, stats.good, 0), "{kind}");
    }
}

#[test]
fn a_field_that_is_set_by_hand_and_refused_ends_the_run() {
    let place = Place::new(12, 2);
    let service = place.service(Options { service: Service::OpenAi, ..fast() });
    let flags = [&SCORES[..], &["--effort", "low"]].concat();
    let ran = ask(&place, &service, TEACHERS[1], &flags);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("teacher.effort is set, and the service refuses it"), "{}", ran.stderr);
    assert_eq!((service.stats().batches, place.tables().rejects.len()), (1, 0));
}

#[test]
fn a_model_that_cannot_see_ends_the_run_and_is_asked_nothing_blind() {
    let place = Place::new(12, 2);
    let service = place.service(Options { service: Service::OpenAi, blind: true, ..fast() });
    let ran = ask(&place, &service, TEACHERS[1], &SCORES);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("gpt-4o cannot see pictures"), "{}", ran.stderr);
    let (tables, stats) = (place.tables(), service.stats());
    assert_eq!((stats.batches, tables.rejects.len()), (1, 0));
    assert!(!tables.scores.is_empty(), "what has no picture was answered");
    assert_eq!(tables.scores.len() as u64, 3 * stats.good);
}

/// Every reply of a batch is cut off: no further one is sent.
#[test]
fn like_rejects_end_the_run_before_the_next_batch() {
    let place = Place::new(50, 4);
    let service = place.service(Options { faults: Faults::only(Fault::Truncated, 1.0), ..fast() });
    let ran = ask(&place, &service, TEACHERS[1], &SCORES);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("teacher.max_output_tokens"), "{}", ran.stderr);
    assert_eq!(service.stats().batches, 1);
}

/// A request that fails in every batch, while others are answered, is the item's fault.
#[test]
fn an_item_that_always_fails_is_rejected() {
    for teacher in TEACHERS {
        let place = Place::new(30, 4);
        let shapes = Shapes::only(Shape::BadGatewayItem, 0.05);
        let service = place.service(Options { shapes, ..fast() });
        let ran = ask(&place, &service, teacher, &SCORES);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let tables = place.tables();
        assert!(!tables.rejects.is_empty(), "{}", ran.stderr);
        assert!(tables.rejects.iter().all(|row| row.reason.starts_with("no answer: HTTP 50")));
        assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 120);
    }
}

/// An error inside a 200, or about one request, has the same effect as for a single request.
#[test]
fn errors_inside_results_are_whose_fault_they_are() {
    for teacher in TEACHERS {
        let place = Place::new(30, 4);
        let shapes = Shapes::only(Shape::FlaggedItem, 0.1);
        let service = place.service(Options { shapes, ..fast() });
        let ran = ask(&place, &service, teacher, &SCORES);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let tables = place.tables();
        assert!(!tables.rejects.is_empty(), "{}", ran.stderr);
        assert!(tables.rejects.iter().all(|row| row.reason.contains("flagged")), "{:?}", tables.rejects);
        assert_eq!(tables.scores.len() / 3 + tables.rejects.len(), 120);

        for (shape, words) in [(Shape::CreditInside, "credit"), (Shape::KeyInside, "key")] {
            let place = Place::new(10, 2);
            let service = place.service(Options { shapes: Shapes::only(shape, 1.0), ..fast() });
            let ran = ask(&place, &service, teacher, &SCORES);
            assert_eq!(ran.status, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
            assert_eq!((service.stats().batches, place.tables().rejects.len()), (1, 0), "{}", ran.stderr);
        }
    }
}
