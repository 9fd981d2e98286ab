//! OpenAI's chat API.

use super::failure::Failure;
use super::gpt::{self, Gpt, Sampling};
use super::thinking::at_effort;
use super::tokens::Caching;
use super::{OPENAI_LIKE, Profile, Sent, Spent, pictures, schema, usage};
use crate::teacher_service::wire::{Api, Picture};
use serde_json::Value;

pub(crate) static OPENAI: Profile = PROFILE;

/// Others serve the same models.
pub(crate) const PROFILE: Profile = Profile {
    batches: &[("/v1", Api::OpenAi)],
    bad_key: || {
        Failure::new(401, "invalid_request_error", "key", "Incorrect API key provided.")
            .code("invalid_api_key")
    },
    no_money: || {
        Failure::new(429, "insufficient_quota", "money", "You exceeded your current quota.")
            .code("insufficient_quota")
    },
    blind: |_| {
        Failure::bad("image", "Invalid content type. image_url is only supported by certain models.").param()
    },
    check,
    thinks,
    usage: |value: &mut Value, spent: &Spent| {
        usage::openai(value, spent);
        if spent.written > 0 {
            usage::with_writes(value, spent);
        }
    },
    picture,
    caching,
    ..OPENAI_LIKE
};

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "n",
    "stream",
    "stream_options",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "user",
    "seed",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "verbosity",
    "service_tier",
    "store",
    "metadata",
    "modalities",
    "prediction",
    "audio",
    "web_search_options",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
];

/// Refuses fields that the model does not support.
pub(crate) fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    let Some(gpt) = gpt::find(sent.model) else {
        let message = format!("The model `{}` does not exist or you do not have access to it.", sent.model);
        return Err(Failure::new(404, "invalid_request_error", "model", message).code("model_not_found"));
    };
    if let Some(field) = sent.unknown(FIELDS) {
        return Err(unknown(field));
    }
    if !gpt.writes_cost && sent.has("prompt_cache_options") {
        return Err(unknown("prompt_cache_options"));
    }
    effort(gpt, sent)?;
    sampling(gpt, sent)?;
    limit(gpt, sent)?;
    if sent.has("verbosity") && !gpt.verbosity {
        return Err(unsupported(
            "verbosity",
            "Unsupported parameter: 'verbosity' is not supported with this model.",
        ));
    }
    format(sent)?;
    details(gpt, sent)
}

fn unknown(field: &str) -> Failure {
    Failure::bad(field, format!("Unknown parameter: '{field}'.")).code("unknown_parameter").param()
}

fn unsupported(field: &str, message: impl Into<String>) -> Failure {
    Failure::bad(field, message).code("unsupported_parameter").param()
}

fn effort(gpt: &Gpt, sent: &Sent<'_>) -> Result<(), Failure> {
    let Some(effort) = sent.text("reasoning_effort") else { return Ok(()) };
    if gpt.efforts.is_empty() {
        // No `param` here: the name is in the message only.
        return Err(Failure::bad(
            "reasoning_effort",
            "Unrecognized request argument supplied: reasoning_effort",
        ));
    }
    if gpt.efforts.contains(&effort) {
        return Ok(());
    }
    let values: Vec<String> = gpt.efforts.iter().map(|effort| format!("'{effort}'")).collect();
    let message = format!(
        "Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. Supported values are: {}.",
        values.join(", ")
    );
    Err(Failure::bad("reasoning_effort", message).code("unsupported_value").param())
}

fn wanted_effort<'a>(gpt: &Gpt, sent: &Sent<'a>) -> &'a str {
    sent.text("reasoning_effort").unwrap_or(gpt.effort)
}

fn sampling(gpt: &Gpt, sent: &Sent<'_>) -> Result<(), Failure> {
    let at_none = wanted_effort(gpt, sent) == "none";
    let only_default = match gpt.sampling {
        Sampling::Free => return Ok(()),
        Sampling::AtNone | Sampling::OnlyAtNone if at_none => return Ok(()),
        Sampling::Default | Sampling::AtNone => true,
        Sampling::Never | Sampling::OnlyAtNone => false,
    };
    for field in ["temperature", "top_p", "logprobs"] {
        match sent.number(field) {
            None if sent.body[field] != true => {}
            Some(1.0) if only_default => {}
            Some(value) if only_default => {
                let message = format!(
                    "Unsupported value: '{field}' does not support {value} with this model. Only the default (1) value is supported."
                );
                return Err(Failure::bad(field, message).code("unsupported_value").param());
            }
            _ => {
                let message = format!("Unsupported parameter: '{field}' is not supported with this model.");
                return Err(unsupported(field, message));
            }
        }
    }
    Ok(())
}

