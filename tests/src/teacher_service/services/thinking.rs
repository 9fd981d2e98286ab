//! How much models think, and where thinking appears.

use crate::teacher_service::wire::Api;
use serde_json::{Value, json};

/// Where thinking appears in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// At most in the usage.
    Nowhere,
    /// A block before the text, empty but for its signature.
    Block,
    /// `message.reasoning`.
    Reasoning,
    /// `message.reasoning_content`.
    ReasoningContent,
    /// `<think>` in the content.
    Tags,
    /// Parts of the content, of type thinking and text.
    Parts,
}

/// Approximate thinking tokens at an effort.
pub(crate) fn at_effort(effort: &str) -> u64 {
    match effort {
        "none" => 0,
        "minimal" => 32,
        "low" => 128,
        "high" => 1_536,
        "xhigh" => 4_096,
        "max" => 8_192,
        _ => 512,
    }
}

/// The same, varied by request between 50 % and 150 %.
pub(crate) fn varied(about: u64, digest: &[u8; 32]) -> u64 {
    about / 2 + about * u64::from(digest[3]) / 255
}

/// True for names of models that think unless it is turned off, on servers that run any model.
pub(crate) fn is_thinker(model: &str) -> bool {
    let model = model.to_lowercase();
    ["think", "reason", "qwen3", "gpt-oss", "-r1", "magistral"].iter().any(|part| model.contains(part))
        && !model.contains("non-reasoning")
}

/// Adds the thinking to the reply.
pub(crate) fn show(shown: Shown, api: Api, reply: &mut Value, tokens: u64) {
    if tokens == 0 {
        return;
    }
    let words = "Each sentence is held against the solution in turn. ";
    let thought = words.repeat((tokens as usize / 11).clamp(1, 200));
    if api == Api::Anthropic {
        if let (Shown::Block, Some(blocks)) = (shown, reply["content"].as_array_mut()) {
            blocks
                .insert(0, json!({"type": "thinking", "thinking": "", "signature": "RXJlV2hvc2VUaG91Z2h0"}));
            reply["usage"]["output_tokens_details"] = json!({"thinking_tokens": tokens});
        }
        return;
    }
    let message = &mut reply["choices"][0]["message"];
    let said = message["content"].as_str().unwrap_or_default().to_owned();
    match shown {
        Shown::Nowhere | Shown::Block => {}
        Shown::Reasoning => message["reasoning"] = thought.into(),
        Shown::ReasoningContent => message["reasoning_content"] = thought.into(),
        // A reply that ends among the thinking has no closing tag.
        Shown::Tags if said.is_empty() => message["content"] = format!("<think>\n{thought}").into(),
        Shown::Tags => message["content"] = format!("<think>\n{thought}\n</think>\n\n{said}").into(),
        Shown::Parts => {
            let mut parts =
                vec![json!({"type": "thinking", "thinking": [{"type": "text", "text": thought}]})];
            if !said.is_empty() {
                parts.push(json!({"type": "text", "text": said}));
            }
            message["content"] = parts.into();
        }
    }
}
