//! The Anthropic Messages API.

mod reply;
mod request;

pub(super) use reply::open;
pub use request::API_VERSION;
pub(super) use request::{head, user};
