//! The optimizer, its state in step checkpoints, and summing gradients over ranks.

mod adamw;
mod shards;
mod state;
mod sum;

pub use adamw::{AdamW, clip_factor, decays, gradient_norm, zero_gradients};
pub use shards::Shards;
pub(crate) use state::{Moments, check_state};
pub use sum::{sum_gradients, summed_early};

#[cfg(test)]
mod tests;
