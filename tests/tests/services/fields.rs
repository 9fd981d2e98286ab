//! The fields that each service refuses, and its messages.

use crate::client::{
    BEARER, Desk, chat, chat_with_picture, correction, judgement, message, picture, schema, scores, with,
    with_schema,
};
use serde_json::{Value, json};
use workspace_tests::small_dataset::PICTURE;
use workspace_tests::teacher_service::{Options, Service};

/// Status and message, by model and added fields.
fn asked(desk: &Desk, claude: bool, model: &str, more: Value) -> (u16, String) {
    let heard = if claude {
        desk.message(&with(message(model, &scores(), 8_000), more))
    } else {
        desk.chat(&with(chat(model, &scores()), more))
    };
    (heard.status, heard.text())
}

#[test]
fn claude_by_model() {
    let desk = Desk::of(Service::Anthropic);
    let format =
        |schema: Value| json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let mut open = schema();
    open["properties"]["scores"]["items"]["additionalProperties"] = Value::Null;
    let mut ranged = schema();
    ranged["properties"]["scores"]["items"]["properties"]["score"]["maximum"] = 1.into();
    let taken = [
        ("claude-haiku-4-5", json!({"temperature": 0})),
        ("claude-sonnet-4-6", json!({"temperature": 0, "top_p": 0.9})),
        ("claude-opus-4-6", json!({"thinking": {"type": "enabled", "budget_tokens": 1024}})),
        ("claude-haiku-5-5", json!({"temperature": 1})),
        ("claude-haiku-5-5", json!({"top_p": 0.99})),
        ("claude-opus-5", json!({"thinking": {"type": "disabled"}})),
        ("claude-sonnet-5-5", json!({"thinking": {"type": "between_tools"}})),
        ("claude-opus-5-5", json!({"output_config": {"effort": "low"}})),
        ("claude-haiku-5-5", format(schema())),
    ];
    for (model, more) in taken {
        let (status, said) = asked(&desk, true, model, more.clone());
        assert_eq!(status, 200, "{model} {more}: {said}");
    }
    let refused = [
        ("claude-haiku-4-5", json!({"temperature": 0, "top_p": 0.9}), "top_p"),
        ("claude-opus-4-8", json!({"temperature": 0}), "temperature"),
        ("claude-sonnet-5-5", json!({"temperature": 0}), "temperature"),
        ("claude-haiku-5-5", json!({"temperature": 0}), "temperature"),
        ("claude-haiku-5-5", json!({"top_k": 5}), "top_k"),
        (
            "claude-haiku-5-5",
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            "thinking.type.enabled",
        ),
        ("claude-opus-5-5", json!({"thinking": {"type": "disabled"}}), "thinking.type.disabled"),
        (
            "claude-opus-5",
            json!({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}),
            "thinking",
        ),
        ("claude-haiku-4-5", json!({"output_config": {"effort": "low"}}), "effort parameter"),
        ("claude-opus-4-5", json!({"output_config": {"effort": "max"}}), "effort"),
        ("claude-haiku-5-5", format(open), "additionalProperties"),
        ("claude-haiku-5-5", format(ranged), "maximum"),
        ("claude-haiku-4-5", json!({"max_tokens": 100_000}), "max_tokens"),
        ("claude-haiku-5-5", json!({"response_format": {}}), "Extra inputs are not permitted"),
    ];
    for (model, more, words) in refused {
        let (status, said) = asked(&desk, true, model, more.clone());
        assert!(status == 400 && said.contains(words), "{model} {more}: {status} {said}");
        assert!(said.contains("invalid_request_error") && !said.contains("\"param\""), "{said}");
    }
    let (status, said) = asked(&desk, true, "claude-3-5-haiku-latest", json!({}));
    assert!(status == 404 && said.contains("not_found_error"), "{status} {said}");
    assert_eq!(desk.service.stats().refused, 15);
    // The newer version has no samplers at all.
    let newer = [("x-api-key", "k"), ("anthropic-version", "2026-10-21")];
    let body = with(message("claude-sonnet-4-6", &scores(), 500), json!({"temperature": 1}));
    assert!(
        desk.post("/v1/messages", &newer, &body)
            .text()
            .contains("temperature: Extra inputs are not permitted")
    );
    assert_eq!(desk.post("/v1/messages", &[newer[0]], &body).status, 400);
}

