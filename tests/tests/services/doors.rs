//! Paths, keys, and each service's errors about them.

use crate::client::{BEARER, Desk, Header, chat, message, scores};
use serde_json::{Value, json};
use workspace_tests::teacher_service::{Options, Service};

const CHAT: &str = "/v1/chat/completions";

/// A service, its path, a path of other services, its key header, a model.
const DOORS: &[(Service, &str, &str, Header, &str)] = &[
    (Service::OpenAi, CHAT, "/chat/completions", BEARER, "gpt-4.1-mini"),
    (Service::Azure, "/openai/v1/chat/completions", CHAT, ("api-key", "k"), "gpt-4.1-mini"),
    (Service::Azure, "/openai/v1/chat/completions", CHAT, BEARER, "gpt-4.1-mini"),
    (
        Service::Gemini,
        "/v1beta/openai/chat/completions",
        "/v1beta/openai/v1/chat/completions",
        BEARER,
        "gemini-3.5-flash",
    ),
    (
        Service::Vertex,
        "/v1/projects/p/locations/l/endpoints/openapi/chat/completions",
        "/v1/projects/p/locations/l/endpoints/openapi/v1/chat/completions",
        BEARER,
        "google/gemini-3.5-flash",
    ),
    (Service::Bedrock, "/openai/v1/chat/completions", "/chat/completions", BEARER, "openai.gpt-oss-120b"),
    (Service::OpenRouter, "/api/v1/chat/completions", CHAT, BEARER, "google/gemini-3.5-flash"),
    (Service::DeepSeek, "/chat/completions", "/api/chat/completions", BEARER, "deepseek-flash"),
    (Service::DeepSeek, CHAT, "/v1/messages", BEARER, "deepseek-flash"),
    (Service::Mistral, CHAT, "/chat/completions", BEARER, "mistral-medium-latest"),
    (Service::XAi, CHAT, "/chat/completions", BEARER, "grok-4.6"),
    (Service::Groq, "/openai/v1/chat/completions", CHAT, BEARER, "openai/gpt-oss-20b"),
    (Service::Together, CHAT, "/chat/completions", BEARER, "meta-llama/Llama-4"),
    (Service::Fireworks, "/inference/v1/chat/completions", CHAT, BEARER, "accounts/fireworks/models/m"),
    (Service::Gateway, "/chat/completions", "/api/v1/chat/completions", BEARER, "openai/gpt-4.1-mini"),
    (Service::Vllm, CHAT, "/chat/completions", BEARER, "m"),
    (Service::SgLang, CHAT, "/chat/completions", BEARER, "m"),
    (Service::LlamaCpp, CHAT, "/v1/messages", BEARER, "m"),
    (Service::Ollama, CHAT, "/chat/completions", BEARER, "llama3"),
    (Service::LmStudio, CHAT, "/chat/completions", BEARER, "m"),
    (Service::TextsOnly, CHAT, "/chat/completions", BEARER, "m"),
    (Service::NoFormat, CHAT, "/chat/completions", BEARER, "m"),
];

#[test]
fn each_serves_its_own_paths_to_its_own_key() {
    for (service, path, wrong, header, model) in DOORS {
        let desk = Desk::new(Options { service: *service, key: Some("k".into()), ..Options::default() });
        let body = chat(model, &scores());
        let heard = desk.post(path, &[*header], &body);
        assert_eq!(heard.status, 200, "{service:?}: {}", heard.text());
        assert_eq!(desk.post(wrong, &[*header], &body).status, 404, "{service:?}");
        let refused = desk.post(path, &[(header.0, "Bearer wrong")], &body);
        assert!([400, 401, 403].contains(&refused.status), "{service:?}");
        let stats = desk.service.stats();
        assert_eq!((stats.refused, stats.refusals["path"], stats.refusals["key"]), (2, 1, 1), "{service:?}");
    }
}

