//! Replies in every unusual form: none is misread, in either API, for scores, corrections and judgements, one
//! by one and in batches.

use crate::shared::{Place, Tables};
use schemas::{Provenance, Rationale};
use std::time::Duration;
use workspace_tests::small_dataset::rationale;
use workspace_tests::teacher_service::{BatchOptions, Options, Shape, Shapes, TeacherService};

const APIS: [(&str, &str); 2] = [("openai", "gpt-4.1-mini"), ("anthropic", "claude-haiku-4-5")];

/// A dataset with rollouts, rationales to correct and pairs to judge.
fn place() -> Place {
    let place = Place::new(8, 2);
    for (round, stage) in [(0, "base"), (1, "sft")] {
        let split = |number: usize| if number.is_multiple_of(2) { "test" } else { "train" };
        let rows = (0..8).map(|number| rationale(number, round, stage, split(number)));
        let rows = rows.map(|row| Rationale { deduplicated: format!("{} {stage}", row.deduplicated), ..row });
        place.dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    }
    place
}

fn odd(shape: Shape, share: f64) -> Options {
    let batch = BatchOptions { latency: Duration::from_millis(20), ..BatchOptions::default() };
    Options {
        shapes: Shapes::only(shape, share),
        latency: Duration::from_millis(1),
        batch,
        ..Options::default()
    }
}

/// Scores, corrections and judgements of the round; returns the output of all commands, and their worst
/// status.
fn round(
    place: &Place,
    service: &TeacherService,
    (teacher, model): (&str, &str),
    more: &[&str],
) -> (String, i32) {
    let url = service.url();
    let (mut said, mut worst) = (String::new(), 0);
    for command in [&["--round", "1"][..], &["judge", "--round", "1"]] {
        let mut arguments = command.to_vec();
        arguments.extend(["--teacher", teacher, "--model", model, "--base-url", &url]);
        arguments.extend(more);
        let ran = place.reference(&arguments);
        worst = worst.max(ran.status.unwrap_or(-1));
        said += &ran.stdout;
        said += &ran.stderr;
    }
    (said, worst)
}

/// The feedback on each item, one text per row; spaces and replaced characters are ignored.
fn answers(tables: &Tables) -> Vec<String> {
    let plain = |text: &str| text.replace('\u{fffd}', "").split_whitespace().collect::<Vec<_>>().join(" ");
    let scores =
        tables.scores.iter().map(|row| format!("{} {} {}", row.rollout_id, row.sentence_index, row.score));
    let corrections =
        tables.corrections.iter().map(|row| format!("{} {}", row.rationale_id, plain(&row.corrected)));
    let judgements = tables.judgements.iter().map(|row| format!("{} {}", row.problem_id, row.verdict));
    let mut all: Vec<_> = scores.chain(corrections).chain(judgements).collect();
    all.sort();
    all
}

/// The reference Teacher's feedback.
fn right_answers() -> Vec<String> {
    let place = place();
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    assert_eq!(place.reference(&["judge", "--round", "1"]).status, Some(0));
    answers(&place.tables())
}

#[test]
fn an_answer_that_is_there_is_read_in_every_shape() {
    let right = right_answers();
    assert!(right.len() > 20, "{right:?}");
    for api in APIS {
        for shape in Shape::READABLE {
            let place = place();
            let service = place.service(odd(*shape, 1.0));
            let (said, status) = round(&place, &service, api, &[]);
            assert_eq!(status, 0, "{api:?} {shape:?}: {said}");
            assert_eq!(answers(&place.tables()), right, "{api:?} {shape:?}: {said}");
            assert!(place.tables().rejects.is_empty(), "{api:?} {shape:?}");
            assert_eq!(service.stats().bought_again(), 0, "{api:?} {shape:?}");
        }
    }
}

