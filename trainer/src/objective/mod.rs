//! Objectives of the policy: rewards, baselines, advantages, losses, and the passes over the rows.
//!
//! Each algorithm implements [`Objective`]; `passes` runs any of them.

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

/// An objective of the policy: its training rows, and the gradients of its loss.
pub trait Objective {
    /// A training row; a step takes several.
    type Row: Row;

    /// Builds the rows from the round's feedback, before the first pass: log-probabilities, baselines, advantages. Feedback
    /// without differences yields no rows and a warning.
    ///
    /// # Errors
    /// If feedback required by the settings is missing, the run is interrupted, or a write fails.
    fn prepare(&mut self) -> Result<()>;

    /// Metrics taken by [`Objective::prepare`], by name.
    fn measured(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The rows, in an order that does not depend on interruptions; empty before [`Objective::prepare`].
    fn rows(&self) -> &[Self::Row];

    /// Sets of weights that are trained, by name.
    fn sets(&self) -> Vec<(&'static str, &Weights)>;

    /// Adds `share` times the gradients of the loss of one minibatch, for the rows of the portion. Statistics are of the policy
    /// before the step. The sum over the portions of all ranks does not depend on the number of ranks.
    fn backward(&self, rows: &[&Self::Row], portion: Portion<'_>, share: f64) -> Statistics;

    /// KL of the policy from the round's starting policy on the tokens of `rows`, to second order, in nats per token; `None` if
    /// rows are not samples of that policy.
    ///
    /// # Errors
    /// If not even one row fits into memory.
    fn drift(&self, rows: &[&Self::Row]) -> Result<Option<f64>>;
}
