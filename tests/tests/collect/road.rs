//! A round without faults: what is sent, what is written, what is not sent again.

use crate::shared::{Place, fast, files};
use schemas::{Dataset, Provenance, Rationale};
use workspace_tests::command::{collect_feedback, run};
use workspace_tests::small_dataset::{rationale, write_problems, write_rollouts};

#[test]
fn scores_and_corrections_over_both_wires_and_embedded() {
    let place = Place::new(20, 4);
    let service = place.service(fast());
    let ran = place.collect(&service, &[]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("round 1: 80 rollouts scored, 0 rejected, 4 shared a reply; 76 requests"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("round 1: 20 rationales corrected"), "{}", ran.stdout);
    let next = format!("round 1: next: train --round 1 --data {}\n", place.path().display());
    assert!(ran.stdout.ends_with(&next), "{}", ran.stdout);
    let openai = place.tables();
    assert_eq!((openai.scores.len(), openai.corrections.len(), openai.requests.len()), (240, 20, 100));
    assert_eq!(openai.scores.iter().filter(|row| row.cached).count(), 12);
    let stats = service.stats();
    assert_eq!((stats.requests, stats.good, stats.bought_again()), (96, 96, 0));
    assert_eq!(stats.images, 26 + 7, "7 problems have a picture, of which 2 share a request: 28 - 2 + 7");
    let (input, output) =
        openai.requests.iter().fold((0, 0), |sum, row| (sum.0 + row.input_tokens, sum.1 + row.output_tokens));
    assert_eq!((input, output), (stats.input_tokens, stats.output_tokens));

    let other = Place::new(20, 4);
    let service = other.service(fast());
    let ran = run(collect_feedback(
        other.path(),
        &["--round", "1", "--teacher", "anthropic", "--base-url", &service.url()],
    ))
    .unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let anthropic = other.tables();
    let said = |tables: &crate::shared::Tables| {
        let scores: Vec<_> = tables.scores.iter().map(|row| (row.rollout_id.clone(), row.score)).collect();
        let corrections: Vec<_> = tables.corrections.iter().map(|row| row.corrected.clone()).collect();
        (scores, corrections)
    };
    assert_eq!(said(&openai), said(&anthropic));

    let embedded = Place::new(20, 4);
    let ran = embedded.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(said(&openai), said(&embedded.tables()));
    assert!(
        embedded.tables().requests.iter().all(|row| row.cost_usd == Some(0.0) && row.model == "reference-v2")
    );
}

#[test]
fn nothing_to_do_changes_no_file() {
    let place = Place::new(6, 2);
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    let before = files(place.path());
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("12 rollouts have scores; nothing to do"), "{}", ran.stdout);
    assert_eq!(before, files(place.path()));
    let ran = place.reference(&["--round", "2"]);
    assert_eq!(ran.status, Some(0));
    let waits =
        format!("round 2: no rollouts yet; next: train --round 2 --data {}\n", place.path().display());
    assert_eq!(ran.stdout, waits);
}

/// Scores that no stage uses are not bought, unless requested explicitly.
#[test]
fn rl_by_the_answer_alone_buys_no_scores() {
    let place = Place::new(6, 2);
    let settings = |sft: &str| {
        let text = format!("[rl]\nanswer_reward = \"alone\"\nanswer_weight = 1.0\n{sft}");
        std::fs::write(place.path().join("ares.toml"), text).unwrap();
    };
    settings("");
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("train does not use scores and none are bought"), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!((tables.scores.len(), tables.corrections.len()), (0, 6));
    settings("[sft]\nfilter = \"scored\"\n");
    let ran = place.reference(&["--round", "1"]);
    assert!(ran.stdout.contains("12 rollouts scored"), "fine-tuning learns from them: {}", ran.stdout);
}

#[test]
fn one_more_problem_sends_only_its_own_requests() {
    let place = Place::new(20, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
    write_problems(&place.dataset, 0..21).unwrap();
    write_rollouts(&place.dataset, "00001", 20..21, 4).unwrap();
    drop(service);
    let service = place.service(fast());
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, 3, "samples 1 and 2 of problem 20 are the same");
    assert_eq!(place.tables().scores.len(), 21 * 12);
}

#[test]
fn only_rationales_of_train_problems_are_corrected() {
    let place = Place::new(20, 4);
    let provenance = Provenance::new("test", "");
    let others = (12..20).map(|number| Rationale {
        rationale_id: format!("p{number}-r1-rl-test"),
        ..rationale(number, 1, "rl", "test")
    });
    place.dataset.write_part(1, "rl-test", others, &provenance).unwrap();
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().corrections.len(), 20);
    let ran = place.reference(&["status"]);
    assert!(
        ran.stdout.contains("20 rationales = 20 corrected") && ran.stdout.contains("The books balance"),
        "{}",
        ran.stdout
    );
}

