//! Training for any objective: the loop over steps, the optimizer, step checkpoints, metrics, progress.

pub mod board;
pub mod metrics;
pub mod optimizer;
pub mod progress;
pub mod resume;
pub mod steps;
