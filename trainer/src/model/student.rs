//! A student: a model, its configuration, and the low-precision copies of its weights.

use super::config::ModelConfig;
use super::network::{DecoderCache, Model};
use super::source::Source;
use crate::nn::low_precision::LowPrecisionCache;
use crate::nn::mode::Mode;
use crate::nn::weights::{Weights, is_lora};
use std::rc::Rc;
use tch::{Device, Tensor};

/// A student ready to run. It shares its tensors with the [`Weights`] it was built from: an optimizer step on those is visible
/// here.
#[derive(Debug)]
pub struct Student {
    /// Shape and constants.
    pub config: Rc<dyn ModelConfig>,
    model: Box<dyn Model>,
    copies: Rc<LowPrecisionCache>,
    /// Its first weight, and its first LoRA matrix if it has any: they identify the student.
    first: Option<Tensor>,
    lora: Option<Tensor>,
}

impl Student {
    /// The student of these weights, which must have the names and shapes of `config`.
    pub fn new(weights: &Weights, config: &dyn ModelConfig) -> Self {
        let first = |wanted: bool| {
            let mut some = weights.iter().filter(|(name, _)| is_lora(name) == wanted);
            some.next().map(|(_, tensor)| tensor.shallow_clone())
        };
        Self {
            model: config.build(weights),
            copies: weights.copies(),
            first: first(false),
            lora: first(true),
            config: config.to_shared(),
        }
    }

    /// Device of the weights.
    pub fn device(&self) -> Device {
        self.first.as_ref().map_or(Device::Cpu, Tensor::device)
    }

    /// Whether both students read the same memory, so that one pass serves both.
    pub fn reads_same_weights(&self, other: &Self) -> bool {
        let memory = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::data_ptr);
        memory(&self.first) == memory(&other.first) && memory(&self.lora) == memory(&other.lora)
    }

    /// Whether both share a low-precision weight cache, as students with adapters on one trunk do.
    pub fn shares_copies(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.copies, &other.copies)
    }

    /// Flushes accumulated gradients of low-precision weights, if they are large.
    pub fn flush_gradients(&self) {
        self.copies.flush_gradients();
    }

    /// Flushes all of them.
    pub fn flush_all_gradients(&self) {
        self.copies.flush_all_gradients();
    }

    /// Releases the memory of low-precision weights until the next pass needs them.
    pub fn release_copies(&self) {
        self.copies.release();
    }

    /// Encoder states [batch, source, d].
    pub fn encode(&self, source: &Source, mode: Mode) -> Tensor {
        self.model.encode(source, mode)
    }

    /// Logits [.., vocab] of decoder states [.., d].
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        self.model.logits(hidden, mode)
    }

    /// Starts step-by-step decoding of `samples` rows for each source.
    pub fn start(&self, source: &Source, samples: i64, mode: Mode) -> Box<dyn DecoderCache + '_> {
        self.model.start(&self.encode(source, mode), &source.mask, samples, mode)
    }

    /// Decoder states [batch, target, d] for decoder inputs `ids` [batch, target], which begin with the start token.
    pub fn hidden(&self, source: &Source, ids: &Tensor, mode: Mode) -> Tensor {
        let encoded = self.encode(source, mode);
        self.model.decode(ids, &encoded, &source.mask, None, mode)
    }

    /// As [`Student::hidden`], for decoder inputs whose row r belongs to the source at `source_of[r]`: each source is encoded
    /// once.
    pub fn hidden_shared(&self, source: &Source, source_of: &[usize], ids: &Tensor, mode: Mode) -> Tensor {
        let encoded = self.encode(source, mode);
        self.model.decode(ids, &encoded, &source.mask, Some(source_of), mode)
    }
}
