//! A gateway that passes requests on to OpenAI and Anthropic, as companies put before both.

use super::failure::{self, Failure};
use super::thinking::Shown;
use super::{KeyHeader, OPENAI_LIKE, Profile, Route, Sent, anthropic, claude, openai, usage};
use crate::teacher_service::wire::Api;

pub(crate) static GATEWAY: Profile = Profile {
    paths: &[
        ("/v1/chat/completions", Route::Chat),
        ("/chat/completions", Route::Chat),
        ("/v1/messages", Route::Messages),
        ("/anthropic/v1/messages", Route::Messages),
    ],
    keys: &[KeyHeader::XApiKey, KeyHeader::Bearer, KeyHeader::ApiKey],
    bad_key: || {
        Failure::new(401, "auth_error", "key", "Authentication Error, Invalid proxy server token passed.")
    },
    word: |api, failure| match api {
        Api::Anthropic => failure::anthropic(api, failure),
        Api::OpenAi => failure::gateway(api, failure),
    },
    check: |sent| passed_on(sent, check),
    thinks: |sent| {
        passed_on(sent, |sent| if is_claude(sent) { anthropic::thinks(sent) } else { openai::thinks(sent) })
    },
    shows: |sent| if sent.api == Api::Anthropic { Shown::Block } else { Shown::ReasoningContent },
    usage: usage::with_writes,
    text_factor: |model| if model.contains("claude-") { anthropic::text_factor(bare(model)) } else { 1.0 },
    picture: |sent, picture| {
        passed_on(sent, |sent| {
            if is_claude(sent) { anthropic::picture(sent, picture) } else { openai::picture(sent, picture) }
        })
    },
    ..OPENAI_LIKE
};

/// A model without the provider before its name.
fn bare(model: &str) -> &str {
    model.split_once('/').map_or(model, |(_, model)| model)
}

fn is_claude(sent: &Sent<'_>) -> bool {
    sent.model.starts_with("claude-")
}

fn passed_on<T>(sent: &Sent<'_>, read: impl FnOnce(&Sent<'_>) -> T) -> T {
    read(&Sent { model: bare(sent.model), ..*sent })
}

/// The provider's own refusals; over the chat API a Claude refuses its samplers only.
fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    match sent.api {
        Api::Anthropic => anthropic::check(sent),
        Api::OpenAi if is_claude(sent) => {
            let Some(claude) = claude::find(sent.model) else {
                return Err(Failure::new(404, "not_found_error", "model", format!("model: {}", sent.model)));
            };
            let takes_samplers = matches!(claude.sampling, claude::Sampling::Free | claude::Sampling::One);
            match sent.number("temperature") {
                Some(value) if value != 1.0 && !takes_samplers => {
                    Err(Failure::bad("temperature", "`temperature` is deprecated for this model."))
                }
                _ => Ok(()),
            }
        }
        Api::OpenAi => openai::check(sent),
    }
}
