//! Read-only commands about a round; only `audit` sends requests.

pub mod audit;
mod bootstrap;
pub mod estimate;
mod frame;
mod opinions;
pub mod report;
pub mod status;
pub mod win_rate;
