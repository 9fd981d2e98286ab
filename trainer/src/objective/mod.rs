//! What a policy learns from the round's feedback: rewards, baselines, advantages, losses, and the passes over the rows.
//!
//! [`Objective`] is what an algorithm adds; `passes` runs any of them.

pub mod advantage;
pub mod advice;
pub mod baseline;
pub mod dpo;
pub mod experience;
pub mod grpo;
pub mod loss;
pub mod passes;
pub mod plan;
pub mod policy_gradient;
pub mod ppo;
pub mod reward;
mod rows;
pub mod sft;
pub mod statistics;
pub mod value_model;
pub mod values;

pub use rows::ScoredRollout;
pub(crate) use rows::split_rows;

use crate::data::batch::{Portion, Row};
use crate::error::Result;
use crate::nn::weights::Weights;
use statistics::Statistics;

/// An objective of the policy: what it learns from, and the gradients of its loss.
pub trait Objective {
    /// What a step takes some of.
    type Row: Row;

    /// Makes the rows from the round's feedback, before the first pass: log-probabilities, baselines, advantages. Feedback
    /// without differences gives no rows, and a warning.
    ///
    /// # Errors
    /// If feedback that the settings ask for is missing, the run is interrupted, or a write fails.
    fn prepare(&mut self) -> Result<()>;

    /// What was measured by [`Objective::prepare`], by name.
    fn measured(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The rows, in an order that does not depend on interruptions; empty before [`Objective::prepare`].
    fn rows(&self) -> &[Self::Row];

    /// Sets of weights that are trained, by name.
    fn sets(&self) -> Vec<(&'static str, &Weights)>;

    /// Adds `share` times the gradients of the loss of one minibatch, as far as the portion goes. Statistics are of the
    /// policy before the step. What portions of all ranks add up to does not depend on their number.
    fn backward(&self, rows: &[&Self::Row], portion: Portion, share: f64) -> Statistics;

    /// KL of the policy from the round's starting policy on the tokens of `rows`, to second order, in nats per token;
    /// `None` where rows are not samples of that policy.
    ///
    /// # Errors
    /// If not even one row fits into memory.
    fn drift(&self, rows: &[&Self::Row]) -> Result<Option<f64>>;
}
