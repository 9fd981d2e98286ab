//! DeepSeek: no schemas, one name for the limit, thinking shown unless it is turned off.

use super::failure::Failure;
use super::thinking::{Shown, at_effort};
use super::tokens::Caching;
use super::{OPENAI_LIKE, Profile, Route, Sent, older_limit, pictures, usage};

pub(crate) static DEEPSEEK: Profile = Profile {
    paths: &[("/chat/completions", Route::Chat), ("/v1/chat/completions", Route::Chat)],
    bad_key: || {
        Failure::new(401, "authentication_error", "key", "Authentication Fails, Your api key is invalid")
            .code("invalid_request_error")
    },
    no_money: || {
        Failure::new(402, "unknown_error", "money", "Insufficient Balance").code("invalid_request_error")
    },
    blind: |_| {
        Failure::bad("image", "unknown variant `image_url`, expected `text`").code("invalid_request_error")
    },
    check,
    // The other name is unknown and silently ignored.
    limit: |sent| older_limit(sent).or(Some(32_768)),
    thinks: |sent| {
        if sent.body["thinking"]["type"] == "disabled" {
            return 0;
        }
        at_effort(sent.text("reasoning_effort").unwrap_or("medium"))
    },
    shows: |_| Shown::ReasoningContent,
    usage: usage::hits,
    picture: |_, picture| Ok(pictures::patches(picture, 28).min(384)),
    caching: |_| Caching::Free(64),
    ..OPENAI_LIKE
};

fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    if !sent.model.starts_with("deepseek-") {
        return Err(Failure::bad("model", "Model Not Exist").code("invalid_request_error"));
    }
    match sent.format() {
        Some("json_schema") => {
            let message = "This response_format type is unavailable now";
            Err(Failure::bad("response_format", message).code("invalid_request_error"))
        }
        Some("json_object") if !sent.body["messages"].to_string().to_lowercase().contains("json") => {
            let message = "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.";
            Err(Failure::bad("response_format", message).code("invalid_request_error"))
        }
        _ => Ok(()),
    }
}
