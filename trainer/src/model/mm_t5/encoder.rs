//! The encoder: a T5 encoder whose output is fused with the picture.

use super::attention::{Attention, RelativeBias, padding_bias};
use super::config::StudentConfig;
use super::feed_forward::FeedForward;
use super::fusion::Fusion;
use crate::nn::dropout::dropout;
use crate::nn::layers::RmsNorm;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Device, Tensor};

/// The encoder with its fusion layers.
#[derive(Debug)]
pub struct Encoder {
    embedding: Tensor,
    bias: RelativeBias,
    blocks: Vec<(Attention, FeedForward)>,
    norm: RmsNorm,
    /// The fusion layers.
    pub fusion: Fusion,
    dropout: f64,
}

impl Encoder {
    /// The encoder of these weights.
    pub fn new(weights: &Weights, config: &StudentConfig) -> Self {
        let block = |index: i64| {
            let prefix = format!("encoder.block.{index}.layer");
            (
                Attention::new(weights, &format!("{prefix}.0"), "SelfAttention", config),
                FeedForward::new(weights, &format!("{prefix}.1"), config),
            )
        };
        Self {
            embedding: weights.get("shared.weight"),
            bias: RelativeBias::new(weights, "encoder", config),
            blocks: (0..config.num_layers).map(block).collect(),
            norm: RmsNorm::new(weights, "encoder.final_layer_norm", config.layer_norm_epsilon),
            fusion: Fusion::new(weights),
            dropout: config.dropout_rate,
        }
    }

    /// The text alone: `ids` and `mask` [batch, source] → H [batch, source, d].
    pub fn text(&self, ids: &Tensor, mask: &Tensor, mode: Mode) -> Tensor {
        let length = ids.size()[1];
        let bias = self.bias.forward(0, length, length) + padding_bias(mask);
        let embedded = Tensor::embedding(&self.embedding, ids, -1, false, false);
        let hidden =
            self.blocks.iter().fold(dropout(&embedded, self.dropout, mode.train), |x, (attention, feed)| {
                feed.forward(&attention.attend_self(&x, &bias, mode), mode)
            });
        dropout(&self.norm.forward(&hidden), self.dropout, mode.train)
    }

    /// Whether both read the same embedding.
    pub fn reads_same_weights(&self, other: &Self) -> bool {
        self.embedding.data_ptr() == other.embedding.data_ptr()
    }

    /// Device of the weights.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// Text fused with `image` [batch, patches, p] → [batch, source, d].
    pub fn forward(&self, ids: &Tensor, mask: &Tensor, image: &Tensor, mode: Mode) -> Tensor {
        self.fusion.forward(&self.text(ids, mask, mode), image, mode)
    }
}
