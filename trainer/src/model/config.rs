//! The configuration of a kind of model: its shape, its tokens, its weights, and its construction from them.

use super::footprint::{Decoding, Pass};
use super::network::{CpuDecoder, Model};
use crate::error::Result;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Tokens with a meaning for training and sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Pads rows to the longest.
    pub pad: i64,
    /// Ends a text.
    pub eos: i64,
    /// Begins a decoder's input.
    pub start: i64,
}

/// Names and shapes of weights.
pub type Shapes = Vec<(String, Vec<i64>)>;

/// Shape and constants of an encoder-decoder model that sees pictures: all that is known without weights.
pub trait ModelConfig: Debug {
    /// A boxed copy.
    fn to_shared(&self) -> Rc<dyn ModelConfig>;

    /// Itself as `Any`, for code that knows its type.
    fn as_any(&self) -> &dyn Any;

    /// Tokens with a meaning.
    fn special_tokens(&self) -> SpecialTokens;

    /// Number of logits: tokens, and unused rows of the embedding.
    fn vocabulary(&self) -> i64;

    /// Width d of the decoder's states.
    fn width(&self) -> i64;

    /// Width of the image features of one patch.
    fn image_width(&self) -> i64;

    /// Names and shapes of all weights, sorted.
    fn shapes(&self) -> Shapes;

    /// A random initial weight, drawn from libtorch's generator.
    fn initial(&self, name: &str, shape: &[i64]) -> Tensor;

    /// Last name components of all layers that LoRA can be added to.
    fn linear_layers(&self) -> Vec<&'static str>;

    /// Whether a layer's weight is used only in a matrix product, so that it may run in another number format and take LoRA.
    fn is_product(&self, layer: &str) -> bool;

    /// Whether a layer's weight is read without calling the layer, so that LoRA there has no effect.
    fn is_uncalled(&self, _layer: &str) -> bool {
        false
    }

    /// The weight that a checkpoint's tensor of this name duplicates; the name itself if it is not a duplicate.
    fn copied_by<'a>(&self, name: &'a str) -> &'a str {
        name
    }

    /// The model of these weights, which must have [`ModelConfig::shapes`]. It shares their memory.
    fn build(&self, weights: &Weights) -> Box<dyn Model>;

    /// A decoder with its own CPU kernels, if the model has one: `encoder` runs the source in `mode`; `decoder` holds matrices
    /// in `kind`, with LoRA merged.
    ///
    /// # Errors
    /// If threads cannot be started.
    fn cpu_decoder(
        &self,
        _encoder: &Weights,
        _decoder: &Weights,
        _kind: Kind,
        _mode: Mode,
        _threads: usize,
    ) -> Result<Option<Box<dyn CpuDecoder>>> {
        Ok(None)
    }

    /// Adapts the configuration to a checkpoint's tensors where the two may differ, and drops redundant tensors. Returns the
    /// problems found.
    fn follow(&mut self, _tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
        Vec::new()
    }

    /// As [`ModelConfig::follow`], if only the shapes are known.
    fn follow_shapes(&mut self, _shapes: &BTreeMap<String, Vec<i64>>) {}

    /// Weights that a text-only checkpoint of this kind lacks.
    fn picture_shapes(&self) -> Shapes {
        Vec::new()
    }

    /// Turns the configuration of a text-only checkpoint into that of a student, for image features of this width.
    fn see_pictures(&mut self, image_width: i64);

    /// Dropout in training.
    fn dropout(&self) -> f64;

    /// Sets the dropout in training.
    fn set_dropout(&mut self, dropout: f64);

    /// The text of its `config.json`.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    fn to_json(&self) -> serde_json::Result<String>;

    /// A one-line description.
    fn describe(&self) -> String;

    /// The layer that computes logits, if it has its own weights; `None` if it is the embedding.
    fn head_layer(&self) -> Option<&'static str>;

    /// Bytes that a pass with gradients keeps, by layer.
    fn kept_by_pass(&self, pass: &Pass) -> f64;

    /// Bytes of one layer's attention scores while it runs.
    fn scores_of_layer(&self, pass: &Pass) -> f64;

    /// Bytes of the decoding cache.
    fn cache(&self, decoding: &Decoding) -> f64;

    /// Numbers per token while a layer runs without gradients.
    fn running(&self) -> f64;
}

/// A kind of model.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` of its `config.json`.
    pub model_type: &'static str,
    /// Checks the text of a `config.json`, whose path is for errors.
    pub read: fn(&Path, &str) -> Result<Box<dyn ModelConfig>>,
    /// A shape by name, for a vocabulary and image features of these sizes: vocabulary, then width.
    pub named: fn(&str, i64, i64) -> Option<Box<dyn ModelConfig>>,
}

/// Random initial weights.
pub fn random_weights(config: &dyn ModelConfig, seed: i64) -> Weights {
    let mut weights = Weights::default();
    add_random(&mut weights, config, config.shapes(), seed);
    weights
}

/// Adds random weights for missing names.
pub fn add_random(weights: &mut Weights, config: &dyn ModelConfig, shapes: Shapes, seed: i64) {
    tch::manual_seed(seed);
    for (name, shape) in shapes {
        let tensor = config.initial(&name, &shape);
        if weights.find(&name).is_none() {
            weights.insert(name, tensor);
        }
    }
}
