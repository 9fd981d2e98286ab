//! The OpenAI chat completions API, and compatible servers.

mod reply;
mod request;

pub(super) use reply::open;
pub use request::CACHED_BYTES;
pub(super) use request::{head, system, user};
