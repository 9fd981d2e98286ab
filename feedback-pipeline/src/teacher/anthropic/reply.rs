//! Replies of the Messages API.

use crate::teacher::envelope::failed;
use crate::teacher::envelope::{Ended, Envelope, Said, Unopened};
use crate::teacher::{ServiceError, Usage};
use serde_json::Value;

/// Opens a reply. Only its content is needed; whatever else is missing or odd does not make it unreadable.
pub(in crate::teacher) fn open(reply: &Value) -> Result<Envelope, Unopened> {
    let reason = reply.get("stop_reason").and_then(Value::as_str).map(str::to_ascii_lowercase);
    let reason = reason.as_deref();
    if reason == Some("error") {
        return Err(failed(ServiceError::saying("the reply ended with an error")));
    }
    let said = match reply.get("content") {
        // The model refused before it wrote anything.
        None | Some(Value::Null) if reason.is_some() => Said::default(),
        // Some gateways send an empty message.
        Some(Value::Null) => return Err(failed(ServiceError::saying("the reply has no content"))),
        Some(content @ (Value::Array(_) | Value::String(_) | Value::Object(_))) => Said::of(content),
        _ => return Err(Unopened::NotAReply("not a Messages reply: it has no `content`".to_owned())),
    };
    let ended = match reason {
        Some("max_tokens" | "model_context_window_exceeded" | "length") => Ended::Truncated,
        Some("refusal" | "content_filter") => Ended::Refused,
        _ => Ended::Complete,
    };
    let envelope = Envelope {
        text: said.text,
        reasoning: said.thought,
        has_thought: said.has_thought,
        ended,
        usage: None,
    };
    let usage = reply.get("usage");
    // Some gateways translate the reply, but not its usage.
    Ok(envelope.with_usage(Usage::of_message(usage).or_else(|| Usage::of_completion(usage))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reply_with_all_its_parts() {
        let reply = json!({
            "content": [
                {"type": "thinking", "thinking": "x", "text": "{\"better\":\"A\"}", "signature": "s"},
                {"type": "redacted_thinking", "data": "y"},
                {"type": "text", "text": "{"}, {"type": "text", "text": "}"},
            ],
            "stop_reason": "max_tokens",
            "usage": {"input_tokens": 7, "output_tokens": 2, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4},
        });
        let envelope = open(&reply).unwrap();
        assert_eq!(
            (envelope.text.as_str(), envelope.has_thought, envelope.ended),
            ("{}", true, Ended::Truncated)
        );
        assert_eq!(envelope.usage, Some(Usage { input: 7, cache_write: 3, cache_read: 4, output: 2 }));
    }

    #[test]
    fn usage_under_the_names_of_the_other_api() {
        let reply = json!({"content": "{}", "usage": {"prompt_tokens": 7, "completion_tokens": 2}});
        assert_eq!(open(&reply).unwrap().usage, Some(Usage { input: 7, output: 2, ..Usage::default() }));
    }

    #[test]
    fn only_content_is_needed() {
        assert!(matches!(open(&json!({})), Err(Unopened::NotAReply(_))));
        assert!(matches!(open(&json!({"content": 1})), Err(Unopened::NotAReply(_))));
        let table = [
            (
                json!({"content": [{"type": "text", "text": "{}"}], "stop_reason": 0, "usage": []}),
                "{}",
                Ended::Complete,
            ),
            (
                json!({"content": [{"type": "text", "text": "{}"}], "stop_reason": null}),
                "{}",
                Ended::Complete,
            ),
            (
                json!({"content": {"type": "text", "text": "{}"}, "stop_details": "none"}),
                "{}",
                Ended::Complete,
            ),
            (json!({"content": [{"text": "{}"}]}), "{}", Ended::Complete),
            (json!({"content": "{}"}), "{}", Ended::Complete),
            (json!({"content": null, "stop_reason": "refusal"}), "", Ended::Refused),
        ];
        for (reply, text, ended) in table {
            let envelope = open(&reply).unwrap();
            assert_eq!(
                (envelope.text.as_str(), envelope.ended, envelope.usage),
                (text, ended, None),
                "{reply}"
            );
        }
    }
}