#[test]
fn gpt_by_model() {
    let desk = Desk::of(Service::OpenAi);
    let taken = [
        ("gpt-4.1-mini", json!({"temperature": 0, "max_tokens": 500})),
        ("gpt-4.1-mini", json!({"max_completion_tokens": 500})),
        ("gpt-5-mini", json!({"temperature": 1, "reasoning_effort": "minimal"})),
        ("gpt-5.2", json!({"temperature": 0})),
        ("gpt-6-luna", json!({"temperature": 0, "reasoning_effort": "none"})),
        ("gpt-5.6-luna", json!({"prompt_cache_options": {"mode": "explicit"}, "verbosity": "low"})),
    ];
    for (model, more) in taken {
        let (status, said) = asked(&desk, false, model, more.clone());
        assert_eq!(status, 200, "{model} {more}: {said}");
    }
    let refused = [
        ("gpt-5-mini", json!({"temperature": 0}), "unsupported_value", "temperature"),
        ("o3", json!({"temperature": 0}), "unsupported_parameter", "temperature"),
        ("gpt-6-luna", json!({"temperature": 0}), "unsupported_parameter", "temperature"),
        ("gpt-5-mini", json!({"max_tokens": 500}), "unsupported_parameter", "max_tokens"),
        ("gpt-6-astra", json!({"reasoning_effort": "none"}), "unsupported_value", "reasoning_effort"),
        ("gpt-6.1-sol", json!({"reasoning_effort": "none"}), "unsupported_value", "reasoning_effort"),
        ("gpt-5.4", json!({"prompt_cache_options": {}}), "unknown_parameter", "prompt_cache_options"),
        ("gpt-4o", json!({"top_k": 5}), "unknown_parameter", "top_k"),
        ("gpt-4o", json!({"verbosity": "low"}), "unsupported_parameter", "verbosity"),
    ];
    for (model, more, code, param) in refused {
        let (status, said) = asked(&desk, false, model, more.clone());
        let error: Value = serde_json::from_str(&said).unwrap();
        let told = (status, &error["error"]["code"], &error["error"]["param"]);
        assert_eq!(told, (400, &json!(code), &json!(param)), "{model} {more}");
        assert!(desk.service.stats().refusals.contains_key(param));
    }
    let (status, said) = asked(&desk, false, "gpt-4.1", json!({"reasoning_effort": "low"}));
    assert!(
        status == 400
            && said.contains("argument supplied: reasoning_effort")
            && said.contains("\"param\":null")
    );
    let (status, said) = asked(&desk, false, "gpt-4.1-nano", json!({}));
    assert!(status == 404 && said.contains("model_not_found"), "{said}");
    let mut open = with_schema(chat("gpt-4.1", &scores()));
    assert_eq!(desk.chat(&open).status, 200);
    open["response_format"]["json_schema"]["schema"]["required"] = json!([]);
    assert!(desk.chat(&open).text().contains("Missing 'scores'"));
}

#[test]
fn formats_and_limits_of_other_services() {
    let limited = |body: Value| with(body, json!({"max_completion_tokens": 900}));
    let refused = |service, path: &str, body: Value| {
        let heard = Desk::of(service).post(path, &[BEARER], &body);
        (heard.status, heard.text())
    };
    let usual = "/v1/chat/completions";
    let (status, said) = refused(Service::Mistral, usual, limited(chat("mistral-large-latest", &scores())));
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &error["object"]), (422, &json!("error")));
    assert_eq!(error["message"]["detail"][0]["loc"], json!(["body", "max_completion_tokens"]));
    let (status, said) = refused(Service::DeepSeek, usual, with_schema(chat("deepseek-flash", &scores())));
    assert!(status == 400 && said.contains("response_format type is unavailable now"), "{said}");
    let (status, said) = refused(
        Service::LmStudio,
        usual,
        with(chat("m", &scores()), json!({"response_format": {"type": "json_object"}})),
    );
    assert!(status == 400 && said.contains("'json_schema' or 'text'"), "{said}");
    let (status, said) = refused(Service::NoFormat, usual, with_schema(chat("m", &scores())));
    assert!(status == 400 && said.contains("response_format"), "{said}");
    let (status, said) = refused(Service::NoSystem, usual, chat("m", &scores()));
    assert!(status == 400 && said.contains("System role not supported"), "{said}");
    let (status, said) =
        refused(Service::TextsOnly, usual, chat_with_picture("m", PICTURE, "image/png", None));
    assert!(status == 422 && said.starts_with("Failed to deserialize"), "{said}");
    let effort = with(chat("grok-4.20-reasoning", &scores()), json!({"reasoning_effort": "low"}));
    let (status, said) = refused(Service::XAi, usual, effort);
    assert!(status == 400 && said.contains("reasoningEffort"), "{said}");
    let (status, said) = refused(Service::LlamaCpp, usual, with(chat("m", &scores()), json!({"n": 2})));
    assert!(status == 400 && said.contains("\"code\":400"), "{said}");
    let groq = "/openai/v1/chat/completions";
    let (status, said) =
        refused(Service::Groq, groq, with_schema(chat("llama-3.3-70b-versatile", &scores())));
    assert!(status == 400 && said.contains("does not support response format"), "{said}");
    let verbose = with(chat("gemini-3.5-flash", &scores()), json!({"verbosity": "low"}));
    let (status, said) = refused(Service::Gemini, "/v1beta/openai/chat/completions", verbose);
    assert!(status == 400 && said.starts_with("[{\"error\"") && said.contains("verbosity"), "{said}");
    let router = "/api/v1/chat/completions";
    let strict =
        with(with_schema(chat("a/b:free", &scores())), json!({"provider": {"require_parameters": true}}));
    let (status, said) = refused(Service::OpenRouter, router, strict);
    assert!(status == 404 && said.contains("No endpoints found"), "{said}");
    let hot = with(chat("openai/gpt-6-luna", &scores()), json!({"temperature": 0}));
    let (status, said) = refused(Service::Gateway, usual, hot);
    assert!(
        status == 400 && said.contains("ProviderException") && said.contains("\"code\":\"400\""),
        "{said}"
    );
    let format = json!({"output_config": {"format": {"type": "json_schema", "schema": schema()}}});
    let body = with(message("anthropic.claude-haiku-5-5", &scores(), 4_096), format);
    let version = ("anthropic-version", "2023-06-01");
    let heard = Desk::of(Service::Bedrock).post("/anthropic/v1/messages", &[BEARER, version], &body);
    assert!(heard.status == 400 && heard.text().contains("output_config"), "{}", heard.text());
    let (status, said) = refused(Service::Bedrock, groq, chat("gpt-6-luna", &scores()));
    assert!(status == 400 && said.contains("isn't supported on this route"), "{said}");
}

