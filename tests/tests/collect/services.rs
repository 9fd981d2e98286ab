//! Every current service works with default settings: each line of README's table of Teachers against its
//! simulation, and models of all kinds besides.

use crate::shared::Place;
use std::time::Duration;
use workspace_tests::command::{Ran, collect_feedback, run};
use workspace_tests::teacher_service::{Options, Service, TeacherService};

/// A key for services that need one.
const KEY: &str = "sk-a-key-of-the-tests";

/// README's name of a service, and its simulation.
const STAND_INS: [(&str, Service); 20] = [
    ("Anthropic", Service::Anthropic),
    ("OpenAI", Service::OpenAi),
    ("Gemini", Service::Gemini),
    ("Azure OpenAI", Service::Azure),
    ("Bedrock", Service::Bedrock),
    ("Bedrock, Claude", Service::Bedrock),
    ("Vertex AI", Service::Vertex),
    ("OpenRouter", Service::OpenRouter),
    ("DeepSeek", Service::DeepSeek),
    ("Mistral", Service::Mistral),
    ("xAI", Service::XAi),
    ("Groq", Service::Groq),
    ("Together", Service::Together),
    ("Fireworks", Service::Fireworks),
    ("LiteLLM", Service::Gateway),
    ("vLLM", Service::Vllm),
    ("SGLang", Service::SgLang),
    ("llama.cpp", Service::LlamaCpp),
    ("Ollama", Service::Ollama),
    ("LM Studio", Service::LmStudio),
];

fn place() -> Place {
    Place::new(10, 3)
}

fn stand_in(place: &Place, service: Service) -> TeacherService {
    place.service(Options {
        service,
        latency: Duration::from_millis(5),
        key: Some(KEY.to_owned()),
        ..Options::default()
    })
}

fn scores(place: &Place, arguments: &[&str]) -> Ran {
    let mut command = collect_feedback(place.path(), &["--round", "1", "--stage", "scores"]);
    command.args(arguments).env("ANTHROPIC_API_KEY", KEY).env("OPENAI_API_KEY", KEY);
    run(command).unwrap()
}

/// All 30 rollouts are scored as the reference Teacher does, and at most three requests are refused.
fn check(what: &str, place: &Place, service: &TeacherService, ran: &Ran) {
    assert_eq!(ran.status, Some(0), "{what}: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("30 rollouts scored, 0 rejected"), "{what}: {}{}", ran.stdout, ran.stderr);
    let stats = service.stats();
    assert!(stats.refused <= 3, "{what}: {:?}\n{}", stats.refusals, ran.stderr);
    let reference = self::place();
    assert_eq!(reference.reference(&["--round", "1", "--stage", "scores"]).status, Some(0));
    let said = |place: &Place| -> Vec<_> {
        let scores = place.tables().scores;
        scores.into_iter().map(|row| (row.rollout_id, row.sentence_index, row.score)).collect()
    };
    assert_eq!(said(place), said(&reference), "{what}");
}

/// A line's flags, with the simulation's address in place of the service's.
fn at_stand_in(flags: &str, service: &TeacherService) -> Vec<String> {
    let mut flags: Vec<String> = flags.split_whitespace().map(ToOwned::to_owned).collect();
    match flags.iter().position(|flag| flag == "--base-url") {
        Some(place) => {
            let path = flags[place + 1].splitn(4, '/').nth(3).unwrap_or_default();
            flags[place + 1] = format!("{}/{path}", service.url()).trim_end_matches('/').to_owned();
        }
        None => flags.extend(["--base-url".to_owned(), service.url()]),
    }
    flags
}

#[test]
fn each_line_of_the_table_of_teachers_works() {
    let readme = include_str!("../../../README.md");
    let rows: Vec<(&str, &str)> = readme
        .lines()
        .filter(|line| line.starts_with('|') && line.contains("`--teacher "))
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((*cells.get(1)?, cells.get(3)?.trim_matches('`')))
        })
        .collect();
    assert_eq!(rows.len(), STAND_INS.len(), "{rows:?}");
    for (name, flags) in rows {
        let (_, kind) = STAND_INS.into_iter().find(|(known, _)| *known == name).unwrap();
        let place = place();
        let service = stand_in(&place, kind);
        let flags = at_stand_in(flags, &service);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ran = scores(&place, &flags);
        check(&format!("{name} {flags:?}"), &place, &service, &ran);
    }
}

