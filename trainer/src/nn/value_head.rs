//! The value head: d → 2d → ReLU → 1 on the decoder's last hidden state.

use super::layers::Linear;
use super::mode::Mode;
use super::weights::Weights;
use tch::{Device, Kind, Tensor};

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
    pub fn flush_gradients(&self) {
        self.inner.copies().flush_gradients(); // shared by all layers of the same weights
    }

    /// Flushes all of them.
    pub fn flush_all_gradients(&self) {
        self.inner.copies().flush_all_gradients();
    }

    /// `hidden` [batch, target, d] → values [batch, target].
    pub fn forward(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let inner = self.inner.forward(hidden, mode).relu();
        self.outer.forward(&inner, mode).squeeze_dim(-1).to_kind(Kind::Float)
    }
}

/// Name and shape of the weights of a head on states of width `d`.
pub fn shapes(d: i64) -> Vec<(String, Vec<i64>)> {
    [
        ("v_head.0.weight", vec![2 * d, d]),
        ("v_head.0.bias", vec![2 * d]),
        ("v_head.2.weight", vec![1, 2 * d]),
        ("v_head.2.bias", vec![1]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .to_vec()
}

/// Random weights of a head on states of width `d`: uniform within ±1/√fan-in, biases zero.
pub fn random(d: i64, seed: i64) -> Weights {
    tch::manual_seed(seed);
    let mut weights = Weights::default();
    for (name, shape) in shapes(d) {
        let options = (Kind::Float, Device::Cpu);
        let bound = (*shape.last().unwrap_or(&1) as f64).powf(-0.5);
        let tensor = match shape.len() {
            1 => Tensor::zeros(&shape, options),
            _ => Tensor::rand(&shape, options).g_mul_scalar_(2.0 * bound).g_sub_scalar_(bound),
        };
        weights.insert(name, tensor);
    }
    weights
}