#[test]
fn servers_without_a_field_answer_without_it() {
    let folded = |text: String| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    for text in [scores(), correction(), judgement()] {
        let heard = Desk::of(Service::NoSystem).chat(&folded(text.clone()));
        assert_eq!(heard.content(), Desk::of(Service::NoFormat).chat(&chat("m", &text)).content());
    }
}

#[test]
fn pictures() {
    // Only pictures that the service's models support.
    for (service, path, model, words) in [
        (Service::Vllm, "/v1/chat/completions", "m", "not a multimodal model"),
        (Service::LlamaCpp, "/v1/chat/completions", "m", "mmproj"),
        (Service::OpenRouter, "/api/v1/chat/completions", "a/b", "support image input"),
        (Service::Permissive, "/v1/chat/completions", "m", "does not support image"),
    ] {
        let desk = Desk::new(Options { service, blind: true, ..Options::default() });
        let heard = desk.post(path, &[BEARER], &chat_with_picture(model, PICTURE, "image/png", None));
        assert!(heard.status >= 400 && heard.text().contains(words), "{service:?}: {}", heard.text());
        assert_eq!(desk.post(path, &[BEARER], &chat(model, &scores())).status, 200);
        assert_eq!(desk.service.stats().refusals["image"], 1);
    }
    let gif = b"GIF89a\x02\0\x02\0\0\0\0;";
    let heard = Desk::of(Service::Ollama).chat(&chat_with_picture("llava", gif, "image/gif", None));
    assert_eq!((heard.status, heard.text().contains("invalid image input")), (400, true));
    assert_eq!(
        Desk::of(Service::DeepSeek).chat(&chat_with_picture("deepseek-flash", gif, "image/gif", None)).status,
        200
    );
    // Tokens beyond those of a small picture.
    let tokens = |model: &str, (width, height), detail| {
        let desk = Desk::of(Service::OpenAi);
        let heard = desk.chat(&chat_with_picture(model, &picture(width, height), "image/png", detail));
        let small = desk.chat(&chat_with_picture(model, PICTURE, "image/png", detail));
        let count = |value: &Value| value["usage"]["prompt_tokens"].as_u64().unwrap();
        (heard.status == 200).then(|| count(&heard.json()) - count(&small.json()))
    };
    assert_eq!(tokens("gpt-6-luna", (1_024, 1_024), None), Some(1_229 - 2));
    assert_eq!(tokens("gpt-6-luna", (4_032, 3_024), Some("high")), Some(2_942 - 2));
    assert_eq!(tokens("gpt-6-luna", (8_000, 8_000), None), None, "more patches than are taken");
    assert_eq!(tokens("gpt-4o", (1_024, 1_024), None), Some(765 - 255));
}
