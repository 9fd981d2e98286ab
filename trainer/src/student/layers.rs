//! The small pieces: linear layers (with LoRA where asked), T5's layer norm, feed-forward, and the run's mode.

use super::config::StudentConfig;
use super::dropout::dropout;
use super::lora::LoraPair;
use super::weights::Weights;
use super::working_copies::WorkingCopies;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// How a forward pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Whether dropout is on.
    pub train: bool,
    /// Number format of the matrix products; everything else stays float32.
    pub kind: Kind,
}

impl Mode {
    /// No dropout, float32.
    pub const EVAL: Self = Self { train: false, kind: Kind::Float };

    /// Casts to the format of the matrix products.
    pub fn cast(self, tensor: &Tensor) -> Tensor {
        tensor.to_kind(self.kind)
    }
}

/// A weight that enters matrix products, in whatever number format they run.
#[derive(Debug)]
pub struct Matrix {
    name: String,
    weight: Tensor,
    copies: Rc<WorkingCopies>,
}

impl Matrix {
    /// The weight of this name.
    pub fn new(weights: &Weights, name: &str) -> Self {
        Self { name: name.to_owned(), weight: weights.get(name), copies: weights.copies() }
    }

    /// The weight in the mode's number format.
    pub fn get(&self, mode: Mode) -> Tensor {
        if self.weight.kind() == mode.kind {
            return self.weight.shallow_clone();
        }
        self.copies.get(&self.name, &self.weight, mode.kind)
    }
}

/// y = x·Wᵀ + b, and with LoRA + scale · dropout(x)·Aᵀ·Bᵀ.
#[derive(Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
    lora: Option<LoraPair>,
}

impl Linear {
    /// The layer `name` of these weights, with the LoRA pair that `lora` holds for it.
    pub fn new(weights: &Weights, name: &str) -> Self {
        Self {
            weight: Matrix::new(weights, &format!("{name}.weight")),
            bias: weights.find(&format!("{name}.bias")).map(Tensor::shallow_clone),
            lora: LoraPair::find(weights, name),
        }
    }

    /// Brings the gradients of a backward pass to the weights, where it ran on copies of them.
    pub(super) fn collect_gradients(&self) {
        self.weight.copies.collect_gradients();
    }

    /// `x` [.., in] → [.., out], in the mode's number format.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let x = mode.cast(x);
        let bias = self.bias.as_ref().map(|bias| mode.cast(bias));
        let y = x.linear(&self.weight.get(mode), bias.as_ref());
        match &self.lora {
            Some(lora) => y + lora.forward(&x, mode),
            None => y,
        }
    }
}

/// T5's layer norm: x / √(mean(x²) + ε) · w, without mean and bias, in float32.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    /// The norm `name` of these weights.
    pub fn new(weights: &Weights, name: &str, config: &StudentConfig) -> Self {
        Self { weight: weights.get(&format!("{name}.weight")), epsilon: config.layer_norm_epsilon }
    }

    /// `x` [.., d] → [.., d].
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mean_square = x.square().mean_dim(-1, true, Kind::Float);
        x * (mean_square + self.epsilon).rsqrt() * &self.weight
    }
}

/// Feed-forward: relu(x·Wi)·Wo, or gelu(x·Wi₀) ⊙ (x·Wi₁)·Wo with the tanh form of gelu.
#[derive(Debug)]
pub struct FeedForward {
    norm: RmsNorm,
    gate: Option<Linear>,
    inner: Linear,
    outer: Linear,
    dropout: f64,
}

impl FeedForward {
    /// The layer under `prefix`, for instance `encoder.block.0.layer.1`.
    pub fn new(weights: &Weights, prefix: &str, config: &StudentConfig) -> Self {
        let linear = |name: &str| Linear::new(weights, &format!("{prefix}.DenseReluDense.{name}"));
        let gated = config.is_gated();
        Self {
            norm: RmsNorm::new(weights, &format!("{prefix}.layer_norm"), config),
            gate: gated.then(|| linear("wi_0")),
            inner: if gated { linear("wi_1") } else { linear("wi") },
            outer: linear("wo"),
            dropout: config.dropout_rate,
        }
    }

    /// x + FF(norm(x)), `x` [batch, length, d].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let normed = self.norm.forward(x);
        let inner = self.inner.forward(&normed, mode);
        let hidden = match &self.gate {
            Some(gate) => gate.forward(&normed, mode).gelu("tanh") * inner,
            None => inner.relu(),
        };
        let out = self.outer.forward(&dropout(&hidden, self.dropout, mode.train), mode);
        x + dropout(&out.to_kind(Kind::Float), self.dropout, mode.train)
    }
}
