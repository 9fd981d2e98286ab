//! The value head: d → 2d → ReLU → 1 on the decoder's last hidden state.

use super::layers::Linear;
use super::mode::Mode;
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

    /// Flushes accumulated gradients of low-precision weights, if they are large.
    pub fn collect_gradients(&self) {
        self.inner.copies().collect_gradients(); // shared by all layers of the same weights
    }

    /// Takes up all of it.
    pub fn settle_gradients(&self) {
        self.inner.copies().settle_gradients();
    }

    /// `hidden` [batch, target, d] → values [batch, target].
    pub fn forward(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let inner = self.inner.forward(hidden, mode).relu();
        self.outer.forward(&inner, mode).squeeze_dim(-1).to_kind(Kind::Float)
    }
}
