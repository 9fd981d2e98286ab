//! LoRA (Hu et al., 2021): low-rank additions to linear layers.

use super::dropout::dropout;
use super::mode::Mode;
use super::weights::{LORA, LoraScaling, Weights};
use tch::Tensor;

/// The two matrices of one linear layer: Δy = scale · dropout(x)·Aᵀ·Bᵀ, A [r, in], B [out, r].
#[derive(Debug)]
pub struct LoraPair {
    a: Tensor,
    b: Tensor,
    scaling: LoraScaling,
}

impl LoraPair {
    /// The pair of `layer`, if these weights contain one.
    pub fn find(weights: &Weights, layer: &str) -> Option<Self> {
        let side = |side: &str| weights.find(&matrix(layer, side)).map(Tensor::shallow_clone);
        Some(Self { a: side("A")?, b: side("B")?, scaling: weights.scaling()? })
    }

    /// scale · dropout(x)·Aᵀ of `x` [rows, in]: [rows, r], for [`LoraPair::add`].
    pub(super) fn narrowed(&self, x: &Tensor, mode: Mode) -> Tensor {
        let low = dropout(x, self.scaling.dropout, mode.train).linear(&mode.cast(&self.a), None::<&Tensor>);
        // Scaled here, where the tensor is small.
        low * self.scaling.factor
    }

    /// Adds `narrowed`·Bᵀ, of `narrowed` [rows, r], to `y` [rows, out] in place.
    pub(super) fn add(&self, mut y: Tensor, narrowed: &Tensor, mode: Mode) -> Tensor {
        y.addmm_(narrowed, &mode.cast(&self.b).transpose(0, 1))
    }

    /// `narrowed`·Bᵀ: [rows, out].
    pub(super) fn widened(&self, narrowed: &Tensor, mode: Mode) -> Tensor {
        narrowed.linear(&mode.cast(&self.b), None::<&Tensor>)
    }

    /// The pair's contribution to its layer's weight: scale · B·A, [out, in].
    pub(crate) fn change(&self) -> Tensor {
        (self.b.detach() * self.scaling.factor).matmul(&self.a.detach())
    }
}

/// Name of a LoRA matrix among a student's weights.
pub(crate) fn matrix(layer: &str, side: &str) -> String {
    format!("{LORA}{layer}.{side}")
}
