//! Google's services behind OpenAI's chat API: Gemini's, and Google Cloud's with its long path.

use super::failure::{self, Failure};
use super::thinking::at_effort;
use super::{OPENAI_LIKE, Profile, Route, Sent, schema, usage};
use crate::teacher_service::wire::Api;

const GOOGLE: Profile = Profile {
    bad_key: || Failure::bad("key", "API key not valid. Please pass a valid API key."),
    no_money: || {
        Failure::new(429, "quota", "money", "You exceeded your current quota, please check your plan.")
    },
    no_path: |path| {
        Failure::new(404, "not_found_error", "path", format!("{path} was not found on this server."))
    },
    blind: |_| Failure::bad("image", "Image input modality is not enabled for this model"),
    word: failure::google,
    check: gemini,
    thinks: |sent| at_effort(sent.text("reasoning_effort").unwrap_or("medium")),
    usage: usage::in_total_only,
    picture: |_, _| Ok(1_100),
    ..OPENAI_LIKE
};

pub(crate) static GEMINI: Profile = Profile {
    paths: &[("/v1beta/openai/chat/completions", Route::Chat)],
    batches: &[("/v1beta/openai", Api::OpenAi)],
    ..GOOGLE
};

pub(crate) static VERTEX: Profile = Profile {
    paths: &[
        ("/v1/projects/*/locations/*/endpoints/openapi/chat/completions", Route::Chat),
        ("/v1beta1/projects/*/locations/*/endpoints/openapi/chat/completions", Route::Chat),
    ],
    bad_key: || {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token.";
        Failure::new(401, "authentication_error", "key", message)
    },
    check: |sent| {
        if !sent.model.starts_with("google/") {
            return Err(Failure::bad("model", "Malformed publisher model: expected publisher/model."));
        }
        gemini(&Sent { model: sent.model.trim_start_matches("google/"), ..*sent })
    },
    ..GOOGLE
};

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "n",
    "stream",
    "stream_options",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "seed",
    "tools",
    "tool_choice",
    "response_format",
    "reasoning_effort",
    "extra_body",
    "modalities",
];

fn gemini(sent: &Sent<'_>) -> Result<(), Failure> {
    if !sent.model.trim_start_matches("models/").starts_with("gemini-3") {
        let message = format!("models/{} is not found for API version v1main", sent.model);
        return Err(Failure::new(404, "not_found_error", "model", message));
    }
    if let Some(field) = sent.unknown(FIELDS) {
        let message = format!("Invalid JSON payload received. Unknown name \"{field}\": Cannot find field.");
        return Err(Failure::bad(field, message));
    }
    match sent.text("reasoning_effort") {
        None | Some("none" | "minimal" | "low" | "medium" | "high") => {}
        Some(other) => {
            let message = format!("Invalid value at 'reasoning_effort': \"{other}\"");
            return Err(Failure::bad("reasoning_effort", message));
        }
    }
    // Lists of a fixed length make the number of states explode.
    let described = &sent.body["response_format"]["json_schema"]["schema"];
    let many = schema::find(described, &|schema| schema["minItems"].as_u64().filter(|least| *least > 8));
    if many.is_some() {
        let message = "The specified schema produces a constraint that has too many states for serving.";
        return Err(Failure::bad("schema", message));
    }
    Ok(())
}
