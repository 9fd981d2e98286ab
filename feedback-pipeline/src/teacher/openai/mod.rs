//! The OpenAI chat completions API, and the servers that speak it.

mod reply;
mod request;

pub(super) use reply::open;
pub use request::CACHED_BYTES;
pub(super) use request::{head, system, user};
