//! Anthropic's API.

use super::claude::{self, Claude, Sampling, Thinking};
use super::failure::{self, Failure};
use super::thinking::{Shown, at_effort};
use super::tokens::Caching;
use super::{KeyHeader, PERMISSIVE, Profile, Route, Sent, pictures, schema};
use crate::teacher_service::wire::{Api, Picture};
use serde_json::Value;

pub(crate) static ANTHROPIC: Profile = Profile {
    paths: &[("/v1/messages", Route::Messages), ("/v1/messages/count_tokens", Route::CountTokens)],
    batches: &[("/v1/messages", Api::Anthropic)],
    keys: &[KeyHeader::XApiKey, KeyHeader::Bearer],
    needs_key: true,
    bad_key: || Failure::new(401, "authentication_error", "key", "invalid x-api-key"),
    no_money: || {
        Failure::bad(
            "money",
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
        )
    },
    no_path: |_| Failure::new(404, "not_found_error", "path", "Not Found"),
    blind: |sent| Failure::bad("image", format!("{} does not support image input", sent.model)),
    word: failure::anthropic,
    check,
    limit: |sent| sent.body["max_tokens"].as_u64(),
    thinks,
    shows: |_| Shown::Block,
    text_factor,
    picture,
    caching,
    is_named: true,
    ..PERMISSIVE
};

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "thinking",
    "output_config",
    "metadata",
    "tools",
    "tool_choice",
    "service_tier",
    "inference_geo",
    "cache_control",
    "container",
    "context_management",
    "mcp_servers",
    "speed",
];

/// Unsupported schema keywords.
const NOT_TAKEN: &[&str] = &[
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "oneOf",
];

/// Refuses fields that the model does not support.
pub(crate) fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    let Some(version) = sent.version else {
        return Err(Failure::bad("anthropic-version", "anthropic-version: header is required"));
    };
    if !["2023-06-01", "2026-10-21"].contains(&version) {
        return Err(Failure::bad(
            "anthropic-version",
            format!("anthropic-version: \"{version}\" is not a valid version"),
        ));
    }
    let claude = known(sent.model)?;
    if let Some(field) = sent.unknown(FIELDS) {
        return Err(extra(field));
    }
    let samplers = ["temperature", "top_p", "top_k"];
    if let Some(field) = samplers.into_iter().find(|field| version != "2023-06-01" && sent.has(field)) {
        return Err(extra(field));
    }
    sampling(claude, sent)?;
    thinking(claude, sent)?;
    effort(claude, sent)?;
    format(sent)?;
    limits(claude, sent)
}

fn known(model: &str) -> Result<&'static Claude, Failure> {
    claude::find(model)
        .ok_or_else(|| Failure::new(404, "not_found_error", "model", format!("model: {model}")))
}

fn extra(field: &str) -> Failure {
    Failure::bad(field, format!("{field}: Extra inputs are not permitted"))
}

fn sampling(claude: &Claude, sent: &Sent<'_>) -> Result<(), Failure> {
    let not_taken =
        |field: &str| Err(Failure::bad(field, format!("`{field}` is deprecated for this model.")));
    let (temperature, top_p) = (sent.number("temperature"), sent.number("top_p"));
    let both = temperature.is_some() && top_p.is_some();
    match claude.sampling {
        Sampling::Free => Ok(()),
        Sampling::One | Sampling::Fixed if both => Err(Failure::bad(
            "top_p",
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        )),
        Sampling::One => Ok(()),
        Sampling::Defaults | Sampling::Fixed if temperature.is_some_and(|value| value != 1.0) => {
            not_taken("temperature")
        }
        Sampling::Defaults if top_p.is_some_and(|value| value != 1.0) => not_taken("top_p"),
        Sampling::Fixed if top_p.is_some_and(|value| value != 0.99) => not_taken("top_p"),
        Sampling::Defaults | Sampling::Fixed if sent.has("top_k") => not_taken("top_k"),
        Sampling::Defaults | Sampling::Fixed => Ok(()),
    }
}

fn wanted_effort<'a>(claude: &Claude, sent: &Sent<'a>) -> &'a str {
    sent.body["output_config"]["effort"].as_str().unwrap_or(claude.effort)
}

fn thinking(claude: &Claude, sent: &Sent<'_>) -> Result<(), Failure> {
    let refused = |kind: &str| {
        let message = format!(
            "\"thinking.type.{kind}\" is not supported for this model. Use \"thinking.type.adaptive\" and \"output_config.effort\" to control thinking."
        );
        Err(Failure::bad("thinking", message))
    };
    let up_to_high = !["xhigh", "max"].contains(&wanted_effort(claude, sent));
    let kind = match sent.body["thinking"]["type"].as_str() {
        Some(kind) => kind,
        None if sent.has("thinking") => {
            return Err(Failure::bad("thinking", "thinking.type: Field required"));
        }
        None => return Ok(()),
    };
    match (kind, claude.thinking) {
        ("enabled", Thinking::Budget | Thinking::Either) => {
            let budget = sent.body["thinking"]["budget_tokens"].as_u64().unwrap_or(0);
            let most = sent.body["max_tokens"].as_u64().unwrap_or(0);
            match (budget < 1_024, budget < most) {
                (true, _) => Err(Failure::bad(
                    "thinking",
                    "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
                )),
                (_, false) => Err(Failure::bad(
                    "thinking",
                    "`max_tokens` must be greater than `thinking.budget_tokens`.",
                )),
                _ => Ok(()),
            }
        }
        ("adaptive", Thinking::Budget) => {
            Err(Failure::bad("thinking", "adaptive thinking is not supported on this model"))
        }
        ("adaptive", _)
        | ("disabled", Thinking::Budget | Thinking::Either | Thinking::Adaptive | Thinking::On) => Ok(()),
        ("disabled", Thinking::OnUpToHigh) | ("between_tools", Thinking::BetweenTools) if up_to_high => {
            Ok(())
        }
        (kind, _) => refused(kind),
    }
}

