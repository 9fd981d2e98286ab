//! Mistral: unknown fields are refused, errors have no `error`, thinking is in parts of the content.

use super::failure::{self, Failure};
use super::thinking::{Shown, at_effort, is_thinker};
use super::{OPENAI_LIKE, Profile, Sent, older_limit, usage};

pub(crate) static MISTRAL: Profile = Profile {
    bad_key: || Failure::new(401, "authentication_error", "key", "Unauthorized"),
    no_path: |_| Failure::new(404, "not_found", "path", "no Route matched with those values"),
    blind: |sent| Failure::bad("image", format!("Image input is not enabled for this model {}", sent.model)),
    word: failure::mistral,
    check,
    limit: older_limit,
    thinks: |sent| if is_thinker(sent.model) { at_effort("medium") } else { 0 },
    shows: |_| Shown::Parts,
    usage: usage::bare,
    ..OPENAI_LIKE
};

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "stream",
    "stop",
    "random_seed",
    "response_format",
    "tools",
    "tool_choice",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "prediction",
    "parallel_tool_calls",
    "prompt_mode",
    "safe_prompt",
    "metadata",
];

fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    if let Some(field) = sent.unknown(FIELDS) {
        let refused = Failure::new(422, "invalid_request_error", field, "Extra inputs are not permitted");
        return Err(refused.code("extra_forbidden"));
    }
    if sent.number("temperature").is_some_and(|value| !(0.0..=1.5).contains(&value)) {
        let message = "Input should be less than or equal to 1.5";
        return Err(
            Failure::new(422, "invalid_request_error", "temperature", message).code("less_than_equal")
        );
    }
    if ["mistral", "magistral", "ministral", "pixtral"].iter().any(|start| sent.model.contains(start)) {
        return Ok(());
    }
    Err(Failure::bad("model", format!("Invalid model: {}", sent.model)))
}
