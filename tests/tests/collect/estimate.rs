//! The estimate against the ledger, with a service that counts tokens by a tokenizer.

use crate::shared::{Place, fast};
use schemas::{Dataset, Request, Table};
use std::path::{Path, PathBuf};
use workspace_tests::command::{binary, collect_feedback, run};
use workspace_tests::small_dataset::{self, write_rollouts};
use workspace_tests::teacher_service::{Options, Service, TeacherService};

/// Dollars and input tokens of the estimate.
fn estimate(data: &Path, url: &str, teacher: &str, model: &str, more: &[&str]) -> (f64, f64) {
    let mut arguments = vec!["estimate", "--round", "1", "--stage", "scores"];
    arguments.extend(["--teacher", teacher, "--model", model, "--base-url", url]);
    arguments.extend(more);
    let ran = run(collect_feedback(data, &arguments)).unwrap();
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let number = |name: &str| -> f64 {
        let line = ran.stdout.lines().find(|line| line.trim_start().starts_with(name));
        let Some(line) = line else { panic!("no {name} in {}", ran.stdout) };
        line.trim_start()[name.len()..].split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("dollars"), number("input tokens"))
}

fn collect(data: &Path, url: &str, teacher: &str, model: &str, more: &[&str]) {
    let mut arguments = vec!["--round", "1", "--stage", "scores", "--teacher", teacher, "--model", model];
    arguments.extend(["--base-url", url]);
    arguments.extend(more);
    let mut command = collect_feedback(data, &arguments);
    command.env("ANTHROPIC_API_KEY", "a-key").env("OPENAI_API_KEY", "a-key");
    let ran = run(command).unwrap();
    assert!(ran.status == Some(0) || ran.status == Some(3), "{}{}", ran.stdout, ran.stderr);
}

fn dollars(dataset: &Dataset) -> f64 {
    dataset.read::<Request>(1).unwrap().iter().filter_map(|row| row.cost_usd).sum()
}

fn near(what: &str, estimated: f64, spent: f64, within: f64) {
    let off = estimated / spent - 1.0;
    println!("{what}: estimated ${estimated:.4}, spent ${spent:.4}, off by {:.2} %", off * 100.0);
    assert!(off.abs() < within, "{what}: estimated {estimated}, spent {spent}");
}

/// Published data outside the repository.
fn real_data() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("..").join("shared").join("data");
    std::env::var_os("ARES_REAL_DATA").map_or_else(usual, PathBuf::from)
}

