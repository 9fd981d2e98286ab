//! Commands that look at a round: they read tables, and only an audit sends requests of its own.

pub mod audit;
pub mod estimate;
pub mod report;
pub mod status;
pub mod win_rate;
