//! What a request of the chat completions API looks like.

use crate::items::Kind;
use crate::teacher::json_text;
use schemas::settings::TeacherSettings;

/// Request up to its messages, the system message included.
pub(in crate::teacher) fn head(
    settings: &TeacherSettings,
    model: &str,
    kind: Kind,
    system: &str,
    schema: &str,
) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    json_text(&mut out, model);
    out.extend_from_slice(
        format!(r#","max_completion_tokens":{}"#, settings.max_output_tokens.unwrap_or(1_024)).as_bytes(),
    );
    if takes_temperature(model) {
        out.extend_from_slice(
            format!(r#","temperature":{}"#, settings.temperature.unwrap_or(0.0)).as_bytes(),
        );
    }
    let name = kind.as_str();
    let format = format!(
        r#","response_format":{{"type":"json_schema","json_schema":{{"name":"{name}","strict":true,"schema":"#
    );
    out.extend_from_slice(format.as_bytes());
    out.extend_from_slice(schema.as_bytes());
    out.extend_from_slice(br#"}},"messages":[{"role":"system","content":"#);
    json_text(&mut out, system);
    out.extend_from_slice(b"},");
    out
}

/// Reasoning models take no temperature.
fn takes_temperature(model: &str) -> bool {
    !["o1", "o3", "o4", "gpt-5"].iter().any(|prefix| model.starts_with(prefix))
}

/// The user's message: picture first, then the text.
pub(in crate::teacher) fn user(out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str) {
    out.extend_from_slice(br#"{"role":"user","content":["#);
    if let Some((media_type, data)) = image {
        out.extend_from_slice(br#"{"type":"image_url","image_url":{"url":"data:"#);
        out.extend_from_slice(media_type.as_bytes());
        out.extend_from_slice(b";base64,");
        out.extend_from_slice(data.as_bytes());
        out.extend_from_slice(br#""}},"#);
    }
    out.extend_from_slice(br#"{"type":"text","text":"#);
    json_text(out, text);
    out.extend_from_slice(b"}]}");
}
