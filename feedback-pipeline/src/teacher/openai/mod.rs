//! The OpenAI chat completions API, and the servers that speak it.

mod reply;
mod request;

pub(super) use reply::open;
pub(super) use request::{head, system, user};
