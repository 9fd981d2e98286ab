//! Opens replies of status 200: the envelope, or an error inside it.

use super::envelope::{failed, says_something};
use super::{Envelope, ServiceError, Unopened, Usage, anthropic, decode, embedded, openai};
use schemas::settings::Provider;
use serde_json::Value;

/// Opens the body of a reply, as it came.
///
/// # Errors
/// If it contains an error, is broken, or is not a reply of the provider's API.
pub fn open(provider: Provider, body: &[u8]) -> Result<Envelope, Unopened> {
    if provider == Provider::Reference {
        return embedded::open(body).map_err(Unopened::NotAReply);
    }
    let what = if provider == Provider::Anthropic { "Messages reply" } else { "chat completion" };
    let reply = decode::value(body).map_err(|why| Unopened::NotAReply(format!("no {what}: {why}")))?;
    if is_error(&reply) {
        return Err(failed(ServiceError::of(&reply)));
    }
    match provider {
        Provider::Anthropic => anthropic::open(&reply),
        _ => openai::open(&reply),
    }
}

/// Usage reported by a reply that is complete JSON and not an error, but not in the expected envelope: it was
/// paid for. `None` for anything else, which may be requested again.
pub fn usage_of_unreadable(body: &[u8]) -> Option<Usage> {
    let reply = decode::value(body).ok().filter(|reply| !is_error(reply))?;
    Usage::of_either(reply.get("usage"))
}

/// True if a reply contains an error.
fn is_error(reply: &Value) -> bool {
    match reply {
        // Gemini sends errors in a list.
        Value::Array(list) => list.first().is_some_and(is_error),
        Value::Object(fields) => {
            let is = |name: &str| fields.get(name).is_some_and(|kind| kind == "error");
            let has_content = fields.contains_key("choices") || fields.contains_key("content");
            says_something(fields.get("error"))
                || is("type")
                || is("object")
                || (!has_content
                    && (says_something(fields.get("detail")) || says_something(fields.get("errors"))))
        }
        _ => false,
    }
}
