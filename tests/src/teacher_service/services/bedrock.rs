//! Amazon Bedrock: OpenAI's chat API for several makers' models, Anthropic's for Claude; the vendor is in the name.

use super::failure::{self, Failure};
use super::{KeyHeader, OPENAI_LIKE, Profile, Route, Sent, anthropic, either_limit, openai};
use crate::teacher_service::wire::Api;

pub(crate) static BEDROCK: Profile = Profile {
    paths: &[
        ("/openai/v1/chat/completions", Route::Chat),
        ("/v1/chat/completions", Route::Chat),
        ("/anthropic/v1/messages", Route::Messages),
    ],
    keys: &[KeyHeader::Bearer, KeyHeader::XApiKey],
    bad_key: || {
        Failure::new(403, "permission_error", "key", "Authentication failed: the API key is not valid")
    },
    no_path: |_| Failure::new(404, "not_found_error", "path", "UnknownOperationException"),
    word: failure::by_api,
    check,
    limit: |sent| {
        if sent.api == Api::Anthropic { sent.body["max_tokens"].as_u64() } else { either_limit(sent) }
    },
    thinks: |sent| without_vendor(sent, |sent| by_api(sent, anthropic::thinks, openai::thinks)),
    shows: |_| super::Shown::Block,
    text_factor: |model| model.strip_prefix("anthropic.").map_or(1.0, anthropic::text_factor),
    picture: |sent, picture| {
        without_vendor(sent, |sent| {
            if sent.api == Api::Anthropic {
                anthropic::picture(sent, picture)
            } else {
                openai::picture(sent, picture)
            }
        })
    },
    ..OPENAI_LIKE
};

fn by_api<T>(sent: &Sent<'_>, claude: fn(&Sent<'_>) -> T, gpt: fn(&Sent<'_>) -> T) -> T {
    if sent.api == Api::Anthropic { claude(sent) } else { gpt(sent) }
}

/// Reads a request as if its model had no vendor before its name.
fn without_vendor<T>(sent: &Sent<'_>, read: impl FnOnce(&Sent<'_>) -> T) -> T {
    let model = sent.model.split_once('.').map_or(sent.model, |(_, model)| model);
    read(&Sent { model, ..*sent })
}

fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    let vendor = sent.model.split_once('.').map(|(vendor, _)| vendor);
    let is_served = match sent.api {
        Api::Anthropic => vendor == Some("anthropic"),
        Api::OpenAi => vendor.is_some_and(|vendor| vendor != "anthropic" && !vendor.starts_with("gpt-")),
    };
    if !is_served {
        let message = format!("The model '{}' isn't supported on this route.", sent.model);
        return Err(Failure::bad("model", message).code("validation_error"));
    }
    if sent.pictures.iter().any(|picture| picture.base64_len > 5 << 20) {
        return Err(Failure::bad("image", "image exceeds 5 MB maximum"));
    }
    if sent.api == Api::Anthropic {
        if !sent.body["output_config"]["format"].is_null() {
            let message = "output_config.format: Extra inputs are not permitted";
            return Err(Failure::bad("output_config", message));
        }
        return without_vendor(sent, anthropic::check);
    }
    if sent.has("max_tokens") {
        let message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
        return Err(Failure::bad("max_tokens", message).code("unsupported_parameter").param());
    }
    // Other vendors' models have other rules, which the simulation does not know.
    if vendor == Some("openai") && !sent.model.contains("gpt-oss") {
        return without_vendor(sent, openai::check);
    }
    openai::format(sent)
}
