//! The form of the services' replies: thinking, usage, limits, headers.

use crate::client::{BEARER, Desk, chat, message, scores, with, with_schema};
use serde_json::{Value, json};
use workspace_tests::teacher_service::limit::Allowance;
use workspace_tests::teacher_service::{Options, Service};

fn answer() -> String {
    Desk::of(Service::Permissive).chat(&chat("m", &scores())).content()
}

#[test]
fn thinking_counts_and_shows_where_the_service_has_it() {
    let desk = Desk::of(Service::Anthropic);
    let reply = desk.message(&message("claude-haiku-5-5", &scores(), 4_096)).json();
    let blocks = reply["content"].as_array().unwrap();
    assert_eq!(
        (blocks.len(), &blocks[0]["type"], &blocks[1]["text"]),
        (2, &json!("thinking"), &json!(answer()))
    );
    let thought = reply["usage"]["output_tokens_details"]["thinking_tokens"].as_u64().unwrap();
    assert!(reply["usage"]["output_tokens"].as_u64().unwrap() > thought && thought >= 256, "{reply}");
    // A small limit is used up by thinking before the text begins.
    let reply = desk.message(&message("claude-haiku-5-5", &scores(), 200)).json();
    assert_eq!(
        (&reply["stop_reason"], reply["content"].as_array().unwrap().len()),
        (&json!("max_tokens"), 1)
    );
    let reply = desk.message(&message("claude-haiku-4-5", &scores(), 200)).json();
    assert_eq!((&reply["stop_reason"], &reply["content"][0]["text"]), (&json!("end_turn"), &json!(answer())));

    let desk = Desk::of(Service::OpenAi);
    let body = |limit| with(chat("gpt-6-luna", &scores()), json!({"max_completion_tokens": limit}));
    let reply = desk.chat(&body(200)).json();
    assert_eq!(
        (&reply["choices"][0]["finish_reason"], &reply["choices"][0]["message"]["content"]),
        (&json!("length"), &json!(""))
    );
    assert_eq!(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], 200);
    let none = with(body(200), json!({"reasoning_effort": "none"}));
    assert_eq!(desk.chat(&none).content(), answer());
    assert_eq!(desk.chat(&body(4_000)).content(), answer());

    let thinks = |service, model: &str| Desk::of(service).chat(&chat(model, &scores()));
    let said = |heard: &crate::client::Heard| heard.json()["choices"][0]["message"].clone();
    assert!(said(&thinks(Service::Vllm, "qwen3-8b"))["reasoning"].is_string());
    assert!(said(&thinks(Service::SgLang, "qwen3-8b"))["reasoning_content"].is_string());
    assert!(said(&thinks(Service::DeepSeek, "deepseek-flash"))["reasoning_content"].is_string());
    let tagged = thinks(Service::VllmWithoutParser, "qwen3-8b").content();
    assert!(
        tagged.starts_with("<think>") && tagged.ends_with(&format!("</think>\n\n{}", answer())),
        "{tagged}"
    );
    let quiet =
        with(chat("qwen3-8b", &scores()), json!({"chat_template_kwargs": {"enable_thinking": false}}));
    assert_eq!(Desk::of(Service::VllmWithoutParser).chat(&quiet).content(), answer());
    let parts = said(&thinks(Service::Mistral, "magistral-small"))["content"].clone();
    assert_eq!((&parts[0]["type"], &parts[1]["text"]), (&json!("thinking"), &json!(answer())));
}

