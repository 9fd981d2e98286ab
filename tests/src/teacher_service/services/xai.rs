//! xAI: reasoning tokens are separate from the completion, errors are plain texts, and a refused field is
//! spelled differently.

use super::failure::{self, Failure};
use super::thinking::at_effort;
use super::tokens::Caching;
use super::{OPENAI_LIKE, Profile, Sent, usage};

pub(crate) static XAI: Profile = Profile {
    bad_key: || {
        Failure::bad("key", "Incorrect API key provided. You can obtain an API key from the console.")
    },
    no_money: || Failure::new(403, "billing_error", "money", "Your team has used all available credits."),
    blind: |_| Failure::bad("image", "Image inputs are not supported by this model."),
    word: failure::xai,
    check,
    thinks: |sent| {
        if sent.model.contains("non-reasoning") {
            0
        } else {
            at_effort(sent.text("reasoning_effort").unwrap_or("medium"))
        }
    },
    usage: usage::reasoning_apart,
    caching: |_| Caching::Free(1_024),
    ..OPENAI_LIKE
};

fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    if !sent.model.starts_with("grok-") {
        let message =
            format!("The model {} does not exist or your team does not have access to it.", sent.model);
        return Err(Failure::new(404, "not_found_error", "model", message));
    }
    if sent.has("reasoning_effort") && sent.model.starts_with("grok-4.20") {
        let message = format!("Model {} does not support parameter reasoningEffort.", sent.model);
        return Err(Failure::bad("reasoning_effort", message));
    }
    if let Some(field) = ["verbosity", "prompt_cache_options"].into_iter().find(|field| sent.has(field)) {
        return Err(Failure::bad(field, format!("Argument not supported: {field}")));
    }
    Ok(())
}
