//! Settings of the passes over a round's rows.

use crate::train::steps::Schedule;
use schemas::settings::{Algorithm, BaselineKind, RateSchedule, RlSettings};
use tch::Kind;

/// Common settings of the passes of an objective, and of the value model before it.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Settings.
    pub settings: &'a RlSettings,
    /// Seed of the order.
    pub seed: u64,
    /// Number format of matrix products.
    pub kind: Kind,
    /// Most tokens in one part of a minibatch.
    pub max_tokens_per_batch: Option<u64>,
}

impl Plan<'_> {
    /// Whether a problem's samples stay side by side when rows are shuffled: those that are compared with each other share its
    /// encoding.
    pub(crate) fn keeps_problems(settings: &RlSettings) -> bool {
        settings.algorithm != Algorithm::Ppo || settings.baseline != BaselineKind::Sampled
    }

    /// The schedule of `passes` passes.
    pub(super) fn schedule(&self, stage: &'static str, passes: u32) -> Schedule {
        let minibatch = self.settings.minibatch as usize;
        Schedule {
            stage,
            passes,
            batch: minibatch * self.settings.accumulation as usize,
            minibatch,
            shuffle: self.settings.shuffle,
            by_problem: Self::keeps_problems(self.settings),
            seed: self.seed,
            weight_decay: self.settings.weight_decay,
            max_grad_norm: self.settings.max_grad_norm,
            max_tokens: self.max_tokens_per_batch,
        }
    }

    /// Learning rate of step `step` of `total`, counted from 0; `peak` is that of the first.
    pub(super) fn rate(&self, peak: f64, step: u64, total: u64) -> f64 {
        match self.settings.schedule {
            RateSchedule::Linear => peak * (total - step) as f64 / total.max(1) as f64,
            RateSchedule::Constant => peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Settings;

    #[test]
    fn the_rate_falls_linearly() {
        let rates = |schedule| {
            let settings = RlSettings { schedule, ..Settings::default().rl };
            let plan = Plan { settings: &settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
            [0, 2, 3].map(|step| plan.rate(0.4, step, 4))
        };
        assert_eq!(rates(RateSchedule::Linear), [0.4, 0.2, 0.1]);
        assert_eq!(rates(RateSchedule::Constant), [0.4; 3]);
    }
}
