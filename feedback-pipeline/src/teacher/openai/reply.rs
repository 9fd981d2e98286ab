//! What a reply of the chat completions API looks like.

use crate::teacher::envelope::{Count, Ended, Envelope, Usage};
use serde::Deserialize;

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
pub(in crate::teacher) fn open(body: &[u8]) -> Result<Envelope, String> {
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