fn import(arguments: &[&str]) {
    let output =
        std::process::Command::new(binary("collect-feedback")).arg("import").args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[cfg_attr(not(real_data), ignore = "needs real data: ARES_REAL_DATA")]
fn real_rationales_cost_what_was_estimated() {
    let real = real_data();
    for (teacher, model, who, first_usd) in [
        ("openai", "gpt-6-luna", Service::OpenAi, ""),
        ("openai", "gpt-4.1", Service::OpenAi, ""),
        ("anthropic", "claude-haiku-5-5", Service::Anthropic, "0.02"),
        ("anthropic", "claude-opus-5-5", Service::Anthropic, "0.8"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("half");
        let path = |name: &str| real.join("scienceqa").join(name).display().to_string();
        let data_text = data.display().to_string();
        import(&["scienceqa", "--from", &path("problems_test_half.json"), "--data", &data_text]);
        import(&[
            "rationales",
            "--from",
            &path("mm_cot_rationales_test_half.json"),
            "--data",
            &data_text,
            "--round",
            "1",
        ]);
        let dataset = Dataset::open(&data).unwrap();
        let options = Options { data: vec![data.clone()], service: who, real_tokens: true, ..fast() };
        let service = TeacherService::start(options).unwrap();
        let url = service.url();
        let mut spent_before = 0.0;
        if !first_usd.is_empty() {
            // Without a public tokenizer the first replies determine the factor.
            collect(&data, &url, teacher, model, &["--max-usd", first_usd]);
            spent_before = dollars(&dataset);
            assert!(spent_before > 0.0);
        }
        let sent = service.stats().requests;
        let (estimated, _) = estimate(&data, &url, teacher, model, &[]);
        assert_eq!(service.stats().requests, sent, "an estimate sends nothing");
        collect(&data, &url, teacher, model, &[]);
        near(model, estimated, dollars(&dataset) - spent_before, 0.05);
        let rows = dataset.count::<Request>(1).unwrap();
        assert!(rows > 1_500, "{rows} {}", Request::NAME);
    }
}

#[test]
fn prompt_caching_is_in_the_dollars() {
    let place = Place::new(60, 4);
    let prompts = place.folder.path().join("prompts");
    std::fs::create_dir(&prompts).unwrap();
    let long = "Grade each sentence by whether it is true and helps with the question. ".repeat(400);
    std::fs::write(prompts.join("scores.md"), format!("{long}\nReply with JSON.")).unwrap();
    let prompts = prompts.to_str().unwrap();
    for (teacher, model) in [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4")] {
        let place = Place::new(60, 4);
        let service = place.service(Options { real_tokens: true, ..fast() });
        let url = service.url();
        let more = ["--prompts", prompts];
        if teacher == "anthropic" {
            collect(place.path(), &url, teacher, model, &["--prompts", prompts, "--max-usd", "0.12"]);
        }
        let before = dollars(&place.dataset);
        let (estimated, _) = estimate(place.path(), &url, teacher, model, &more);
        // One after the other, as the service's cache is only sure after its first reply.
        collect(place.path(), &url, teacher, model, &["--prompts", prompts, "--concurrency", "2"]);
        near(teacher, estimated, dollars(&place.dataset) - before, 0.05);
        let read: u64 = place.tables().requests.iter().map(|row| row.cached_input_tokens).sum();
        assert!(read > 100_000, "{teacher}: {read} tokens from the prompt cache");
    }
}

/// Pictures of many sizes in place of the small ones, including a phone photo.
fn put_pictures(place: &Place, problems: usize) {
    let small = [(640, 480), (1_024, 1_024), (30, 20), (1_920, 1_080)];
    let sizes = [&[(4_032, 3_024)], &small[..], &small[..]].concat();
    for (number, size) in (0..problems).step_by(3).zip(sizes.iter().cycle()) {
        let picture = image::GrayImage::from_pixel(size.0, size.1, image::Luma([200]));
        picture.save(place.path().join(format!("images/p{number}.png"))).unwrap();
    }
}

#[test]
fn bills_of_todays_models_are_what_was_estimated() {
    const PROBLEMS: usize = 60;
    for (teacher, model, who) in [
        ("anthropic", "claude-haiku-5-5", Service::Anthropic),
        ("anthropic", "claude-opus-5-5", Service::Anthropic),
        ("openai", "gpt-6-luna", Service::OpenAi),
        ("openai", "gpt-4.1", Service::OpenAi),
    ] {
        let mut all = Vec::new();
        for with_pictures in [false, true] {
            let place = Place::new(PROBLEMS, 0);
            write_rollouts(&place.dataset, "first", 0..PROBLEMS / 2, 2).unwrap();
            if with_pictures {
                put_pictures(&place, PROBLEMS);
            } else {
                let problems = (0..PROBLEMS)
                    .map(|number| schemas::Problem { image: None, ..small_dataset::problem(number) });
                schemas::table::write(&place.dataset.problems_path(), problems, &small_dataset::provenance())
                    .unwrap();
            }
            let service = place.service(Options { service: who, real_tokens: true, ..fast() });
            let url = service.url();
            let what = format!("{model}, {} pictures", if with_pictures { "with" } else { "without" });
            let (estimated, _) = estimate(place.path(), &url, teacher, model, &[]);
            collect(place.path(), &url, teacher, model, &[]);
            let first = dollars(&place.dataset);
            near(&what, estimated, first, 0.05);
            // From here on, the estimate is based on replies.
            write_rollouts(&place.dataset, "second", PROBLEMS / 2..PROBLEMS, 2).unwrap();
            let (estimated, _) = estimate(place.path(), &url, teacher, model, &[]);
            collect(place.path(), &url, teacher, model, &[]);
            let second = dollars(&place.dataset) - first;
            near(&format!("{what}, after replies"), estimated, second, 0.05);
            all.push(estimated);
        }
        assert!(all[1] > 1.2 * all[0], "{model}: pictures cost {all:?}");
    }
}