#[test]
fn changed_prompt_asks_all_again_and_changed_pace_asks_none() {
    let place = Place::new(20, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
    let first = place.tables();
    service.reset();
    let ran =
        place.collect(&service, &["--stage", "scores", "--requests-per-minute", "77", "--concurrency", "3"]);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    assert_eq!(service.stats().requests, 0);

    let prompts = place.folder.path().join("prompts");
    std::fs::create_dir(&prompts).unwrap();
    std::fs::write(prompts.join("scores.md"), "Grade strictly. Reply with JSON.").unwrap();
    let prompts = prompts.to_str().unwrap();
    let ran = place.collect(&service, &["--stage", "scores", "--prompts", prompts]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, 76, "{}", ran.stdout);
    let second = place.tables();
    assert_eq!(second.scores.len(), first.scores.len(), "new rows take the place of the old ones");
    assert!(
        second.scores.iter().zip(&first.scores).all(|(new, old)| new.prompt_version != old.prompt_version)
    );
    assert_eq!(second.requests.len(), 160, "the ledger keeps what was paid");

    // Tables lost, settings as before: everything is in the cache.
    for table in ["scores", "requests"] {
        std::fs::remove_dir_all(place.path().join(table)).unwrap();
    }
    service.reset();
    let ran =
        place.collect(&service, &["--stage", "scores", "--prompts", prompts, "--requests-per-minute", "600"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, 0);
    assert_eq!(place.tables().scores, second.scores);
}

#[test]
fn rebuild_makes_the_same_tables_without_a_request() {
    let place = Place::new(12, 3);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &[]).status, Some(0));
    let before = place.tables();
    drop(service);
    let ran = place.reference(&["rebuild"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(before, place.tables());
}

#[test]
fn judge_compares_with_the_base_student() {
    let place = Place::new(12, 1);
    let write = |dataset: &Dataset, round: u32, stage: &str| {
        let rows: Vec<Rationale> = (0..12)
            .map(|number| Rationale {
                sentences: vec![],
                ..rationale(number, round, stage, if number % 2 == 0 { "test" } else { "train" })
            })
            .collect();
        dataset.write_part(round, stage, rows, &Provenance::new("test", "")).unwrap();
    };
    let ran = place.reference(&["judge", "--round", "1", "--against", "base"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("to compare with base yet"), "{}", ran.stdout);
    write(&place.dataset, 0, "base");
    write(&place.dataset, 1, "sft");
    let service = place.service(fast());
    let url = service.url();
    let judge = ["judge", "--round", "1", "--against", "base", "--teacher", "openai", "--base-url", &url];
    let ran = place.reference(&judge);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let rows = place.tables().judgements;
    assert_eq!(rows.len(), 6, "{}", ran.stdout);
    assert!(
        rows.iter().any(|row| row.candidate_shown_first) && rows.iter().any(|row| !row.candidate_shown_first)
    );
    let ran = place.reference(&judge);
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    assert_eq!(place.reference(&["judge", "--round", "1", "--against", "nobody"]).status, Some(2));
}

#[test]
fn missing_picture_is_a_reject_and_never_a_request_without_it() {
    let place = Place::new(6, 2);
    std::fs::remove_file(place.path().join("images/p3.png")).unwrap();
    let service = place.service(fast());
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!(tables.rejects.len(), 2);
    assert_eq!(tables.rejects[0].reason, "missing image: images/p3.png");
    assert_eq!((tables.rejects[0].attempts, tables.rejects[0].request_key.as_str()), (0, ""));
    assert_eq!(tables.scores.len(), 30);
    assert_eq!(tables.requests.len(), 12);
    assert_eq!(service.stats().requests, 10);
    assert!(place.collect(&service, &["--stage", "scores"]).stdout.contains("nothing to do"));
}

#[test]
fn second_process_is_refused() {
    let place = Place::new(3, 1);
    let _held = place.dataset.lock("collect-feedback").unwrap();
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("in use by another collect-feedback"), "{}", ran.stderr);
}

#[test]
fn keys_are_nowhere() {
    let key = "sk-very-secret-0123456789";
    for (teacher, variable) in [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")] {
        let place = Place::new(6, 2);
        let service =
            place.service(workspace_tests::teacher_service::Options { key: Some(key.into()), ..fast() });
        let mut command = collect_feedback(
            place.path(),
            &["--round", "1", "--teacher", teacher, "--base-url", &service.url(), "--log-json"],
        );
        command.env(variable, key).env("RUST_LOG", "trace");
        let ran = run(command).unwrap();
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert!(!ran.stdout.contains(key) && !ran.stderr.contains(key));
        let command = collect_feedback(place.path(), &["--round", "1", "--show-settings"]);
        assert!(!run(command).unwrap().stdout.contains(key));
        for (path, ..) in files(place.path()) {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "{}", path.display());
        }
        let ran = run(collect_feedback(place.path(), &["--round", "1", "--teacher", teacher])).unwrap();
        assert_eq!(
            (ran.status, ran.stderr.contains(variable)),
            (Some(0), false),
            "nothing to do, so no key is needed"
        );
    }
}

#[test]
fn damaged_cache_is_said_so_and_changes_nothing() {
    let place = Place::new(4, 2);
    assert_eq!(place.reference(&["--round", "1", "--stage", "scores"]).status, Some(0));
    let cache = place.dataset.feedback_path();
    let whole = std::fs::read(&cache).unwrap();
    std::fs::write(&cache, vec![b'x'; whole.len()]).unwrap();
    let before = files(place.path());
    let ran = place.reference(&["--round", "1", "--stage", "corrections"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("is damaged: ") && ran.stderr.contains("hint: restore"), "{}", ran.stderr);
    assert_eq!(before, files(place.path()));
    std::fs::write(&cache, whole).unwrap();
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    assert_eq!(place.tables().corrections.len(), 4);
}

#[test]
fn sets_of_files_that_a_kill_cut_off_are_written_anew() {
    let place = Place::new(6, 2);
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    let expected = place.tables();
    // As if the run had ended after the ledger and before the scores.
    std::fs::remove_file(place.path().join("scores/round-1/part-00000.parquet")).unwrap();
    let ran = place.reference(&["--round", "1"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables(), expected);
    // As if a replacement had ended before the older files were removed.
    let scores = place.path().join("scores/round-1");
    // The ledger of the interrupted set is kept, so the next one has another number.
    std::fs::copy(scores.join("part-00001.parquet"), scores.join("part-00002.parquet")).unwrap();
    std::fs::write(scores.join(".replacing"), "2").unwrap();
    assert!(place.reference(&["--round", "1"]).stdout.contains("nothing to do"));
    assert_eq!(place.tables(), expected);
}
