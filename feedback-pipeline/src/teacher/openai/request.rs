//! Requests of the chat completions API.

use crate::items::Kind;
use crate::teacher::dialect::Dialect;
use crate::teacher::json::json_text;
use schemas::settings::{ContentForm, ResponseFormat, SystemRole, TokenLimitField};
use serde::Serialize;
use serde_json::value::RawValue;

/// Minimum bytes of instructions that the provider's prompt cache keeps: about 1,024 tokens.
pub const CACHED_BYTES: usize = 4_096;

#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_options: Option<CacheMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct CacheMode {
    mode: &'static str,
}

const EXPLICIT: CacheMode = CacheMode { mode: "explicit" };

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format<'a> {
    JsonSchema { json_schema: NamedSchema<'a> },
    JsonObject,
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'a str,
    strict: bool,
    schema: &'a RawValue,
}

#[derive(Serialize)]
struct SystemMessage<'a> {
    role: &'static str,
    content: SystemContent<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SystemContent<'a> {
    Text(&'a str),
    Parts([SystemPart<'a>; 1]),
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "text")]
struct SystemPart<'a> {
    text: &'a str,
    prompt_cache_breakpoint: CacheMode,
}

/// Request up to its messages, without the brace that closes it.
pub(in crate::teacher) fn head(
    dialect: &Dialect,
    model: &str,
    kind: Kind,
    schema: Option<&RawValue>,
) -> Vec<u8> {
    let limit = Some(dialect.max_output_tokens);
    let is_new = dialect.token_limit_field == TokenLimitField::MaxCompletionTokens;
    let head = Head {
        model,
        max_tokens: limit.filter(|_| !is_new),
        max_completion_tokens: limit.filter(|_| is_new),
        temperature: dialect.temperature,
        reasoning_effort: dialect.effort.as_deref(),
        // Without it, these models write each request to the cache and charge for that.
        prompt_cache_options: dialect.prompt_cache.then_some(EXPLICIT),
        response_format: match (dialect.response_format, schema) {
            (ResponseFormat::JsonSchema, Some(schema)) => Some(Format::JsonSchema {
                json_schema: NamedSchema { name: kind.as_str(), strict: true, schema },
            }),
            (ResponseFormat::JsonObject, _) => Some(Format::JsonObject),
            _ => None,
        },
    };
    let mut out = Vec::with_capacity(1_024);
    let _ = serde_json::to_writer(&mut out, &head); // plain values into memory cannot fail
    out.pop();
    out
}

/// The system message and a comma, if there is one. Instructions long enough for the prompt cache are marked for it.
pub(in crate::teacher) fn system(out: &mut Vec<u8>, dialect: &Dialect, text: &str) {
    if dialect.system_role == SystemRole::User {
        return;
    }
    let content = match dialect.prompt_cache && text.len() >= CACHED_BYTES {
        true => SystemContent::Parts([SystemPart { text, prompt_cache_breakpoint: EXPLICIT }]),
        false => SystemContent::Text(text),
    };
    let _ = serde_json::to_writer(&mut *out, &SystemMessage { role: "system", content });
    out.push(b',');
}

/// The user's message: picture first, then the text.
pub(in crate::teacher) fn user(
    out: &mut Vec<u8>,
    dialect: &Dialect,
    image: Option<(&str, &str)>,
    text: &str,
) {
    if dialect.content == ContentForm::Text && image.is_none() {
        out.extend_from_slice(br#"{"role":"user","content":"#);
        json_text(out, text);
        out.push(b'}');
        return;
    }
    out.extend_from_slice(br#"{"role":"user","content":["#);
    if let Some((media_type, data)) = image {
        out.extend_from_slice(br#"{"type":"image_url","image_url":{"url":"data:"#);
        out.extend_from_slice(media_type.as_bytes());
        out.extend_from_slice(b";base64,");
        out.extend_from_slice(data.as_bytes());
        out.push(b'"');
        if let Some(detail) = dialect.image_detail {
            out.extend_from_slice(format!(r#","detail":"{detail}""#).as_bytes());
        }
        out.extend_from_slice(b"}},");
    }
    out.extend_from_slice(br#"{"type":"text","text":"#);
    json_text(out, text);
    out.extend_from_slice(b"}]}");
}
