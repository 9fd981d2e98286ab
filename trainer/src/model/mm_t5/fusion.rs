//! Fusion of text and picture: E = image_dense(V); A = attention(H → E); g = σ(gate_dense([H ; A]));
//! fused = (1 − g) · H + g · A (MM-CoT, section 4.2).

use crate::nn::layers::Linear;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Kind, Tensor};

/// The fusion layers.
#[derive(Debug)]
pub struct Fusion {
    image_dense: Linear,
    in_weight: Tensor,
    in_bias: Tensor,
    out: Linear,
    gate: Linear,
}

/// Intermediate values of the fusion, for comparison with reference values.
#[derive(Debug)]
pub struct FusionParts {
    /// E [batch, patches, d].
    pub image_embedding: Tensor,
    /// A [batch, source, d].
    pub image_attention: Tensor,
    /// g [batch, source, d].
    pub gate: Tensor,
    /// (1 − g) · H + g · A, [batch, source, d].
    pub fused: Tensor,
}

impl Fusion {
    /// The layers of these weights.
    pub fn new(weights: &Weights) -> Self {
        Self {
            image_dense: Linear::new(weights, "encoder.image_dense"),
            in_weight: weights.get("encoder.mha_layer.in_proj_weight"),
            in_bias: weights.get("encoder.mha_layer.in_proj_bias"),
            out: Linear::new(weights, "encoder.mha_layer.out_proj"),
            gate: Linear::new(weights, "encoder.gate_dense"),
        }
    }

    /// Fuses `text` H [batch, source, d] with `image` V [batch, patches, p] (zeros if there is no picture: its biases
    /// still pass through the gate).
    pub fn forward(&self, text: &Tensor, image: &Tensor, mode: Mode) -> Tensor {
        self.parts(text, image, mode).fused
    }

    /// As [`Fusion::forward`], with intermediate values.
    pub fn parts(&self, text: &Tensor, image: &Tensor, mode: Mode) -> FusionParts {
        let embedding = self.image_dense.forward(image, mode);
        let attended = self.attend(text, &embedding, mode).to_kind(Kind::Float);
        let gate =
            self.gate.forward(&Tensor::cat(&[text, &attended], -1), mode).to_kind(Kind::Float).sigmoid();
        let fused = (1.0 - &gate) * text + &gate * &attended;
        FusionParts { image_embedding: embedding, image_attention: attended, gate, fused }
    }

    /// Single-head attention with input and output projections, no mask.
    fn attend(&self, text: &Tensor, image: &Tensor, mode: Mode) -> Tensor {
        let d = text.size()[2];
        let in_weight = mode.cast(&self.in_weight);
        let project = |x: &Tensor, part: i64| {
            let weight = in_weight.narrow(0, part * d, d);
            mode.cast(x).linear(&weight, Some(mode.cast(&self.in_bias.narrow(0, part * d, d))))
        };
        let (q, k, v) = (project(text, 0), project(image, 1), project(image, 2));
        let scores = (q * (d as f64).powf(-0.5)).matmul(&k.transpose(1, 2));
        let weights = scores.softmax(-1, Kind::Float);
        self.out.forward(&mode.cast(&weights).matmul(&v), mode)
    }
}
