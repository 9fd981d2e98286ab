//! Tensors of rollouts that run through a model together.

use super::scored::ScoredRollout;
use crate::batch::Padded;
use crate::student::{Mode, Student, StudentConfig};
use crate::vision::ImageFeatures;
use tch::{Device, Tensor};

/// Some rollouts, padded for a model; what is kept of their tokens is a vector of the real ones, row by row.
pub(super) struct Part<'a> {
    rollouts: Vec<&'a ScoredRollout>,
    padded: Padded,
    device: Device,
}

impl<'a> Part<'a> {
    pub(super) fn new(
        rollouts: Vec<&'a ScoredRollout>,
        features: &ImageFeatures,
        config: &StudentConfig,
        device: Device,
    ) -> Self {
        Self { padded: Padded::new(&rollouts, features, config, device), rollouts, device }
    }

    /// Number of real tokens.
    pub(super) fn count(&self) -> i64 {
        self.padded.tokens().size()[0]
    }

    /// Decoder states of the real tokens: [tokens, d].
    pub(super) fn states(&self, student: &Student, mode: Mode) -> Tensor {
        self.padded.states(student, mode)
    }

    /// The real tokens.
    pub(super) fn tokens(&self) -> &Tensor {
        self.padded.tokens()
    }

    /// A number of each real token.
    pub(super) fn column(&self, numbers: fn(&ScoredRollout) -> &[f32]) -> Tensor {
        let numbers: Vec<f32> =
            self.rollouts.iter().flat_map(|rollout| numbers(rollout).iter().copied()).collect();
        Tensor::from_slice(&numbers).to_device(self.device)
    }

    /// Of `numbers` [rows, length], which may be longer than the part, those at real tokens.
    pub(super) fn real(&self, numbers: &Tensor) -> Tensor {
        self.padded.real(numbers)
    }
}
