//! What a request of the Messages API looks like.

use crate::teacher::json_text;
use schemas::settings::TeacherSettings;

/// Version of the API that requests name.
pub const API_VERSION: &str = "2023-06-01";

/// Request up to its messages. The system block is marked for the provider's prompt cache.
pub(in crate::teacher) fn head(
    settings: &TeacherSettings,
    model: &str,
    system: &str,
    schema: &str,
) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    json_text(&mut out, model);
    let limits = format!(
        r#","max_tokens":{},"temperature":{}"#,
        settings.max_output_tokens.unwrap_or(1_024),
        settings.temperature.unwrap_or(0.0)
    );
    out.extend_from_slice(limits.as_bytes());
    out.extend_from_slice(br#","system":[{"type":"text","text":"#);
    json_text(&mut out, system);
    out.extend_from_slice(br#","cache_control":{"type":"ephemeral"}}]"#);
    if takes_schema(model) {
        out.extend_from_slice(br#","output_config":{"format":{"type":"json_schema","schema":"#);
        out.extend_from_slice(schema.as_bytes());
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
pub(in crate::teacher) fn user(out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str) {
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
