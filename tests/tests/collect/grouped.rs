//! Requests about several samples of a problem: the same tables, fewer tokens, and nothing bought twice.

use crate::shared::{Place, Tables, fast};
use schemas::{Request, Rollout};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use workspace_tests::command::{collect_feedback, run, start};
use workspace_tests::small_dataset::{provenance, rollout};
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, Service, Shape, Shapes};

const SCORES: [&str; 2] = ["--stage", "scores"];

/// The score of each sentence.
fn scores(tables: &Tables) -> Vec<(String, u32, String, f32)> {
    let rows = tables.scores.iter();
    rows.map(|row| (row.rollout_id.clone(), row.sentence_index, row.sentence.clone(), row.score)).collect()
}

/// Tables of a dataset whose samples were requested individually.
fn alone(problems: usize, samples: u32) -> Tables {
    let place = Place::new(problems, samples);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &SCORES).status, Some(0));
    place.tables()
}

/// Tokens and dollars of the ledger: input, output, dollars.
fn booked(rows: &[Request]) -> (u64, u64, f64) {
    let sum = |of: fn(&Request) -> u64| rows.iter().map(of).sum();
    (
        sum(|row| row.input_tokens + row.cached_input_tokens),
        sum(|row| row.output_tokens),
        rows.iter().filter_map(|row| row.cost_usd).sum(),
    )
}

/// Whether any sentence is scored by more than one paid reply that could be used.
fn bought_twice(rows: &[Request]) -> Vec<String> {
    let mut paid: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status == "ok" && !row.cached) {
        *paid.entry(&row.subject_id).or_default() += 1;
    }
    paid.into_iter().filter(|(_, times)| *times > 1).map(|(id, _)| id.to_owned()).collect()
}

#[test]
fn one_request_a_problem_gives_the_same_scores_for_fewer_tokens() {
    let expected = alone(60, 4);
    for (teacher, who) in [("openai", Service::default()), ("anthropic", Service::Anthropic)] {
        let place = Place::grouped(60, 4);
        let service = place.service(Options { service: who, ..fast() });
        let url = service.url();
        let model = if teacher == "openai" { "gpt-4o" } else { "claude-haiku-5-5" };
        let of =
            ["--round", "1", "--stage", "scores", "--teacher", teacher, "--base-url", &url, "--model", model];
        let command = |more: &[&str]| {
            let mut command = collect_feedback(place.path(), &[more, &of[..]].concat());
            command.env("ANTHROPIC_API_KEY", "a-key");
            let ran = run(command).unwrap();
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            ran.stdout
        };
        let said = command(&["estimate"]);
        assert!(said.contains("requests                  60"), "{said}");
        assert_eq!(service.stats().requests, 0);
        command(&[]);
        let (tables, stats) = (place.tables(), service.stats());
        assert_eq!(scores(&tables), scores(&expected), "{teacher}");
        assert_eq!((stats.requests, stats.good), (60, 60));

        // The ledger matches exactly what was sent.
        let rows = &tables.requests;
        let (input, output, dollars) = booked(rows);
        assert_eq!((input, output), (stats.input_tokens, stats.output_tokens));
        assert_eq!(rows.iter().map(|row| u64::from(row.attempts)).sum::<u64>(), 60);
        assert_eq!((rows.len(), rows.iter().filter(|row| row.cached).count()), (240, 12));
        assert!(rows.iter().filter(|row| !row.cached).all(|row| row.items.is_some_and(|items| items > 2)));
        if teacher == "openai" {
            let price = stats.input_tokens as f64 * 2.5e-6 + stats.output_tokens as f64 * 10e-6;
            assert!((dollars - price).abs() < 1e-9, "{dollars} {price}");
        }
        if teacher == "openai" {
            let one_by_one = booked(&expected.requests).0;
            assert!(input * 20 < one_by_one * 11, "{input} {one_by_one}");
        }
        let status = place.reference(&["status"]).stdout;
        let saved = "228 rollouts grouped in 60 requests; 168 requests saved";
        assert!(status.contains(saved), "{status}");
        assert_eq!(place.reference(&["report", "--round", "1"]).status, Some(0));
        let report = std::fs::read_to_string(place.path().join("report-round-1.html"));
        assert!(report.unwrap().contains(saved));
        assert!(status.contains("The books balance"), "{status}");

        assert!(command(&[]).contains("nothing to do"));
        assert_eq!(place.reference(&["rebuild"]).status, Some(0));
        assert_eq!(place.tables(), tables, "rebuilt from the store");
        assert_eq!(service.stats().requests, 60);
    }
}

