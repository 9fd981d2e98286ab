//! The supported services, and the formats of their requests and replies.
//!
//! [`Template`] makes requests, [`open`] reads replies, and [`ServiceError`] what a refusal says.

pub mod anthropic;
pub mod catalogue;
pub mod openai;
pub mod reference;

mod address;
mod body;
mod decode;
pub mod dialect;
mod dialects;
mod embedded;
mod envelope;
mod events;
pub(crate) mod lenient;
mod open;
mod picture;
mod secret;
mod service_error;
mod template;
mod usage;

pub use address::Address;
pub use body::{Body, BodyReader};
pub use decode::text;
pub use dialect::Dialect;
pub use dialects::{Dialects, Refusal, Spoken};
pub use embedded::{answer as embedded_answer, answer_samples as embedded_answer_to_samples};
pub use envelope::{Ended, Envelope, Unopened};
pub use open::{open, usage_of_unreadable};
#[cfg(test)]
pub(crate) use picture::tests as picture_tests;
pub use picture::{Picture, PictureContent, PictureError};
pub use secret::Secret;
pub use service_error::{ServiceError, TOO_LARGE, final_for_item};
#[cfg(test)]
pub(crate) use template::tests::template as test_template;
pub use template::{FollowUp, Template};
pub use usage::Usage;

use schemas::settings::TeacherSettings;

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

/// The model: the setting, or the provider's default.
pub fn model(settings: &TeacherSettings) -> String {
    settings.model_name()
}

/// Appends a text as a JSON string.
pub(crate) fn json_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text); // a text into memory cannot fail
}
