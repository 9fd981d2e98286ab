//! Scored rollouts, and the tensors of a batch of them.

use crate::data::batch::{Padded, Row};
use crate::data::vision::ImageFeatures;
use crate::model::Student;
use crate::nn::mode::Mode;
use tch::{Device, Tensor};

/// A scored rollout, ready for training.
#[derive(Debug, Clone)]
pub struct ScoredRollout {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Sampled tokens.
    pub tokens: Vec<i64>,
    /// log π(token) of the sampling policy.
    pub old_logprobs: Vec<f32>,
    /// A_t.
    pub advantages: Vec<f32>,
    /// R_t; empty if no value model is trained.
    pub returns: Vec<f32>,
    /// V_t that the returns were computed with; empty if no value model is trained.
    pub values: Vec<f32>,
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

/// A text to run through a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence<'a> {
    /// Problem whose picture belongs to the source.
    pub(super) problem_id: &'a str,
    /// Source tokens.
    pub(super) source: &'a [i64],
    /// The text's tokens.
    pub(super) tokens: &'a [i64],
}

impl Row for Sequence<'_> {
    fn problem_id(&self) -> &str {
        self.problem_id
    }

    fn source(&self) -> &[i64] {
        self.source
    }

    fn target(&self) -> &[i64] {
        self.tokens
    }
}

/// A vector of the real tokens of some rows, row by row, as a list for each row.
pub(crate) fn split_rows(numbers: &Tensor, lengths: impl Iterator<Item = usize>) -> Vec<Vec<f32>> {
    let numbers = numbers.to_device(Device::Cpu).contiguous();
    let mut flat = vec![0f32; numbers.numel()];
    numbers.copy_data(&mut flat, numbers.numel());
    let mut rest = flat.as_slice();
    let cut = lengths.map(|length| {
        let (own, others) = rest.split_at(length);
        rest = others;
        own.to_vec()
    });
    cut.collect()
}

/// Some rollouts, padded for a model; tokens are kept as a vector of the real ones, row by row.
pub(super) struct Part<'a> {
    rollouts: Vec<&'a ScoredRollout>,
    padded: Padded,
    device: Device,
}

impl<'a> Part<'a> {
    pub(super) fn new(rollouts: Vec<&'a ScoredRollout>, features: &ImageFeatures, student: &Student) -> Self {
        let padded = Padded::new(&rollouts, features, student);
        Self { padded, rollouts, device: student.device() }
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

    /// A per-token quantity, at each real token.
    pub(super) fn column(&self, numbers: fn(&ScoredRollout) -> &[f32]) -> Tensor {
        let numbers: Vec<f32> =
            self.rollouts.iter().flat_map(|rollout| numbers(rollout).iter().copied()).collect();
        Tensor::from_slice(&numbers).to_device(self.device)
    }

    /// The elements of `numbers` [rows, length] at real tokens; `length` may exceed that of the part.
    pub(super) fn real(&self, numbers: &Tensor) -> Tensor {
        self.padded.real(numbers)
    }
}