fn limit(gpt: &Gpt, sent: &Sent<'_>) -> Result<(), Failure> {
    if sent.has("max_tokens") && !gpt.efforts.is_empty() {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
        return Err(unsupported("max_tokens", message));
    }
    if sent.has("max_tokens") && sent.has("max_completion_tokens") {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(Failure::bad("max_tokens", message).code("invalid_parameter_combination").param());
    }
    match super::either_limit(sent) {
        Some(most) if most > gpt.most_output => Err(Failure::bad(
            "max_tokens",
            format!(
                "max_tokens is too large: {most}. This model supports at most {} completion tokens.",
                gpt.most_output
            ),
        )
        .code("invalid_value")
        .param()),
        _ => Ok(()),
    }
}

/// Refuses response formats that strict schemas do not allow.
pub(crate) fn format(sent: &Sent<'_>) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::bad("response_format", message).param());
    match sent.format() {
        None | Some("text") => Ok(()),
        Some("json_object") => {
            let messages = sent.body["messages"].to_string().to_lowercase();
            if messages.contains("json") {
                return Ok(());
            }
            bad("'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.".to_owned())
        }
        Some("json_schema") => {
            let described = &sent.body["response_format"]["json_schema"];
            let Some(name) = described["name"].as_str() else {
                return bad("Missing required parameter: 'response_format.json_schema.name'.".to_owned());
            };
            if described["strict"] != true {
                return Ok(());
            }
            if schema::lacks_closed_objects(&described["schema"]) {
                return bad(format!(
                    "Invalid schema for response_format '{name}': In context=(), 'additionalProperties' is required to be supplied and to be false."
                ));
            }
            match schema::optional_property(&described["schema"]) {
                Some(property) => bad(format!(
                    "Invalid schema for response_format '{name}': 'required' is required to be an array including every key in properties. Missing '{property}'."
                )),
                None => Ok(()),
            }
        }
        Some(other) => bad(format!("Invalid value: '{other}'.")),
    }
}

fn details(gpt: &Gpt, sent: &Sent<'_>) -> Result<(), Failure> {
    let takes_original = matches!(gpt.pictures, pictures::Rule::Original { .. });
    let wrong =
        sent.pictures.iter().filter_map(|picture| picture.detail.as_deref()).find(|detail| match *detail {
            "auto" | "low" | "high" => false,
            "original" => !takes_original,
            _ => true,
        });
    wrong.map_or(Ok(()), |detail| {
        Err(Failure::bad("detail", format!("Invalid value: '{detail}'.")).code("invalid_value").param())
    })
}

/// Reasoning tokens.
pub(crate) fn thinks(sent: &Sent<'_>) -> u64 {
    gpt::find(sent.model).map_or(0, |gpt| at_effort(wanted_effort(gpt, sent)))
}

/// Patches or tiles.
pub(crate) fn picture(sent: &Sent<'_>, picture: &Picture) -> Result<u64, Failure> {
    gpt::find(sent.model).map_or(Ok(765), |gpt| pictures::openai(gpt.pictures, picture))
}

/// Before GPT-5.6, cache writes are free; since then they cost a fee, and happen after every message unless
/// turned off.
pub(crate) fn caching(sent: &Sent<'_>) -> Caching {
    let Some(gpt) = gpt::find(sent.model) else { return Caching::None };
    if !gpt.writes_cost {
        return Caching::Free(1_024);
    }
    if sent.body["prompt_cache_options"]["mode"] != "explicit" {
        return Caching::Whole(1_024);
    }
    let messages = sent.body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    if parts.any(|part| !part["prompt_cache_breakpoint"].is_null()) {
        Caching::Marked(1_024)
    } else {
        Caching::None
    }
}