#[test]
fn the_embedded_teacher_answers_several_as_it_answers_one() {
    let (one, several) = (Place::new(40, 4), Place::grouped(40, 4));
    for place in [&one, &several] {
        let ran = place.reference(&["--round", "1", "--stage", "scores"]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    assert_eq!(scores(&several.tables()), scores(&one.tables()));
    let sent = |place: &Place| place.tables().requests.iter().map(|row| row.attempts).sum::<u32>();
    assert_eq!((sent(&one), sent(&several)), (152, 40));
}

#[test]
fn a_setting_says_how_many_samples_one_request_asks_about() {
    let expected = alone(20, 5);
    for (most, requests) in [("1", 96), ("2", 56), ("3", 40), ("9", 20)] {
        let place = Place::grouped(20, 5);
        let service = place.service(fast());
        let ran = place.collect(&service, &[&SCORES[..], &["--samples-per-request", most]].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(service.stats().requests, requests, "{most}");
        assert_eq!(scores(&place.tables()), scores(&expected));
        if most == "1" {
            assert_eq!(place.tables(), expected, "as earlier versions asked, to the key");
        }
    }
    // If replies must be short, fewer samples are grouped.
    let place = Place::grouped(20, 5);
    let service = place.service(fast());
    assert_eq!(
        place.collect(&service, &[&SCORES[..], &["--max-output-tokens", "256"]].concat()).status,
        Some(0)
    );
    assert_eq!(service.stats().requests, 40);
    assert_eq!(scores(&place.tables()), scores(&expected));
}

#[test]
fn what_can_be_used_of_a_bad_reply_is_kept_and_the_rest_is_asked_about_alone() {
    let expected: HashSet<String> = scores(&alone(60, 4)).iter().map(|row| format!("{row:?}")).collect();
    let kinds =
        vec![Fault::WrongCount, Fault::Truncated, Fault::Refusal, Fault::WrongJson, Fault::BadRequest];
    let place = Place::grouped(60, 4);
    let service =
        place.service(Options { faults: Faults { seed: 5, share: 0.3, kinds, after: 0 }, ..fast() });
    let ran = place.collect(&service, &[&SCORES[..], &["--model", "gpt-4o"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let (tables, stats) = (place.tables(), service.stats());
    assert!(stats.faults.len() == 5 && stats.requests > 70, "{stats:?}");
    let found = scores(&tables);
    assert!(found.iter().all(|row| expected.contains(&format!("{row:?}"))));
    // Rejected items were requested individually and failed there too. Their number depends on the order of
    // replies: three useless ones in a row end grouping, and the rest is requested individually.
    let rejected: HashSet<&str> = tables.rejects.iter().map(|row| row.subject_id.as_str()).collect();
    assert_eq!(found.len(), 720 - 3 * rejected.len());
    let individual = tables.requests.iter().filter(|row| row.items.is_none()).count();
    assert!(2 * rejected.len() < individual, "{} {individual}", rejected.len());
    for reject in &tables.rejects {
        let own = tables.requests.iter().find(|row| row.request_key == reject.request_key);
        assert!(own.is_some_and(|row| row.items.is_none()), "{reject:?}");
    }
    assert_eq!(stats.bought_again(), 0);
    assert_eq!(bought_twice(&tables.requests), [""; 0]);
    let (input, output, _) = booked(&tables.requests);
    assert_eq!((input, output), (stats.input_tokens, stats.output_tokens), "all of it is booked");
    assert_eq!(place.reference(&["rebuild"]).status, Some(0));
    let rebuilt = place.tables();
    assert_eq!((scores(&rebuilt), booked(&rebuilt.requests).0), (found, input));

    // Requested again individually.
    let calm = place.service(fast());
    let ran = place.collect(&calm, &[&SCORES[..], &["--model", "gpt-4o", "--retry-rejects"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(scores(&place.tables()).len(), 720);
    assert!(calm.stats().requests <= rejected.len() as u64 + 1);
    assert!(place.reference(&["status"]).stdout.contains("The books balance"));
}

#[test]
fn one_flagged_sample_rejects_no_other() {
    let place = Place::grouped(60, 4);
    let service = place.service(Options { shapes: Shapes::only(Shape::FlaggedItem, 0.1), ..fast() });
    let ran = place.collect(&service, &SCORES);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    let groups: HashSet<&String> = tables
        .requests
        .iter()
        .filter(|row| row.items.is_some() && row.status != "ok")
        .map(|row| &row.request_key)
        .collect();
    assert!(!groups.is_empty());
    assert_eq!(tables.scores.len() + 3 * tables.rejects.len(), 720);
    assert!(tables.rejects.len() <= 2 * groups.len(), "{} {}", tables.rejects.len(), groups.len());
}

#[test]
fn replies_in_odd_shapes_score_as_plain_ones_or_are_asked_for_alone() {
    let expected = scores(&alone(40, 4));
    let kinds = vec![
        Shape::ThinkDraft,
        Shape::QuotedObject,
        Shape::FormatFirst,
        Shape::SecondBlock,
        Shape::StringScores,
        Shape::FloatIndex,
        Shape::TrailingComma,
        Shape::LengthWhole,
    ];
    let place = Place::grouped(40, 4);
    let service =
        place.service(Options { shapes: Shapes { seed: 2, share: 0.7, kinds, after: 0 }, ..fast() });
    let ran = place.collect(&service, &SCORES);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let found = scores(&place.tables());
    assert!(found.iter().all(|row| expected.contains(row)), "no draft is taken for an answer");
    assert!(found.len() > 400, "{}", found.len());
}

#[test]
fn a_model_that_answers_one_at_a_time_is_not_asked_about_several_for_long() {
    let expected = alone(60, 4);
    let place = Place::grouped(60, 4);
    let service = place.service(Options { only_one: true, ..fast() });
    let ran = place.collect(&service, &[&SCORES[..], &["--concurrency", "4"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("from now on, each is requested individually"), "{}", ran.stderr);
    assert_eq!(scores(&place.tables()), scores(&expected));
    let wasted = service.stats().requests - 228;
    assert!(wasted < 12, "{wasted} requests for nothing");
    let status = place.reference(&["status"]).stdout;
    let told = format!("requested again individually; {wasted} requests more than without grouping");
    assert!(status.contains(&told), "{told}: {status}");
}

#[test]
fn a_round_that_was_begun_one_by_one_goes_on_in_groups() {
    let expected = alone(40, 4);
    let place = Place::grouped(40, 4);
    let no_money = Faults { seed: 1, share: 1.0, kinds: vec![Fault::NoMoney], after: 30 };
    let service = place.service(Options { faults: no_money, ..fast() });
    let one = ["--samples-per-request", "1", "--concurrency", "3"];
    assert_eq!(place.collect(&service, &[&SCORES[..], &one].concat()).status, Some(1));
    let before = place.tables();
    let done: HashSet<String> = before.scores.iter().map(|row| row.rollout_id.clone()).collect();
    assert!((30..40).contains(&done.len()), "{}", done.len());
    let calm = place.service(fast());
    assert_eq!(place.collect(&calm, &SCORES).status, Some(0));
    let tables = place.tables();
    assert_eq!(scores(&tables), scores(&expected));
    assert_eq!(bought_twice(&tables.requests), [""; 0]);
    assert!(calm.stats().requests <= 32, "{}", calm.stats().requests);
    let of_before = |row: &&schemas::Score| done.contains(&row.rollout_id);
    let kept: Vec<_> = tables.scores.iter().filter(of_before).cloned().collect();
    assert_eq!(kept, before.scores, "what was there stays as it was");
    // Continued one by one, as it began.
    let place = Place::grouped(40, 4);
    let no_money = Faults { seed: 1, share: 1.0, kinds: vec![Fault::NoMoney], after: 10 };
    let service = place.service(Options { faults: no_money, ..fast() });
    assert_eq!(place.collect(&service, &[&SCORES[..], &["--concurrency", "3"]].concat()).status, Some(1));
    assert_eq!(place.collect(&calm, &[&SCORES[..], &one].concat()).status, Some(0));
    let tables = place.tables();
    assert_eq!(scores(&tables), scores(&expected));
    assert_eq!(bought_twice(&tables.requests), [""; 0]);
}

#[test]
fn the_same_samples_in_a_later_round_cost_nothing_and_a_new_one_is_asked_about_alone() {
    let place = Place::grouped(20, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &SCORES).status, Some(0));
    let again = |round: u32, change: bool| {
        let rows = (0..20).flat_map(|number| (0..4).map(move |sample| (number, sample)));
        let rows = rows.map(|(number, sample)| {
            let mut row = rollout(number, sample);
            (row.round, row.rollout_id) = (round, Rollout::id(&row.problem_id, round, sample));
            if change && sample == 3 {
                row.sentences[1].text = format!("In round {round} it is another sentence.");
            }
            row
        });
        place.dataset.write_part(round, "0", rows, &provenance()).unwrap();
    };
    again(2, false);
    again(3, true);
    let url = service.url();
    for (round, requests) in [("2", 20), ("3", 40)] {
        let arguments = ["--round", round, "--stage", "scores", "--teacher", "openai", "--base-url", &url];
        let ran = run(collect_feedback(place.path(), &arguments)).unwrap();
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(service.stats().requests, requests, "round {round}");
        let scored: Vec<schemas::Score> = place.dataset.read(round.parse().unwrap()).unwrap();
        assert_eq!(scored.len(), 240);
    }
    let rows: Vec<Request> = place.dataset.read(2).unwrap();
    assert!(rows.iter().all(|row| row.cached && row.input_tokens == 0 && row.cost_usd == Some(0.0)));
    assert!(place.reference(&["status"]).stdout.contains("The books balance"));
}

#[test]
fn samples_of_several_imports_are_asked_about_together() {
    let expected = alone(20, 4);
    let place = Place::grouped(20, 0);
    for sample in 0..4 {
        let rows = (0..20).map(move |number| rollout(number, sample));
        place.dataset.write_part(1, &format!("of-model-{sample}"), rows, &provenance()).unwrap();
    }
    let service = place.service(fast());
    let ran = place.collect(&service, &SCORES);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!((service.stats().requests, scores(&place.tables())), (20, scores(&expected)));
    assert!(place.reference(&["status"]).stdout.contains("The books balance"));
}

#[test]
fn discarded_answers_of_groups_come_back_and_are_asked_anew() {
    let place = Place::grouped(20, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &SCORES).status, Some(0));
    let before = place.tables();
    assert_eq!(place.reference(&["discard", "--round", "1", "--stage", "scores"]).status, Some(0));
    assert!(place.tables().scores.is_empty());
    assert_eq!(place.collect(&service, &SCORES).status, Some(2), "they would be bought again");
    assert_eq!(place.reference(&["undiscard", "--round", "1", "--stage", "scores"]).status, Some(0));
    assert_eq!(place.tables(), before);
    assert_eq!(place.reference(&["discard", "--round", "1", "--stage", "scores"]).status, Some(0));
    let ran = place.collect(&service, &[&SCORES[..], &["--ask-discarded"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, 40);
    let tables = place.tables();
    assert_eq!(scores(&tables), scores(&before));
    let keys =
        |tables: &Tables| tables.scores.iter().map(|row| row.request_key.clone()).collect::<HashSet<_>>();
    assert!(keys(&tables).is_disjoint(&keys(&before)));
}

#[test]
fn batches_ask_about_several_too() {
    let expected = scores(&alone(40, 4));
    for teacher in ["openai", "anthropic"] {
        let place = Place::grouped(40, 4);
        let kinds = vec![Fault::WrongCount, Fault::Truncated, Fault::Refusal];
        let faults = Faults { seed: 3, share: 0.2, kinds, after: 0 };
        let batch = BatchOptions { expire: 1, cut_results: 1, ..BatchOptions::default() };
        let service = place.service(Options { batch, faults, ..fast() });
        let url = service.url();
        let arguments =
            ["--round", "1", "--stage", "scores", "--teacher", teacher, "--base-url", &url, "--batch"];
        let mut command = collect_feedback(place.path(), &arguments);
        command.env("ANTHROPIC_API_KEY", "a-key");
        let ran = run(command).unwrap();
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let (tables, stats) = (place.tables(), service.stats());
        let found = scores(&tables);
        assert!(found.iter().all(|row| expected.contains(row)));
        assert_eq!(found.len() + 3 * tables.rejects.len(), 480);
        assert_eq!((stats.bought_again(), bought_twice(&tables.requests)), (0, Vec::new()));
        let (input, output, _) = booked(&tables.requests);
        assert_eq!((input, output), (stats.input_tokens, stats.output_tokens), "{teacher}");
        assert!(stats.requests < 110, "{}", stats.requests);
        assert!(place.reference(&["status"]).stdout.contains("The books balance"));
    }
}

#[test]
fn a_cap_holds_for_groups() {
    let place = Place::grouped(60, 4);
    let service = place.service(fast());
    let capped = |most: &str| {
        place.collect(&service, &[&SCORES[..], &["--model", "gpt-4o", "--max-usd", most]].concat())
    };
    let ran = capped("0.15");
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    let spent = booked(&place.tables().requests).2;
    assert!(spent <= 0.15 && spent > 0.12, "{spent}");
    assert_eq!(capped("1").status, Some(0));
    assert_eq!((service.stats().requests, place.tables().scores.len()), (60, 720));
}

#[test]
fn kills_lose_and_repeat_only_what_was_in_flight() {
    const CONCURRENCY: u64 = 8;
    let expected = scores(&alone(400, 4));
    let place = Place::grouped(400, 4);
    let kinds = vec![Fault::WrongCount, Fault::WrongJson];
    let faults = Faults { seed: 9, share: 0.2, kinds, after: 5 };
    let service = place.service(Options { latency: Duration::from_millis(40), faults, ..fast() });
    let url = service.url();
    let arguments = [
        "--round",
        "1",
        "--stage",
        "scores",
        "--teacher",
        "openai",
        "--base-url",
        &url,
        "--concurrency",
        "8",
    ];
    let mut kills = 0;
    for moment in [20, 55, 5, 35, 48_u64] {
        let before = service.stats().requests;
        let mut child = start(collect_feedback(place.path(), &arguments)).unwrap();
        while service.stats().requests < before + 10 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(moment));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert_eq!(kills, 5);
    assert_eq!(run(collect_feedback(place.path(), &arguments)).unwrap().status, Some(0));
    let (tables, stats) = (place.tables(), service.stats());
    assert_eq!(scores(&tables), expected);
    assert_eq!(bought_twice(&tables.requests), [""; 0]);
    let again = stats.bought_again();
    println!("{kills} kills: {} requests, {again} of them again", stats.requests);
    assert!(again <= kills * CONCURRENCY, "{again}");
    assert!(place.reference(&["status"]).stdout.contains("The books balance"));
}