#[test]
fn models_of_every_kind_answer() {
    let table = [
        (Service::Anthropic, "anthropic", "", "claude-opus-5-5"),
        (Service::Anthropic, "anthropic", "", "claude-fable-5-2"),
        (Service::Anthropic, "anthropic", "", "claude-sonnet-5-5"),
        (Service::Anthropic, "anthropic", "/v1", "claude-opus-4-7"),
        (Service::Anthropic, "anthropic", "/v1/messages", "claude-haiku-4-5-20251001"),
        (Service::OpenAi, "openai", "", "gpt-6.1-sol"),
        (Service::OpenAi, "openai", "/v1", "gpt-6-astra"),
        (Service::OpenAi, "openai", "/v1/chat/completions", "gpt-6.1-terra"),
        (Service::OpenAi, "openai", "", "gpt-5.6-luna"),
        (Service::OpenAi, "openai", "", "gpt-5.1"),
        (Service::OpenAi, "openai", "", "gpt-5-mini"),
        (Service::OpenAi, "openai", "", "o3"),
        (Service::OpenAi, "openai", "", "gpt-4.1"),
        (Service::OpenAi, "openai", "", "gpt-4o-mini-2024-07-18"),
        (Service::Mistral, "openai", "/v1", "magistral-medium-latest"),
        (Service::XAi, "openai", "/v1", "grok-4.6"),
        (Service::XAi, "openai", "/v1", "grok-4.20-reasoning"),
        (Service::OpenRouter, "openai", "/api/v1", "anthropic/claude-opus-5-5"),
        (Service::Groq, "openai", "/openai/v1", "openai/gpt-oss-20b"),
        (Service::Gateway, "openai", "", "anthropic/claude-haiku-5-5"),
        (Service::Gateway, "openai", "/v1", "openai/gpt-6.1-sol"),
        (Service::Vllm, "anthropic", "", "Qwen3-VL"),
        (Service::VllmWithoutParser, "openai", "/v1", "qwen3-thinking"),
        (Service::LmStudio, "anthropic", "", "local"),
        (Service::OllamaCloud, "openai", "/v1", "gpt-oss"),
        (Service::TextsOnly, "openai", "/v1", "old"),
        (Service::NoSystem, "openai", "/v1", "gemma"),
        (Service::NoFormat, "openai", "/v1", "plain"),
    ];
    for (kind, teacher, path, model) in table {
        let place = if kind == Service::TextsOnly { without_pictures() } else { place() };
        let service = stand_in(&place, kind);
        let url = format!("{}{path}", service.url());
        let ran = scores(&place, &["--teacher", teacher, "--base-url", &url, "--model", model]);
        check(&format!("{kind:?} {model}"), &place, &service, &ran);
    }
}

/// The same dataset without pictures.
fn without_pictures() -> Place {
    let place = place();
    let problems: Vec<schemas::Problem> = place.dataset.problems().unwrap();
    let problems = problems.into_iter().map(|problem| schemas::Problem { image: None, ..problem });
    let provenance = schemas::Provenance::new("test", "");
    schemas::table::write(&place.dataset.problems_path(), problems, &provenance).unwrap();
    place
}

#[test]
fn a_model_that_cannot_see_ends_the_run_and_nothing_is_asked_blind() {
    let place = place();
    let service = place.service(Options { blind: true, service: Service::Vllm, ..Options::default() });
    let url = format!("{}/v1", service.url());
    let ran = scores(&place, &["--teacher", "openai", "--base-url", &url, "--model", "text-only"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot see pictures") && ran.stderr.contains(&url), "{}", ran.stderr);
    assert!(service.stats().refused <= 3, "{:?}", service.stats().refusals);
    let pictures: std::collections::BTreeSet<String> = place
        .dataset
        .problems()
        .unwrap()
        .into_iter()
        .filter(|p: &schemas::Problem| p.image.is_some())
        .map(|p| p.problem_id)
        .collect();
    assert!(place.tables().scores.iter().all(|row| !pictures.contains(&row.problem_id)));
    assert!(place.tables().rejects.is_empty());
}

#[test]
fn a_setting_by_hand_that_is_refused_is_named() {
    let place = place();
    let service = stand_in(&place, Service::Anthropic);
    let url = service.url();
    let ran = scores(&place, &["--teacher", "anthropic", "--base-url", &url, "--teacher-temperature", "0.2"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("teacher.temperature is set, and the service refuses it"), "{}", ran.stderr);
    assert!(service.stats().refused <= 3);
}

#[test]
fn an_address_without_a_scheme_ends_at_once() {
    let place = place();
    let ran = scores(&place, &["--teacher", "openai", "--base-url", "localhost:8000/v1"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("localhost:8000/v1"), "{}", ran.stderr);
    assert!(!place.dataset.feedback_path().exists());
}

#[test]
fn what_was_learned_stands_in_the_ledger_and_is_told_once() {
    let place = place();
    let service = stand_in(&place, Service::Mistral);
    let url = format!("{}/v1", service.url());
    let flags = ["--teacher", "openai", "--base-url", &url, "--model", "mistral-medium-latest"];
    let ran = scores(&place, &flags);
    check("mistral", &place, &service, &ran);
    let dialects: std::collections::BTreeSet<_> =
        place.tables().requests.into_iter().filter(|row| !row.cached).map(|row| row.dialect).collect();
    assert_eq!(dialects.len(), 1, "{dialects:?}");
    assert!(
        dialects.first().unwrap().as_deref().is_some_and(|text| text.starts_with("max_tokens")),
        "{dialects:?}"
    );
}
