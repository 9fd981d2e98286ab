//! Requests of the Messages API.

use crate::teacher::dialect::Dialect;
use crate::teacher::json::json_text;
use schemas::settings::{ContentForm, ResponseFormat, SystemRole};
use serde::Serialize;
use serde_json::value::RawValue;

/// Version of the API that requests name.
pub const API_VERSION: &str = "2023-06-01";

#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<[System<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "text")]
struct System<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct CacheControl {
    r#type: &'static str,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "json_schema")]
struct Format<'a> {
    schema: &'a RawValue,
}

/// Request up to its messages, without the brace that closes it. The system block is marked for the provider's prompt cache.
pub(in crate::teacher) fn head(
    dialect: &Dialect,
    model: &str,
    system: &str,
    schema: Option<&RawValue>,
) -> Vec<u8> {
    let format = schema.filter(|_| dialect.response_format == ResponseFormat::JsonSchema);
    let format = format.map(|schema| Format { schema });
    let effort = dialect.effort.as_deref();
    let head = Head {
        model,
        max_tokens: dialect.max_output_tokens,
        temperature: dialect.temperature,
        system: (dialect.system_role != SystemRole::User).then_some([System {
            text: system,
            cache_control: dialect.prompt_cache.then_some(CacheControl { r#type: "ephemeral" }),
        }]),
        output_config: (format.is_some() || effort.is_some()).then_some(OutputConfig { format, effort }),
    };
    let mut out = Vec::with_capacity(system.len() + 1_024);
    let _ = serde_json::to_writer(&mut out, &head); // plain values into memory cannot fail
    out.pop();
    out
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
        out.extend_from_slice(br#"{"type":"image","source":{"type":"base64","media_type":""#);
        out.extend_from_slice(media_type.as_bytes());
        out.extend_from_slice(br#"","data":""#);
        out.extend_from_slice(data.as_bytes());
        out.extend_from_slice(br#""}},"#);
    }
    out.extend_from_slice(br#"{"type":"text","text":"#);
    json_text(out, text);
    out.extend_from_slice(b"}]}");
}
