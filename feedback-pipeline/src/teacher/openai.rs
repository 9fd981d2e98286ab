//! The OpenAI chat completions API, and the servers that speak it.

use super::{Count, Ended, Envelope, Usage, json_text};
use crate::due::Kind;
use crate::prompt;
use schemas::settings::TeacherSettings;
use serde::Deserialize;

/// Request up to its messages, the system message included.
pub(super) fn head(settings: &TeacherSettings, model: &str, kind: Kind, system: &str) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    json_text(&mut out, model);
    out.extend_from_slice(format!(r#","max_completion_tokens":{}"#, settings.max_output_tokens).as_bytes());
    if takes_temperature(model) {
        out.extend_from_slice(format!(r#","temperature":{}"#, settings.temperature).as_bytes());
    }
    let name = kind.as_str();
    let format = format!(
        r#","response_format":{{"type":"json_schema","json_schema":{{"name":"{name}","strict":true,"schema":"#
    );
    out.extend_from_slice(format.as_bytes());
    out.extend_from_slice(prompt::schema(kind).as_bytes());
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
pub(super) fn user(out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str) {
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

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<CompletionUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
    refusal: Option<String>,
}

/// A text, or its parts, as some compatible servers send it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

impl Content {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CompletionUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Deserialize)]
struct PromptTokens {
    #[serde(default)]
    cached_tokens: Count,
}

/// Opens a reply.
pub(super) fn open(body: &[u8]) -> Result<Envelope, String> {
    let completion: Completion =
        serde_json::from_slice(body).map_err(|e| format!("no chat completion: {e}"))?;
    let Some(choice) = completion.choices.into_iter().next() else {
        return Err("no chat completion: choices are empty".to_owned());
    };
    let refusal = choice.message.refusal.filter(|refusal| !refusal.is_empty());
    let ended = match (choice.finish_reason.as_deref(), &refusal) {
        (_, Some(_)) | (Some("content_filter"), _) => Ended::Refused,
        (Some("length"), _) => Ended::Truncated,
        _ => Ended::Complete,
    };
    let usage = completion.usage.map(|usage| {
        let prompt = usage.prompt_tokens.0;
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens.0).min(prompt);
        Usage {
            input: prompt - cached,
            cache_write: 0,
            cache_read: cached,
            output: usage.completion_tokens.0,
        }
    });
    let text = refusal.or(choice.message.content.map(Content::text)).unwrap_or_default();
    Ok(Envelope { text, ended, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_with_all_its_parts() {
        let body = br#"{"choices":[{"message":{"content":"{}","refusal":null},"finish_reason":"length"}],
            "usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let envelope = open(body).unwrap();
        assert_eq!(envelope.ended, Ended::Truncated);
        assert_eq!(envelope.usage, Some(Usage { input: 6, cache_write: 0, cache_read: 4, output: 2 }));
    }

    #[test]
    fn text_in_parts() {
        let body =
            br#"{"choices":[{"message":{"content":[{"type":"text","text":"{"},{"type":"text","text":"}"}]}}],
            "usage":{"prompt_tokens":10.0,"completion_tokens":2}}"#;
        let envelope = open(body).unwrap();
        let usage = envelope.usage.map(|usage| (usage.input, usage.output));
        assert_eq!((envelope.text.as_str(), usage), ("{}", Some((10, 2))));
    }

    #[test]
    fn refusal_and_no_choices() {
        let body = br#"{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}"#;
        let envelope = open(body).unwrap();
        assert_eq!((envelope.ended, envelope.text.as_str(), envelope.usage), (Ended::Refused, "No.", None));
        assert!(open(br#"{"choices":[]}"#).unwrap_err().contains("empty"));
    }
}
