//! Replies of the chat completions API.

use crate::teacher::envelope::{Ended, Envelope, Said, Unopened};
use crate::teacher::envelope::{failed, says_something};
use crate::teacher::{ServiceError, Usage};
use serde_json::Value;

/// Opens a reply. Only its content is needed; whatever else is missing or odd does not make it unreadable.
pub(in crate::teacher) fn open(reply: &Value) -> Result<Envelope, Unopened> {
    let not_a_reply = |why: &str| Err(Unopened::NotAReply(format!("not a chat completion: {why}")));
    let choice = match reply.get("choices") {
        Some(Value::Array(choices)) if !choices.is_empty() => &choices[0],
        Some(Value::Array(_) | Value::Null) => {
            return Err(failed(ServiceError::saying("the reply holds no choices")));
        }
        _ => return not_a_reply("it has no `choices`"),
    };
    let reason = choice.get("finish_reason").and_then(Value::as_str).map(str::to_ascii_lowercase);
    let reason = reason.as_deref();
    if says_something(choice.get("error")) {
        return Err(failed(ServiceError::of(choice)));
    }
    if let Some(reason) = reason.filter(|reason| is_failure(reason)) {
        return Err(failed(ServiceError::saying(format!("the reply ended with {reason}")).of_kind(reason)));
    }
    let is_refused = reason.is_some_and(|reason| REFUSED.contains(&reason));
    let is_truncated = matches!(reason, Some("length" | "max_tokens" | "model_length" | "max_output_tokens"));
    let message = choice.get("message").filter(|message| message.is_object());
    let content = message.map_or(choice.get("text"), |message| message.get("content"));
    let said = match content {
        Some(content @ (Value::String(_) | Value::Array(_) | Value::Object(_))) => Said::of(content),
        _ if message.is_some() || is_refused || is_truncated => Said::default(),
        _ => return not_a_reply("the choice has no `message`"),
    };
    let field = |name: &str| message.and_then(|message| message.get(name));
    let mut refusal = said.refusal;
    refusal.push_str(field("refusal").and_then(Value::as_str).unwrap_or_default());
    let is_refusal = !refusal.trim().is_empty() || field("refusal") == Some(&Value::Bool(true));
    let reasoning = ["reasoning_content", "reasoning"].into_iter().find_map(|name| field(name)?.as_str());
    let reasoning = reasoning.unwrap_or(&said.thought).to_owned();
    let usage = reply.get("usage");
    let tokens = usage.and_then(|usage| usage.pointer("/completion_tokens_details/reasoning_tokens"));
    let envelope = Envelope {
        has_thought: said.has_thought || !reasoning.trim().is_empty() || says_something(tokens),
        text: if refusal.trim().is_empty() { said.text } else { refusal },
        reasoning,
        ended: match (is_refusal || is_refused, is_truncated) {
            (true, _) => Ended::Refused,
            (_, true) => Ended::Truncated,
            _ => Ended::Complete,
        },
        usage: None,
    };
    Ok(envelope.with_usage(Usage::of_completion(usage)))
}

/// Finish reasons that mean a refusal, for OpenAI, Gemini, Zhipu and Alibaba.
const REFUSED: [&str; 8] = [
    "content_filter",
    "refusal",
    "safety",
    "prohibited_content",
    "blocklist",
    "recitation",
    "sensitive",
    "data_inspection_failed",
];

/// True if a reply ended because the service failed.
fn is_failure(reason: &str) -> bool {
    matches!(reason, "error" | "network_error" | "insufficient_system_resource" | "abort" | "aborted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(message: Value) -> Value {
        json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 210, "completion_tokens": 31}})
    }

    #[test]
    fn content_in_all_its_forms() {
        let table = [
            (json!({"content": "{}"}), "{}"),
            (json!({"content": [{"type": "text", "text": "{"}, {"type": "text", "text": "}"}]}), "{}"),
            (json!({"content": [{"type": "output_text", "text": "{}"}]}), "{}"),
            (json!({"content": [{"text": "{"}, "}"]}), "{}"),
            (json!({"content": {"type": "text", "text": "{}"}}), "{}"),
            (json!({"content": {"better": "A"}}), "{\"better\":\"A\"}"),
            (json!({"content": [{"better": "A"}]}), "{\"better\":\"A\"}"),
            (
                json!({"content": [{"type": "reasoning", "text": "{\"better\":\"A\"}"}, {"type": "text", "text": "{}"}]}),
                "{}",
            ),
            (
                json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "{\"better\":\"A\"}"}]},
                    {"type": "text", "text": "{}"}]}),
                "{}",
            ),
            (json!({"content": "{}", "refusal": false}), "{}"),
            (json!({"content": "{}", "refusal": "", "tool_calls": []}), "{}"),
            (json!({"content": null}), ""),
        ];
        for (reply, text) in table {
            let envelope = open(&message(reply.clone())).unwrap();
            assert_eq!((envelope.text.as_str(), envelope.ended), (text, Ended::Complete), "{reply}");
            assert_eq!(envelope.usage.map(|usage| usage.output), Some(31), "{reply}");
        }
    }

    #[test]
    fn reasons_of_an_end() {
        let table = [
            (json!("stop"), Ended::Complete),
            (json!(0), Ended::Complete),
            (json!(null), Ended::Complete),
            (json!({"type": "stop"}), Ended::Complete),
            (json!("length"), Ended::Truncated),
            (json!("MAX_TOKENS"), Ended::Truncated),
            (json!("content_filter"), Ended::Refused),
            (json!("SAFETY"), Ended::Refused),
        ];
        for (reason, ended) in table {
            let reply = json!({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]});
            assert_eq!(open(&reply).map(|envelope| envelope.ended), Ok(ended), "{reply}");
        }
        for refusal in [
            json!({"content": null, "refusal": "No."}),
            json!({"content": [{"type": "refusal", "refusal": "No."}]}),
        ] {
            let envelope = open(&message(refusal)).unwrap();
            assert_eq!((envelope.ended, envelope.text.as_str()), (Ended::Refused, "No."));
        }
    }

    #[test]
    fn thinking_is_noticed() {
        let noticed = |reply: Value| open(&reply).map(|envelope| (envelope.has_thought, envelope.reasoning));
        assert_eq!(
            noticed(message(json!({"content": "", "reasoning_content": "Hm."}))),
            Ok((true, "Hm.".into()))
        );
        assert_eq!(noticed(message(json!({"content": "", "reasoning": "Hm."}))), Ok((true, "Hm.".into())));
        assert_eq!(noticed(message(json!({"content": "x"}))), Ok((false, String::new())));
        let counted = json!({"choices": [{"message": {"content": ""}}], "usage": {"completion_tokens_details": {"reasoning_tokens": 5}}});
        assert_eq!(noticed(counted), Ok((true, String::new())));
    }

    #[test]
    fn texts_that_cost_nothing_are_miscounted() {
        let reply = json!({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 210, "completion_tokens": 0}});
        assert_eq!(open(&reply).map(|envelope| envelope.usage), Ok(None));
    }
}
