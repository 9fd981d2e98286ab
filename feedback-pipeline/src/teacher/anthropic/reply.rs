//! What a reply of the Messages API looks like.

use crate::teacher::envelope::{Count, Ended, Envelope, Usage};
use serde::Deserialize;

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
pub(in crate::teacher) fn open(body: &[u8]) -> Result<Envelope, String> {
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
