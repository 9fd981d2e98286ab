//! The envelopes of replies: parts, usage, and failures inside a 200.

use super::Shape;
use crate::teacher_service::wire::Api;
use serde_json::{Value, json};

/// Puts a reply's body into a shape; `answer` is what was asked for, `draft` another answer.
pub(crate) fn enclose(shape: Shape, api: Api, reply: &mut Value, answer: &Value, draft: &Value) {
    let said = content(api, reply);
    match (shape, api) {
        (Shape::ReasoningPart, Api::OpenAi) => {
            set_content(
                reply,
                json!([{"type": "reasoning", "text": format!("Perhaps {draft}?")}, {"type": "text", "text": said}]),
            );
        }
        (Shape::ReasoningPart, Api::Anthropic) => {
            reply["content"] = json!([
                {"type": "thinking", "thinking": format!("Perhaps {draft}?"), "text": draft.to_string(), "signature": "c2ln"},
                {"type": "text", "text": said},
            ]);
        }
        (Shape::ContentObject, Api::OpenAi) => set_content(reply, answer.clone()),
        (Shape::ContentObject, Api::Anthropic) => reply["content"] = json!({"type": "text", "text": said}),
        (Shape::ReasoningOnly, Api::OpenAi) => {
            set_content(reply, Value::Null);
            reply["choices"][0]["message"]["reasoning_content"] = said.into();
        }
        (Shape::ReasoningOnly, Api::Anthropic) => {
            reply["content"] = json!([{"type": "thinking", "thinking": said, "signature": "c2ln"}]);
        }
        (Shape::BudgetSpent, Api::OpenAi) => {
            reply["choices"][0]["message"]["reasoning_content"] = "Let me see. ".repeat(60).into();
        }
        (Shape::BudgetSpent, Api::Anthropic) => {
            reply["content"] = json!([{"type": "thinking", "thinking": "", "signature": "c2ln"}]);
        }
        (Shape::RefusalFalse, Api::OpenAi) => reply["choices"][0]["message"]["refusal"] = false.into(),
        (Shape::RefusalFalse, Api::Anthropic) => reply["stop_details"] = false.into(),
        (Shape::FinishZero, Api::OpenAi) => reply["choices"][0]["finish_reason"] = 0.into(),
        (Shape::FinishZero, Api::Anthropic) => reply["stop_reason"] = 0.into(),
        (Shape::LoneSurrogate, _) => mark_surrogate(api, reply, answer),
        _ => {}
    }
    spoil_usage(shape, reply);
}

/// Marks where the escape of half a surrogate pair is inserted into the written body; serde_json cannot write
/// it.
pub(crate) const SURROGATE: &str = "%half-a-character%";

/// After the last sentence of a rationale, else as a word before the answer.
fn mark_surrogate(api: Api, reply: &mut Value, answer: &Value) {
    let plain = answer.to_string();
    let said = match plain.strip_suffix("\"}") {
        Some(rationale) if answer["rationale"].is_string() => format!("{rationale} {SURROGATE}\"}}"),
        _ => format!("Here you are {SURROGATE} {plain}"),
    };
    match api {
        Api::OpenAi => set_content(reply, said.into()),
        Api::Anthropic => reply["content"] = json!([{"type": "text", "text": said}]),
    }
}

fn spoil_usage(shape: Shape, reply: &mut Value) {
    let usage = &mut reply["usage"];
    match shape {
        Shape::UsageEmpty => *usage = json!({}),
        Shape::UsageList => *usage = json!([]),
        Shape::UsageZeros | Shape::UsageStrings | Shape::UsageHuge => {
            for value in usage.as_object_mut().into_iter().flat_map(|usage| usage.values_mut()) {
                let Some(number) = value.as_u64() else { continue };
                *value = match shape {
                    Shape::UsageZeros => 0.into(),
                    Shape::UsageStrings => number.to_string().into(),
                    _ => (u64::MAX - number).into(),
                };
            }
        }
        Shape::DetailsText => {
            for name in [
                "prompt_tokens_details",
                "completion_tokens_details",
                "output_tokens_details",
                "cache_creation",
            ] {
                usage[name] = "not told".into();
            }
        }
        _ => {}
    }
}

/// The body of a failure inside a 200.
pub(crate) fn failure(shape: Shape, api: Api, reply: &Value) -> Option<Value> {
    let inside = |status: u16, kind: &str, message: &str| {
        Some(match api {
            Api::OpenAi => json!({"id": null, "choices": null, "usage": null,
                "error": {"code": status, "message": message, "metadata": {"raw": message}}}),
            Api::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
        })
    };
    let mut reply = reply.clone();
    match (shape, api) {
        (Shape::LimitInside, _) => inside(429, "rate_limit_error", "The provider has a rate limit"),
        (Shape::OverloadInside, _) => inside(503, "overloaded_error", "The provider is overloaded"),
        (Shape::CreditInside, _) => inside(402, "billing_error", "No credits are left on this account"),
        (Shape::KeyInside, _) => inside(401, "authentication_error", "This key is not valid"),
        (Shape::ChoiceError, Api::OpenAi) => {
            reply["choices"][0] = json!({"index": 0, "finish_reason": "error", "native_finish_reason": null,
                "error": {"code": 502, "message": "The upstream connection was lost"},
                "message": {"role": "assistant", "content": "", "refusal": null}});
            reply["usage"] = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
            Some(reply)
        }
        (Shape::ChoiceError, Api::Anthropic) => {
            (reply["content"], reply["stop_reason"]) = (json!([]), "error".into());
            reply["error"] = json!({"type": "api_error", "message": "The upstream connection was lost"});
            Some(reply)
        }
        (Shape::NoChoices | Shape::NullChoices, _) => {
            let nothing = if shape == Shape::NoChoices { json!([]) } else { Value::Null };
            match api {
                Api::OpenAi => reply["choices"] = nothing,
                Api::Anthropic => (reply["content"], reply["stop_reason"]) = (nothing, Value::Null),
            }
            Some(reply)
        }
        _ => None,
    }
}

fn content(api: Api, reply: &Value) -> String {
    let text = match api {
        Api::OpenAi => &reply["choices"][0]["message"]["content"],
        Api::Anthropic => {
            let blocks = reply["content"].as_array().map(Vec::as_slice).unwrap_or_default();
            return blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        }
    };
    text.as_str().unwrap_or_default().to_owned()
}

fn set_content(reply: &mut Value, content: Value) {
    reply["choices"][0]["message"]["content"] = content;
}
