//! Read-only commands about a round; only `audit` sends requests.

pub mod audit;
pub mod estimate;
mod frame;
pub mod report;
pub mod status;
pub mod win_rate;
