//! Hosts of open models: Groq, Together and Fireworks.

use super::desktop::local_thinking;
use super::failure::{self, Failure};
use super::thinking::Shown;
use super::{OPENAI_LIKE, Profile, Route, Sent, older_limit};
use crate::teacher_service::wire::Api;

pub(crate) static GROQ: Profile = Profile {
    paths: &[("/openai/v1/chat/completions", Route::Chat)],
    batches: &[("/openai/v1", Api::OpenAi)],
    bad_key: || Failure::new(401, "invalid_request_error", "key", "Invalid API Key").code("invalid_api_key"),
    blind: |_| Failure::bad("image", "messages[1].content must be a string"),
    check: groq,
    thinks: local_thinking,
    shows: |_| Shown::Reasoning,
    counts_days: true,
    ..OPENAI_LIKE
};

/// Models that support schemas.
const WITH_SCHEMA: &[&str] = &["openai/gpt-oss-", "moonshotai/kimi-k2", "meta-llama/llama-4-"];

fn groq(sent: &Sent<'_>) -> Result<(), Failure> {
    let takes_schema = WITH_SCHEMA.iter().any(|start| sent.model.starts_with(start));
    if sent.format() == Some("json_schema") && !takes_schema {
        let message = "This model does not support response format `json_schema`.";
        return Err(Failure::bad("response_format", message).param());
    }
    if sent.has("reasoning_effort") && !super::thinking::is_thinker(sent.model) {
        let message = "`reasoning_effort` is not supported with this model";
        return Err(Failure::bad("reasoning_effort", message));
    }
    if let Some(field) = ["verbosity", "prompt_cache_options"].into_iter().find(|field| sent.has(field)) {
        let message = format!("property '{field}' is unsupported");
        return Err(Failure::bad(field, message));
    }
    Ok(())
}

pub(crate) static TOGETHER: Profile = Profile {
    bad_key: || {
        Failure::new(401, "invalid_request_error", "key", "Invalid API key provided.").code("invalid_api_key")
    },
    check: |sent| {
        if sent.model.contains('/') {
            return Ok(());
        }
        let message = format!("Unable to access model {}. Please visit the list of models.", sent.model);
        Err(Failure::new(404, "invalid_request_error", "model", message).code("model_not_available"))
    },
    limit: |sent| older_limit(sent).or(Some(2_048)),
    thinks: local_thinking,
    shows: |_| Shown::Reasoning,
    ..OPENAI_LIKE
};

pub(crate) static FIREWORKS: Profile = Profile {
    paths: &[("/inference/v1/chat/completions", Route::Chat)],
    bad_key: || Failure::new(401, "authentication_error", "key", "unauthorized"),
    no_path: |_| Failure::new(404, "not_found", "path", "Path not found"),
    word: failure::fireworks,
    check: fireworks,
    thinks: local_thinking,
    shows: |_| Shown::ReasoningContent,
    ..OPENAI_LIKE
};

fn fireworks(sent: &Sent<'_>) -> Result<(), Failure> {
    if !sent.model.starts_with("accounts/") {
        let message = "Model not found, inaccessible, and/or not deployed";
        return Err(Failure::new(404, "not_found", "model", message).code("NOT_FOUND"));
    }
    if let Some(field) = ["verbosity", "prompt_cache_options"].into_iter().find(|field| sent.has(field)) {
        let message = format!("Extra inputs are not permitted, field: '{field}'");
        return Err(Failure::bad(field, message));
    }
    Ok(())
}
