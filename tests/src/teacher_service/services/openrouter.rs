//! OpenRouter: many endpoints that support different fields; a field that none supports is a 404.

use super::failure::{self, Failure};
use super::thinking::{Shown, at_effort, is_thinker};
use super::tokens::Caching;
use super::{OPENAI_LIKE, Profile, Route, Sent, usage};

pub(crate) static OPENROUTER: Profile = Profile {
    paths: &[("/api/v1/chat/completions", Route::Chat)],
    bad_key: || Failure::new(401, "authentication_error", "key", "No auth credentials found"),
    no_money: || Failure::new(402, "billing_error", "money", "Insufficient credits. Add more to go on."),
    blind: |_| Failure::new(404, "not_found_error", "image", "No endpoints found that support image input"),
    word: failure::openrouter,
    check,
    thinks: |sent| {
        let effort = sent.body["reasoning"]["effort"].as_str().or(sent.text("reasoning_effort"));
        if is_thinker(sent.model) { at_effort(effort.unwrap_or("medium")) } else { 0 }
    },
    shows: |_| Shown::Reasoning,
    usage: usage::with_cost,
    caching: |_| Caching::Free(1_024),
    // Endpoints without schema support ignore schemas, unless all parameters are required.
    drops_schema: |sent| is_free(sent) && sent.format() == Some("json_schema"),
    ..OPENAI_LIKE
};

/// Free endpoints support fewer parameters.
fn is_free(sent: &Sent<'_>) -> bool {
    sent.model.ends_with(":free")
}

fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    if !sent.model.contains('/') {
        return Err(Failure::bad("model", format!("{} is not a valid model ID", sent.model)));
    }
    let no_endpoint = |field: &str, message: &str| Err(Failure::new(404, "not_found_error", field, message));
    let must_know = sent.body["provider"]["require_parameters"] == true;
    if must_know && is_free(sent) && sent.format() == Some("json_schema") {
        return no_endpoint(
            "response_format",
            "No endpoints found that can handle the requested parameters.",
        );
    }
    if is_free(sent) && !sent.pictures.is_empty() {
        return no_endpoint("image", "No endpoints found that support image input");
    }
    Ok(())
}
