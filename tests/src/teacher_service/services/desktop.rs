//! Desktop servers: Ollama and LM Studio.

use super::failure::{self, Failure};
use super::thinking::{Shown, at_effort, is_thinker};
use super::{OPENAI_LIKE, Profile, Route, Sent, older_limit, usage};
use crate::teacher_service::wire::Api;

pub(crate) static OLLAMA: Profile = OLLAMA_LIKE;

/// The same in Ollama's cloud, where a schema is silently ignored.
pub(crate) static OLLAMA_CLOUD: Profile = Profile {
    needs_key: true,
    bad_key: || Failure::new(401, "authentication_error", "key", "unauthorized"),
    drops_schema: |_| true,
    ..OLLAMA_LIKE
};

const OLLAMA_LIKE: Profile = Profile {
    needs_key: false,
    no_path: |_| Failure::new(404, "api_error", "path", "404 page not found"),
    blind: |_| Failure::bad("image", "this model is missing data required for image input"),
    check: ollama,
    // The newer name is silently ignored.
    limit: older_limit,
    thinks: local_thinking,
    shows: |_| Shown::Reasoning,
    usage: usage::bare,
    context: Some(4_096),
    ..OPENAI_LIKE
};

pub(crate) static LM_STUDIO: Profile = Profile {
    paths: &[("/v1/chat/completions", Route::Chat), ("/v1/messages", Route::Messages)],
    needs_key: false,
    blind: |_| Failure::bad("image", "Model does not support images. Please use a model that does."),
    word: |api, failure| match api {
        Api::Anthropic => failure::anthropic(api, failure),
        Api::OpenAi => failure::text(api, failure),
    },
    check: |sent| match sent.format() {
        Some("json_object") => {
            Err(Failure::bad("response_format", "'response_format.type' must be 'json_schema' or 'text'"))
        }
        _ => Ok(()),
    },
    limit: older_limit,
    thinks: local_thinking,
    shows: |sent| if sent.api == Api::Anthropic { Shown::Block } else { Shown::ReasoningContent },
    context: Some(8_192),
    ..OPENAI_LIKE
};

fn ollama(sent: &Sent<'_>) -> Result<(), Failure> {
    if sent.pictures.iter().any(|picture| !["png", "jpeg", "webp"].contains(&picture.kind)) {
        return Err(Failure::bad("image", "invalid image input"));
    }
    let efforts = ["none", "low", "medium", "high", "max"];
    match sent.text("reasoning_effort") {
        Some(effort) if !efforts.contains(&effort) => Err(Failure::bad(
            "reasoning_effort",
            format!(
                "invalid reasoning value: '{effort}' (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")"
            ),
        )),
        _ => Ok(()),
    }
}

/// Thinking tokens of a model on a server that runs any model.
pub(crate) fn local_thinking(sent: &Sent<'_>) -> u64 {
    let is_off = sent.body["chat_template_kwargs"]["enable_thinking"] == false
        || sent.body["thinking"]["type"] == "disabled";
    if is_off || !is_thinker(sent.model) {
        return 0;
    }
    at_effort(sent.text("reasoning_effort").unwrap_or("medium"))
}
