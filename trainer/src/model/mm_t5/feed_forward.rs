//! T5's feed-forward layer.

use super::config::StudentConfig;
use crate::nn::dropout::dropout;
use crate::nn::layers::{Linear, Linears, RmsNorm};
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Kind, Tensor};

/// Feed-forward: relu(x·Wi)·Wo, or gelu(x·Wi₀) ⊙ (x·Wi₁)·Wo with the tanh form of gelu.
#[derive(Debug)]
pub struct FeedForward {
    norm: RmsNorm,
    /// Wi, or Wi₀ and Wi₁.
    inner: Linears,
    outer: Linear,
    dropout: f64,
}

impl FeedForward {
    /// The layer under `prefix`, for instance `encoder.block.0.layer.1`.
    pub fn new(weights: &Weights, prefix: &str, config: &StudentConfig) -> Self {
        let layer = |name: &&str| format!("{prefix}.DenseReluDense.{name}");
        let inner = if config.is_gated() { &["wi_0", "wi_1"][..] } else { &["wi"] };
        let inner: Vec<String> = inner.iter().map(layer).collect();
        Self {
            norm: RmsNorm::new(weights, &format!("{prefix}.layer_norm"), config.layer_norm_epsilon),
            inner: Linears::new(weights, &inner),
            outer: Linear::new(weights, &layer(&"wo")),
            dropout: config.dropout_rate,
        }
    }

    /// x + FF(norm(x)), `x` [batch, length, d].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let normed = self.norm.forward(x);
        let hidden = match self.inner.forward(&normed, mode).as_slice() {
            [gate, inner] => gate.gelu("tanh") * inner,
            inner => inner[0].relu(),
        };
        let out = self.outer.forward(&dropout(&hidden, self.dropout, mode.train), mode);
        x + dropout(&out.to_kind(Kind::Float), self.dropout, mode.train)
    }
}
