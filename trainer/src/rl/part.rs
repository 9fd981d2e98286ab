//! Tensors of rollouts that run through a model together.

use super::ppo::ScoredRollout;
use crate::batch;
use crate::student::{Mode, Source, Student, StudentConfig};
use crate::vision::ImageFeatures;
use tch::{Device, Tensor};

/// Some rollouts, padded for a model; whatever is kept of their tokens is a vector of the real ones, row by row.
pub(super) struct Part<'a> {
    rollouts: Vec<&'a ScoredRollout>,
    source: Source,
    inputs: Tensor,
    /// Places of the real tokens in [rows · longest].
    kept: Tensor,
    device: Device,
}

impl<'a> Part<'a> {
    pub(super) fn new(
        rollouts: Vec<&'a ScoredRollout>,
        features: &ImageFeatures,
        config: &StudentConfig,
        device: Device,
    ) -> Self {
        let sources: Vec<(&[i64], &str)> =
            rollouts.iter().map(|rollout| (rollout.source.as_slice(), rollout.problem_id.as_str())).collect();
        let tokens: Vec<&[i64]> = rollouts.iter().map(|rollout| rollout.tokens.as_slice()).collect();
        let lengths: Vec<usize> = tokens.iter().map(|tokens| tokens.len()).collect();
        let (start, pad) = (config.decoder_start_token_id, config.pad_token_id);
        Self {
            source: batch::source(&sources, features, pad, device),
            inputs: batch::decoder_inputs(&tokens, start, pad, device),
            kept: batch::mask(&lengths, device).view(-1).nonzero().squeeze_dim(-1),
            rollouts,
            device,
        }
    }

    /// Number of real tokens.
    pub(super) fn count(&self) -> i64 {
        self.kept.size()[0]
    }

    /// Decoder states of the real tokens: [tokens, d].
    pub(super) fn states(&self, student: &Student, mode: Mode) -> Tensor {
        let hidden = student.hidden(&self.source, &self.inputs, mode);
        hidden.contiguous().view([-1, student.config.d_model]).index_select(0, &self.kept)
    }

    /// The real tokens.
    pub(super) fn tokens(&self) -> Tensor {
        let tokens: Vec<i64> =
            self.rollouts.iter().flat_map(|rollout| rollout.tokens.iter().copied()).collect();
        Tensor::from_slice(&tokens).to_device(self.device)
    }

    /// A number of each real token.
    pub(super) fn column(&self, numbers: fn(&ScoredRollout) -> &[f32]) -> Tensor {
        let numbers: Vec<f32> =
            self.rollouts.iter().flat_map(|rollout| numbers(rollout).iter().copied()).collect();
        Tensor::from_slice(&numbers).to_device(self.device)
    }

    /// Of `numbers` [rows, length], which may be longer than the part, those at real tokens.
    pub(super) fn real(&self, numbers: &Tensor) -> Tensor {
        numbers.narrow(1, 0, self.inputs.size()[1]).contiguous().view(-1).index_select(0, &self.kept)
    }
}
