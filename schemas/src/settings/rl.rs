//! Consequences of combinations of RL settings.

use super::choice::{Algorithm, BaselineKind, PairSource};
use super::table::RlSettings;

impl RlSettings {
    /// Whether the baseline is a value model trained before the passes.
    pub fn learns_values_first(&self) -> bool {
        self.algorithm == Algorithm::Ppo && self.baseline == BaselineKind::Model
    }

    /// Whether samples are compared only with others of their problem, so that those that do not differ teach nothing.
    pub fn compares_samples(&self) -> bool {
        match self.algorithm {
            Algorithm::Ppo => self.baseline == BaselineKind::LeaveOneOut,
            Algorithm::Grpo => true,
            Algorithm::Dpo => self.dpo_pairs == PairSource::Scores,
        }
    }

    /// Whether the baseline is the values stored while sampling rollouts.
    pub fn takes_sampled_values(&self) -> bool {
        self.algorithm == Algorithm::Ppo && self.baseline == BaselineKind::Sampled
    }

    /// Whether a value model is trained together with the policy.
    pub fn learns_values_along(&self) -> bool {
        self.algorithm == Algorithm::Ppo && self.value_loss
    }
}
