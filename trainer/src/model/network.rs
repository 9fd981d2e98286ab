//! The interface of a model for training and sampling.

use super::source::Source;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use std::fmt::Debug;
use tch::Tensor;

/// An encoder-decoder model ready to run. It shares the memory of the [`Weights`] it was built from.
pub trait Model: Debug {
    /// Encoder states fused with the picture: [batch, source, d].
    fn encode(&self, source: &Source, mode: Mode) -> Tensor;

    /// Decoder states [batch, target, d] for decoder inputs `ids` [batch, target], which begin with the start token; `encoded`
    /// [sources, source, d] and its `mask` [sources, source]. With `source_of`, row r of `ids` belongs to the source at
    /// `source_of[r]`.
    fn decode(
        &self,
        ids: &Tensor,
        encoded: &Tensor,
        mask: &Tensor,
        source_of: Option<&[usize]>,
        mode: Mode,
    ) -> Tensor;

    /// Logits [.., vocabulary] of decoder states [.., d], float32.
    fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor;

    /// Starts step-by-step decoding of `samples` rows for each source; rows of a source are adjacent.
    fn start<'a>(
        &'a self,
        encoded: &Tensor,
        mask: &Tensor,
        samples: i64,
        mode: Mode,
    ) -> Box<dyn DecoderCache + 'a>;
}

/// Rows that a [`Model`] decodes step by step.
pub trait DecoderCache {
    /// One step for all rows: `ids` of shape `[rows]` → decoder states `[rows, d]`.
    fn step(&mut self, ids: &Tensor) -> Tensor;

    /// Keeps only the given rows, in this order, to drop finished ones.
    fn select_rows(&mut self, rows: &Tensor);
}

/// A decoder with its own CPU kernels, for single steps.
pub trait CpuDecoder: Debug {
    /// Also computes values with the value head of these weights.
    fn add_value_head(&mut self, weights: &Weights);

    /// Number of logits of a row.
    fn vocabulary(&self) -> usize;

    /// Its threads.
    fn pool(&self) -> &rayon::ThreadPool;

    /// Starts decoding of `samples` rows for each source: a grid of problems × samples.
    fn start<'a>(&'a self, source: &Source, samples: usize) -> Box<dyn CpuCache + 'a>;
}

/// A grid of rows that a [`CpuDecoder`] decodes step by step: `samples` rows for each problem, one problem after the other.
pub trait CpuCache {
    /// Rows of each problem.
    fn samples(&self) -> usize;

    /// One step for all rows.
    fn step(&mut self, ids: &[i64]) -> Step;

    /// Keeps these problems, and the rows at `places`, `samples` for each problem.
    fn select(&mut self, problems: &[usize], places: &[usize], samples: usize);
}

/// The result of one step.
#[derive(Debug)]
pub struct Step {
    /// Logits [rows, vocabulary], row by row.
    pub logits: Vec<f32>,
    /// One value per row; empty without a value head.
    pub values: Vec<f32>,
}
