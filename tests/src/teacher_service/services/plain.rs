//! Servers that support only part of their API: texts only, no system message, no formats.

use super::failure::{self, Failure};
use super::{OPENAI_LIKE, Profile, Sent, older_limit, usage};
use serde_json::Value;

const PLAIN: Profile = Profile {
    needs_key: false,
    no_path: |_| Failure::new(404, "not_found", "path", ""),
    word: failure::plain,
    limit: older_limit,
    usage: usage::bare,
    ..OPENAI_LIKE
};

pub(crate) static TEXTS_ONLY: Profile = Profile {
    check: |sent| match messages(sent).iter().position(|message| message["content"].is_array()) {
        Some(place) => {
            let message = format!(
                "Failed to deserialize the JSON body into the target type: messages[{place}]: invalid type: sequence, expected a string at line 1 column 812"
            );
            Err(Failure::new(422, "invalid_request_error", "content", message))
        }
        None => Ok(()),
    },
    ..PLAIN
};

pub(crate) static NO_SYSTEM: Profile = Profile {
    word: failure::vllm,
    check: |sent| {
        let is_system = |message: &Value| message["role"] == "system" || message["role"] == "developer";
        if messages(sent).iter().any(is_system) {
            Err(Failure::bad("system", "System role not supported"))
        } else {
            Ok(())
        }
    },
    ..PLAIN
};

pub(crate) static NO_FORMAT: Profile = Profile {
    word: failure::openai,
    check: |sent| {
        if sent.has("response_format") {
            Err(Failure::bad("response_format", "Unrecognized request argument supplied: response_format"))
        } else {
            Ok(())
        }
    },
    ..PLAIN
};

fn messages<'a>(sent: &Sent<'a>) -> &'a [Value] {
    sent.body["messages"].as_array().map(Vec::as_slice).unwrap_or_default()
}