#[test]
fn services_of_the_messages_api() {
    let version = ("anthropic-version", "2023-06-01");
    let key = ("x-api-key", "k");
    let doors = [
        (Service::Anthropic, "/v1/messages", key, "claude-haiku-5-5"),
        (Service::Anthropic, "/v1/messages", BEARER, "claude-haiku-5-5"),
        (Service::Bedrock, "/anthropic/v1/messages", BEARER, "anthropic.claude-haiku-5-5"),
        (Service::Gateway, "/v1/messages", key, "anthropic/claude-haiku-5-5"),
        (Service::Vllm, "/v1/messages", BEARER, "m"),
        (Service::SgLang, "/v1/messages", BEARER, "m"),
        (Service::LmStudio, "/v1/messages", BEARER, "m"),
    ];
    for (service, path, header, model) in doors {
        let desk = Desk::new(Options { service, key: Some("k".into()), ..Options::default() });
        let heard = desk.post(path, &[header, version], &message(model, &scores(), 4_096));
        assert_eq!(heard.status, 200, "{service:?}: {}", heard.text());
        assert_eq!(heard.json()["stop_reason"], "end_turn");
    }
    // A self-hosted server accepts a bearer key only, and with Anthropic the first key header counts.
    let desk = Desk::new(Options { service: Service::Vllm, key: Some("k".into()), ..Options::default() });
    let heard = desk.post("/v1/messages", &[key, version], &message("m", &scores(), 4_096));
    assert_eq!((heard.status, heard.json()), (401, json!({"error": "Unauthorized"})));
    let desk =
        Desk::new(Options { service: Service::Anthropic, key: Some("k".into()), ..Options::default() });
    let both = [("x-api-key", "old"), BEARER, version];
    let heard = desk.post("/v1/messages", &both, &message("claude-haiku-5-5", &scores(), 4_096));
    assert_eq!((heard.status, &heard.json()["error"]["type"]), (401, &json!("authentication_error")));
}

#[test]
fn wrong_keys_in_each_services_words() {
    let said = |service, path: &str| {
        let desk = Desk::new(Options { service, key: Some("k".into()), ..Options::default() });
        let heard = desk.post(path, &[("authorization", "Bearer wrong")], &chat("m", &scores()));
        (heard.status, heard.json())
    };
    let (status, body) = said(Service::Gemini, "/v1beta/openai/chat/completions");
    assert_eq!((status, &body[0]["error"]["status"]), (400, &json!("INVALID_ARGUMENT")));
    let (status, body) = said(Service::Mistral, CHAT);
    assert_eq!((status, body), (401, json!({"detail": "Unauthorized"})));
    let (status, body) = said(Service::XAi, CHAT);
    assert!(status == 400 && body["error"].is_string() && body["code"].is_string(), "{body}");
    let (status, body) = said(Service::Fireworks, "/inference/v1/chat/completions");
    assert_eq!((status, body), (401, json!({"error": "unauthorized"})));
    let (status, body) = said(Service::OpenAi, CHAT);
    assert_eq!((status, &body["error"]["code"]), (401, &json!("invalid_api_key")));
    let (status, body) = said(Service::Gateway, CHAT);
    assert_eq!((status, &body["error"]["code"]), (401, &json!("401")));
}

#[test]
fn any_endpoint_with_its_query() {
    let endpoint = Some("/api/v3/chat/completions?api-version=preview".to_owned());
    let desk = Desk::new(Options { service: Service::TextsOnly, endpoint, ..Options::default() });
    let body = chat("m", &scores());
    assert_eq!(desk.post("/api/v3/chat/completions?api-version=preview", &[], &body).status, 200);
    assert_eq!(desk.post("/api/v3/chat/completions", &[], &body).status, 404);
    assert_eq!(desk.post(CHAT, &[], &body).status, 404);
}

#[test]
fn requests_are_recorded_without_keys() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("requests.jsonl");
    let desk = Desk::new(Options { log_requests: Some(log.clone()), ..Options::default() });
    let body = chat("m", &scores());
    desk.post(CHAT, &[("authorization", "Bearer very-secret")], &body);
    desk.post("/v1/messages", &[("x-api-key", "very-secret")], &message("m", &scores(), 100));
    let seen = desk.service.requests();
    assert_eq!((seen.len(), &seen[0].body, &seen[1].auth), (2, &body, &vec!["x-api-key"]));
    let lines = std::fs::read_to_string(log).unwrap();
    assert!(!lines.contains("very-secret"));
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["path"], &first["body"]), (&json!(CHAT), &body));
    assert_eq!(first["headers"]["auth"], json!(["authorization"]));
}
