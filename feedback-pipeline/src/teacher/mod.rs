//! The services that can be asked, and how each wants a request and gives a reply.
//!
//! [`Template`] makes requests, [`open`] reads replies, and [`ServiceError`] what a refusal says.

pub mod anthropic;
pub mod catalogue;
pub mod openai;
pub mod reference;

mod address;
mod body;
pub mod dialect;
mod dialects;
mod embedded;
mod envelope;
mod picture;
mod secret;
mod service_error;
mod template;

pub use address::Address;
pub use body::{Body, BodyReader, PictureError};
pub use dialect::Dialect;
pub use dialects::{Dialects, Refusal, Spoken};
pub use embedded::answer as embedded_answer;
pub use envelope::{Ended, Envelope, Usage};
#[cfg(test)]
pub(crate) use picture::tests as picture_tests;
pub use picture::{Picture, PictureContent};
pub use secret::Secret;
pub use service_error::{ServiceError, TOO_LARGE, final_for_item};
#[cfg(test)]
pub(crate) use template::tests::template as test_template;
pub use template::{FollowUp, Template};

use envelope::Count;
use schemas::settings::{Provider, TeacherSettings};
use serde::Deserialize;

/// sha256 of a whole request.
pub type Key = [u8; 32];

/// Reads a key from 64 hexadecimal digits.
pub fn parse_key(hex: &str) -> Option<Key> {
    let bytes = hex.as_bytes();
    let mut key = [0; 32];
    for (place, pair) in key.iter_mut().zip(bytes.chunks_exact(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (bytes.len() == 64).then_some(key)
}

/// The model that is asked: the setting, or the provider's usual one.
pub fn model(settings: &TeacherSettings) -> String {
    if !settings.model.is_empty() && settings.provider != Provider::Reference {
        return settings.model.clone();
    }
    match settings.provider {
        Provider::Anthropic => "claude-haiku-5-5",
        Provider::OpenAi => "gpt-6-luna",
        Provider::Reference => "reference-v2",
    }
    .to_owned()
}

/// Opens a provider's envelope; an error says what is wrong with it.
pub fn open(provider: Provider, body: &[u8]) -> Result<Envelope, String> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body); // some servers begin with a byte order mark
    match provider {
        Provider::Anthropic => anthropic::open(body),
        Provider::OpenAi => openai::open(body),
        Provider::Reference => embedded::open(body),
    }
}

/// Usage told by a reply that is whole JSON and no error, but not the envelope that was expected: it was paid for. None for
/// anything else, which may be asked for again.
pub fn usage_of_unreadable(body: &[u8]) -> Option<Usage> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let reply: serde_json::Value = serde_json::from_slice(body).ok()?;
    let is_error = reply.get("error").is_some_and(|error| !error.is_null());
    if !reply.is_object() || is_error || reply.get("type").is_some_and(|kind| kind == "error") {
        return None;
    }
    let usage = reply.get("usage")?;
    let number = |names: [&str; 2]| {
        let count = |name: &&str| Count::deserialize(usage.get(*name)?).ok();
        names.iter().find_map(count).map_or(0, |count| count.0)
    };
    Some(Usage {
        input: number(["input_tokens", "prompt_tokens"]),
        cache_write: number(["cache_creation_input_tokens", ""]),
        cache_read: number(["cache_read_input_tokens", ""]),
        output: number(["output_tokens", "completion_tokens"]),
    })
}

/// Appends a text as a JSON string.
pub(crate) fn json_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text); // a text into memory cannot fail
}
