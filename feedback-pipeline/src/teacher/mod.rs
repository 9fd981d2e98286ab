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
mod json;
mod key;
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
pub use key::{Key, parse_key};
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

/// The model: the setting, or the provider's default.
pub fn model(settings: &TeacherSettings) -> String {
    settings.model_name()
}