fn effort(claude: &Claude, sent: &Sent<'_>) -> Result<(), Failure> {
    let given = &sent.body["output_config"]["effort"];
    match given.as_str() {
        None if given.is_null() => Ok(()),
        Some(_) if claude.efforts.is_empty() => {
            Err(Failure::bad("effort", "This model does not support the effort parameter."))
        }
        Some(effort) if claude.efforts.contains(&effort) => Ok(()),
        _ => Err(Failure::bad(
            "effort",
            format!("output_config.effort: Input should be one of {}", claude.efforts.join(", ")),
        )),
    }
}

fn format(sent: &Sent<'_>) -> Result<(), Failure> {
    let format = &sent.body["output_config"]["format"];
    if format.is_null() {
        return Ok(());
    }
    let bad =
        |message: String| Err(Failure::bad("schema", format!("output_config.format.schema: {message}")));
    if format["type"] != "json_schema" || !format["schema"].is_object() {
        return bad("Field required".to_owned());
    }
    let schema = &format["schema"];
    if schema::lacks_closed_objects(schema) {
        return bad("For 'object' type, 'additionalProperties' must be explicitly set to false".to_owned());
    }
    if let Some((keyword, kind)) = schema::keyword(schema, NOT_TAKEN) {
        return bad(format!("For '{kind}' type, property '{keyword}' is not supported"));
    }
    let many = schema::find(schema, &|schema| schema["minItems"].as_u64().filter(|least| *least > 1));
    many.map_or(Ok(()), |least| {
        bad(format!(
            "For 'array' type, 'minItems' values other than 0 or 1 are not supported (found {least})"
        ))
    })
}

fn limits(claude: &Claude, sent: &Sent<'_>) -> Result<(), Failure> {
    if let Some(most) = sent.body["max_tokens"].as_u64().filter(|most| *most > claude.most_output) {
        let message = format!(
            "max_tokens: {most} > {}, which is the maximum allowed number of output tokens for {}",
            claude.most_output, claude.id
        );
        return Err(Failure::bad("max_tokens", message));
    }
    let last = sent.body["messages"].as_array().and_then(|messages| messages.last()).unwrap_or(&Value::Null);
    if claude.no_prefill && last["role"] == "assistant" {
        return Err(Failure::bad("messages", "This model does not support assistant message prefill."));
    }
    for picture in sent.pictures {
        if picture.base64_len > 10 << 20 {
            return Err(Failure::bad("image", "image exceeds 10 MB maximum"));
        }
        if picture.width.max(picture.height) > 8_000 {
            return Err(Failure::bad("image", "image dimensions exceed max allowed size: 8000 pixels"));
        }
    }
    Ok(())
}

/// Thinking tokens before the text.
pub(crate) fn thinks(sent: &Sent<'_>) -> u64 {
    let Some(claude) = claude::find(sent.model) else { return 0 };
    let effort = wanted_effort(claude, sent);
    let on_by_default = !matches!(claude.thinking, Thinking::Budget | Thinking::Either | Thinking::Adaptive);
    match sent.body["thinking"]["type"].as_str() {
        Some("enabled") => sent.body["thinking"]["budget_tokens"].as_u64().unwrap_or(0) / 2,
        Some("adaptive") => at_effort(effort),
        None if on_by_default => at_effort(effort),
        _ => 0,
    }
}

/// The newer tokenizer yields 30 % more tokens.
pub(crate) fn text_factor(model: &str) -> f64 {
    if claude::find(model).is_some_and(|claude| claude.is_new) { 1.2 * 1.3 } else { 1.2 }
}

/// Two sizes of pictures.
pub(crate) fn picture(sent: &Sent<'_>, picture: &Picture) -> Result<u64, Failure> {
    let is_new = claude::find(sent.model).is_some_and(|claude| claude.is_new);
    let (edge, most) = if is_new { (2_576.0, 4_784) } else { (1_568.0, 1_568) };
    Ok(pictures::anthropic(picture, edge, most))
}

/// Only marked blocks are cached, from a minimum length that depends on the model.
pub(crate) fn caching(sent: &Sent<'_>) -> Caching {
    let marked = sent.has("cache_control")
        || sent.body["system"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|block| !block["cache_control"].is_null());
    match claude::find(sent.model) {
        Some(claude) if marked => Caching::Marked(claude.cache_min),
        _ => Caching::None,
    }
}