#[test]
fn an_answer_that_is_there_is_read_in_batches_too() {
    let right = right_answers();
    for api in APIS {
        for shape in [
            Shape::ThinkDraft,
            Shape::ReasoningPart,
            Shape::StringScores,
            Shape::TrailingComma,
            Shape::UsageHuge,
        ] {
            let place = place();
            let service = place.service(odd(shape, 1.0));
            let (said, status) = round(&place, &service, api, &["--batch"]);
            assert_eq!(status, 0, "{api:?} {shape:?}: {said}");
            assert_eq!(answers(&place.tables()), right, "{api:?} {shape:?}: {said}");
        }
    }
}

#[test]
fn a_draft_is_never_the_answer() {
    let right = right_answers();
    for api in APIS {
        for shape in Shape::DRAFTS.iter().chain(&[Shape::Disagreeing]) {
            let place = place();
            let service = place.service(odd(*shape, 0.5));
            let (said, _) = round(&place, &service, api, &[]);
            let found = answers(&place.tables());
            let wrong: Vec<_> = found.iter().filter(|row| !right.contains(row)).collect();
            assert!(wrong.is_empty(), "{api:?} {shape:?}: {wrong:?}\n{said}");
            assert!(
                found.len() * 10 >= right.len() * 7,
                "{api:?} {shape:?}: {} of {}",
                found.len(),
                right.len()
            );
            assert!(service.stats().shapes.values().sum::<u64>() > 3, "{api:?} {shape:?}");
        }
    }
}

#[test]
fn usage_that_says_nothing_is_unknown_and_counts_under_the_cap() {
    for api in APIS {
        for shape in [Shape::UsageEmpty, Shape::UsageList, Shape::UsageZeros, Shape::UsageHuge] {
            let place = place();
            let service = place.service(odd(shape, 1.0));
            let (said, status) = round(&place, &service, api, &["--max-usd", "0.01"]);
            assert_eq!(status, 3, "{api:?} {shape:?}: {said}");
            let tables = place.tables();
            assert!(!tables.requests.is_empty(), "{api:?} {shape:?}: {said}");
            assert!(
                tables.requests.iter().all(|row| row.cost_usd.is_none()),
                "{api:?} {shape:?}: {:?}",
                tables.requests
            );
            assert!(service.stats().good < 16, "{api:?} {shape:?}: the cap is never reached");
        }
    }
}

#[test]
fn a_failure_inside_a_reply_is_the_status_that_it_names() {
    let right = right_answers();
    for api in APIS {
        for shape in [
            Shape::ChoiceError,
            Shape::NoChoices,
            Shape::NullChoices,
            Shape::LimitInside,
            Shape::OverloadInside,
        ] {
            let place = place();
            let service = place.service(odd(shape, 0.3));
            let (said, status) = round(&place, &service, api, &[]);
            assert_eq!(status, 0, "{api:?} {shape:?}: {said}");
            assert_eq!(answers(&place.tables()), right, "{api:?} {shape:?}: {said}");
        }
        for (shape, word) in
            [(Shape::CreditInside, "raise the limit or add credit"), (Shape::KeyInside, "check the key")]
        {
            let place = place();
            let service = place.service(odd(shape, 1.0));
            let (said, status) = round(&place, &service, api, &[]);
            assert_eq!(status, 1, "{api:?} {shape:?}: {said}");
            assert!(said.contains(word), "{api:?} {shape:?}: {said}");
            assert!(
                place.tables().rejects.is_empty() && service.stats().requests <= 3,
                "{api:?} {shape:?}: {said}"
            );
        }
    }
}

#[test]
fn bodies_of_failures_inside_replies_are_kept_as_they_came() {
    let place = place();
    let service = place.service(odd(Shape::ChoiceError, 0.3));
    let (said, _) = round(&place, &service, APIS[0], &[]);
    let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
    let kept: u64 = cache
        .query_row("SELECT count(*) FROM attempts WHERE status = 200 AND length(body) > 10", [], |row| {
            row.get(0)
        })
        .unwrap();
    let shown = service.stats().shapes.values().sum::<u64>();
    assert!(kept > 0 && kept == shown, "{kept} of {shown}: {said}");
}
