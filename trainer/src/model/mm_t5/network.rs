//! Encoder, decoder and head as one model.

use super::config::StudentConfig;
use super::decoder::{Decoder, KeysAndValues};
use super::encoder::Encoder;
use crate::model::network::{DecoderCache, Model};
use crate::model::source::Source;
use crate::nn::layers::{Linear, Matrix};
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Kind, Tensor};

/// The multimodal T5.
#[derive(Debug)]
pub struct MmT5 {
    /// Encoder and fusion.
    pub encoder: Encoder,
    /// Decoder.
    pub decoder: Decoder,
    head: Head,
    head_scale: Option<f64>,
}

#[derive(Debug)]
enum Head {
    Tied(Matrix),
    Own(Linear),
}

impl MmT5 {
    /// The model of these weights, which must have the names and shapes of `config`.
    pub fn new(weights: &Weights, config: &StudentConfig) -> Self {
        let head = match weights.find("lm_head.weight") {
            Some(_) => Head::Own(Linear::new(weights, "lm_head")),
            None => Head::Tied(Matrix::new(weights, "shared.weight")),
        };
        Self {
            encoder: Encoder::new(weights, config),
            decoder: Decoder::new(weights, config),
            head,
            head_scale: config.head_scale(),
        }
    }
}

impl Model for MmT5 {
    fn encode(&self, source: &Source, mode: Mode) -> Tensor {
        self.encoder.forward(&source.ids, &source.mask, &source.image, mode)
    }

    fn decode(
        &self,
        ids: &Tensor,
        encoded: &Tensor,
        mask: &Tensor,
        source_of: Option<&[usize]>,
        mode: Mode,
    ) -> Tensor {
        self.decoder.forward(ids, encoded, mask, source_of, mode)
    }

    fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let scaled = self.head_scale.map(|scale| hidden * scale);
        let hidden = scaled.as_ref().unwrap_or(hidden);
        let logits = match &self.head {
            Head::Own(linear) => linear.forward(hidden, mode),
            Head::Tied(weight) => weight.product(hidden, None, mode),
        };
        logits.to_kind(Kind::Float)
    }

    fn start<'a>(
        &'a self,
        encoded: &Tensor,
        mask: &Tensor,
        samples: i64,
        mode: Mode,
    ) -> Box<dyn DecoderCache + 'a> {
        let cache = self.decoder.start(encoded, mask, samples, mode);
        Box::new(Rows { decoder: &self.decoder, cache, mode })
    }
}

/// Rows that are decoded step by step.
struct Rows<'a> {
    decoder: &'a Decoder,
    cache: KeysAndValues,
    mode: Mode,
}

impl DecoderCache for Rows<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        self.decoder.step(ids, &mut self.cache, self.mode)
    }

    fn select_rows(&mut self, rows: &Tensor) {
        self.cache.select_rows(rows);
    }
}
