//! Additional fields of services in `usage`.

use super::Spent;
use serde_json::{Value, json};

/// OpenAI's: reasoning is part of the completion.
pub(crate) fn openai(usage: &mut Value, spent: &Spent) {
    usage["prompt_tokens_details"] = json!({"cached_tokens": spent.read, "audio_tokens": 0});
    usage["completion_tokens_details"] = json!({
        "reasoning_tokens": spent.thinking, "audio_tokens": 0,
        "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
    });
}

/// OpenAI's with writes to the prompt cache.
pub(crate) fn with_writes(usage: &mut Value, spent: &Spent) {
    openai(usage, spent);
    usage["prompt_tokens_details"]["cache_write_tokens"] = spent.written.into();
}

/// xAI's: reasoning tokens are separate from the completion.
pub(crate) fn reasoning_apart(usage: &mut Value, spent: &Spent) {
    openai(usage, spent);
    usage["completion_tokens"] = spent.answer.into();
}

/// Gemini's: thinking is in the total only.
pub(crate) fn in_total_only(usage: &mut Value, spent: &Spent) {
    *usage = json!({
        "prompt_tokens": spent.input, "completion_tokens": spent.answer,
        "total_tokens": spent.input + spent.answer + spent.thinking,
    });
}

/// DeepSeek's: the prompt by hits and misses of its cache.
pub(crate) fn hits(usage: &mut Value, spent: &Spent) {
    usage["prompt_cache_hit_tokens"] = spent.read.into();
    usage["prompt_cache_miss_tokens"] = (spent.input - spent.read).into();
    usage["completion_tokens_details"] = json!({"reasoning_tokens": spent.thinking});
}

/// OpenRouter's: with what it cost.
pub(crate) fn with_cost(usage: &mut Value, spent: &Spent) {
    with_writes(usage, spent);
    let dollars = spent.input as f64 * 0.3e-6 + (spent.answer + spent.thinking) as f64 * 2.5e-6;
    usage["cost"] = dollars.into();
    usage["is_byok"] = false.into();
    usage["cost_details"] = json!({"upstream_inference_cost": null});
}

/// The three numbers alone.
pub(crate) fn bare(usage: &mut Value, _: &Spent) {
    if let Some(usage) = usage.as_object_mut() {
        usage.remove("prompt_tokens_details");
    }
}
