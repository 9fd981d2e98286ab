//! The value head: d → 2d → ReLU → 1 on the decoder's last hidden state.

use super::layers::{Linear, Mode};
use super::weights::Weights;
use tch::{Kind, Tensor};

/// The head under the names `v_head.0` and `v_head.2`.
#[derive(Debug)]
pub struct ValueHead {
    inner: Linear,
    outer: Linear,
}

impl ValueHead {
    /// The head of these weights.
    pub fn new(weights: &Weights) -> Self {
        Self { inner: Linear::new(weights, "v_head.0"), outer: Linear::new(weights, "v_head.2") }
    }

    /// Brings the gradients of a backward pass to the head's weights, where it ran on copies of them.
    pub fn collect_gradients(&self) {
        self.inner.collect_gradients(); // copies are shared by all layers of the same weights
    }

    /// `hidden` [batch, target, d] → values [batch, target].
    pub fn forward(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let inner = self.inner.forward(hidden, mode).relu();
        self.outer.forward(&inner, mode).squeeze_dim(-1).to_kind(Kind::Float)
    }
}