#[test]
fn usage_as_each_service_tells_it() {
    let usage = |service, path: &str, model: &str| {
        Desk::of(service).post(path, &[BEARER], &chat(model, &scores())).json()["usage"].clone()
    };
    let number = |usage: &Value, name: &str| usage[name].as_u64().unwrap();
    let usual = "/v1/chat/completions";
    let grok = usage(Service::XAi, usual, "grok-4.6");
    let reasoning = grok["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(reasoning > 0);
    let sum = number(&grok, "prompt_tokens") + number(&grok, "completion_tokens") + reasoning;
    assert_eq!(number(&grok, "total_tokens"), sum);
    let gemini = usage(Service::Gemini, "/v1beta/openai/chat/completions", "gemini-3.5-flash");
    assert!(
        number(&gemini, "total_tokens")
            > number(&gemini, "prompt_tokens") + number(&gemini, "completion_tokens")
    );
    let deepseek = usage(Service::DeepSeek, usual, "deepseek-flash");
    assert_eq!(
        number(&deepseek, "prompt_cache_hit_tokens") + number(&deepseek, "prompt_cache_miss_tokens"),
        number(&deepseek, "prompt_tokens")
    );
    let router = usage(Service::OpenRouter, "/api/v1/chat/completions", "google/gemini-3.5-flash");
    assert!(
        router["cost"].as_f64().unwrap() > 0.0 && router["prompt_tokens_details"]["cache_write_tokens"] == 0
    );
    assert!(usage(Service::Ollama, usual, "llama3")["prompt_tokens_details"].is_null());
}

#[test]
fn prompt_caches_as_each_service_keeps_them() {
    let long = "Read every sentence with care before you grade it. ".repeat(150);
    let ask = |desk: &Desk, model: &str, more: Value, marked: bool| {
        let mut body = with(chat(model, &scores()), more);
        body["messages"][0]["content"] = json!([{"type": "text", "text": long}]);
        if marked {
            body["messages"][0]["content"][0]["prompt_cache_breakpoint"] = json!({"mode": "explicit"});
        }
        let usage = desk.chat(&body).json()["usage"].clone();
        let details = &usage["prompt_tokens_details"];
        let prompt = usage["prompt_tokens"].as_u64().unwrap();
        (
            prompt,
            details["cache_write_tokens"].as_u64().unwrap_or(0),
            details["cached_tokens"].as_u64().unwrap(),
        )
    };
    // By default, newer models write the whole prompt to the cache.
    let desk = Desk::of(Service::OpenAi);
    let (prompt, written, read) = ask(&desk, "gpt-5.6-luna", json!({}), false);
    assert_eq!((written, read), (prompt, 0));
    let explicit = json!({"prompt_cache_options": {"mode": "explicit"}});
    assert_eq!(ask(&desk, "gpt-6-luna", explicit.clone(), false).1, 0);
    let (prompt, written, _) = ask(&desk, "gpt-6-luna", explicit.clone(), true);
    assert!(written > 1_024 && written < prompt);
    assert_eq!(ask(&desk, "gpt-6-luna", explicit, true).2, written);
    assert_eq!(ask(&desk, "gpt-4.1", json!({}), false).1, 0);
    assert!(ask(&desk, "gpt-4.1", json!({}), false).2 >= 1_024);

    let mut body = message("claude-haiku-5-5", &scores(), 4_096);
    body["system"][0]["text"] = long.clone().into();
    let desk = Desk::of(Service::Anthropic);
    assert_eq!(desk.message(&body).json()["usage"]["cache_creation_input_tokens"], 0);
    body["system"][0]["cache_control"] = json!({"type": "ephemeral"});
    let written = desk.message(&body).json()["usage"]["cache_creation_input_tokens"].as_u64().unwrap();
    assert!(written > 512);
    assert_eq!(desk.message(&body).json()["usage"]["cache_read_input_tokens"], written);
    let counted = desk.post(
        "/v1/messages/count_tokens",
        &[("x-api-key", "k"), ("anthropic-version", "2023-06-01")],
        &body,
    );
    assert!(counted.json()["input_tokens"].as_u64().unwrap() > written);
}

#[test]
fn ollama_hears_one_limit_only() {
    let desk = Desk::of(Service::Ollama);
    let long = |more: Value| {
        let replies = (0..40).map(|number| {
            let text = scores().replace("9 blue", &format!("{number} blue"));
            desk.chat(&with(chat("llama3", &text), more.clone())).json()
        });
        let ran_on: Vec<_> =
            replies.filter(|reply| reply["choices"][0]["finish_reason"] == "length").collect();
        assert!(ran_on.iter().all(|reply| reply["usage"]["total_tokens"].as_u64().unwrap() <= 4_100));
        ran_on.len()
    };
    assert!((2..30).contains(&long(json!({"max_completion_tokens": 500}))), "the newer name is dropped");
    assert_eq!(long(json!({"max_tokens": 500})), 0);
    let prose = Desk::of(Service::OllamaCloud).chat(&with_schema(chat("gpt-oss", &scores()))).content();
    assert!(prose.contains("```json") && prose.contains(&answer()), "{prose}");
}

#[test]
fn limits_by_the_day() {
    let allowance = Allowance { requests_per_minute: 60.0, input_tokens_per_minute: 0.0 };
    let told = |service, path: &str, model: &str| {
        let desk = Desk::new(Options { service, allowance, tell_limits: true, ..Options::default() });
        let headers = desk.post(path, &[BEARER], &chat(model, &scores())).headers;
        let line =
            headers.lines().find(|line| line.starts_with("x-ratelimit-limit-requests")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(told(Service::Groq, "/openai/v1/chat/completions", "openai/gpt-oss-20b"), "86400");
    assert_eq!(told(Service::OpenAi, "/v1/chat/completions", "gpt-4.1"), "60");
}
