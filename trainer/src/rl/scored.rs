//! Rollouts as they are learned from.

use crate::batch::Row;

/// A scored rollout, ready to learn from.
#[derive(Debug, Clone)]
pub struct ScoredRollout {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Sampled tokens.
    pub tokens: Vec<i64>,
    /// log π(token) of the policy that sampled.
    pub old_logprobs: Vec<f32>,
    /// A_t.
    pub advantages: Vec<f32>,
    /// R_t; empty for algorithms without a value model.
    pub returns: Vec<f32>,
}

impl Row for ScoredRollout {
    fn problem_id(&self) -> &str {
        &self.problem_id
    }

    fn source(&self) -> &[i64] {
        &self.source
    }

    fn target(&self) -> &[i64] {
        &self.tokens
    }
}
