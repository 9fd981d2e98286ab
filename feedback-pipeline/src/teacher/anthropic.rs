//! The Anthropic Messages API.

use super::{Count, Ended, Envelope, Usage, json_text};
use crate::due::Kind;
use crate::prompt;
use schemas::settings::TeacherSettings;
use serde::Deserialize;

/// Version of the API that requests name.
pub const API_VERSION: &str = "2023-06-01";

/// Request up to its messages. The system block is marked for the provider's prompt cache.
pub(super) fn head(settings: &TeacherSettings, model: &str, kind: Kind, system: &str) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    json_text(&mut out, model);
    let limits =
        format!(r#","max_tokens":{},"temperature":{}"#, settings.max_output_tokens, settings.temperature);
    out.extend_from_slice(limits.as_bytes());
    out.extend_from_slice(br#","system":[{"type":"text","text":"#);
    json_text(&mut out, system);
    out.extend_from_slice(br#","cache_control":{"type":"ephemeral"}}]"#);
    if takes_schema(model) {
        out.extend_from_slice(br#","output_config":{"format":{"type":"json_schema","schema":"#);
        out.extend_from_slice(prompt::schema(kind).as_bytes());
        out.extend_from_slice(b"}}");
    }
    out.extend_from_slice(br#","messages":["#);
    out
}

/// Models before structured output are asked by the prompt alone.
fn takes_schema(model: &str) -> bool {
    let before = [
        "claude-2",
        "claude-3",
        "claude-instant",
        "claude-sonnet-4-0",
        "claude-opus-4-0",
        "claude-sonnet-4-2025",
        "claude-opus-4-2025",
    ];
    !before.iter().any(|old| model.starts_with(old))
}

/// Tokens that a prompt needs before the service caches it; shorter ones it silently does not.
pub fn prompt_cache_minimum(model: &str) -> u64 {
    let four_thousand = ["claude-haiku-4-5", "claude-opus-4-5", "claude-opus-4-6"];
    match model {
        model if four_thousand.iter().any(|known| model.starts_with(known)) => 4_096,
        model if model.contains("haiku") => 2_048,
        _ => 1_024,
    }
}

/// The user's message: picture first, then the text.
pub(super) fn user(out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str) {
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

#[derive(Deserialize)]
struct Message {
    content: Vec<Block>,
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<MessageUsage>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MessageUsage {
    input_tokens: Count,
    output_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_read_input_tokens: Count,
}

/// Opens a reply.
pub(super) fn open(body: &[u8]) -> Result<Envelope, String> {
    let message: Message = serde_json::from_slice(body).map_err(|e| format!("no Messages reply: {e}"))?;
    let ended = match message.stop_reason.as_deref() {
        Some("max_tokens" | "model_context_window_exceeded") => Ended::Truncated,
        Some("refusal") => Ended::Refused,
        _ => Ended::Complete,
    };
    let usage = message.usage.map(|usage| Usage {
        input: usage.input_tokens.0,
        cache_write: usage.cache_creation_input_tokens.0,
        cache_read: usage.cache_read_input_tokens.0,
        output: usage.output_tokens.0,
    });
    let text = message.content.into_iter().filter_map(|block| block.text).collect();
    Ok(Envelope { text, ended, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_with_all_its_parts() {
        let body = br#"{"content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"{}"}],"stop_reason":"max_tokens",
            "usage":{"input_tokens":7,"output_tokens":2,"cache_creation_input_tokens":3,"cache_read_input_tokens":4}}"#;
        let envelope = open(body).unwrap();
        assert_eq!(envelope.text, "{}");
        assert_eq!(envelope.ended, Ended::Truncated);
        assert_eq!(envelope.usage, Some(Usage { input: 7, cache_write: 3, cache_read: 4, output: 2 }));
        assert!(open(b"{}").is_err());
        let lax = br#"{"content":[{"type":"text","text":"{}"}],"stop_reason":null,"usage":null}"#;
        assert_eq!(open(lax).map(|envelope| envelope.usage), Ok(None));
        let decimal = br#"{"content":[],"usage":{"input_tokens":7.0,"output_tokens":null}}"#;
        assert_eq!(open(decimal).map(|envelope| envelope.usage.map(|usage| usage.input)), Ok(Some(7)));
    }
}
