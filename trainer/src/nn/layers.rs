//! Linear layers, with LoRA if the weights contain pairs, and the root-mean-square norm.

use super::lora_pair::LoraPair;
use super::low_precision::LowPrecisionCache;
use super::mode::Mode;
use super::weights::Weights;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A weight used in matrix products, in any compute dtype; or several weights stacked.
#[derive(Debug)]
pub struct Matrix {
    names: Vec<String>,
    weights: Vec<Tensor>,
    copies: Rc<LowPrecisionCache>,
}

impl Matrix {
    /// The weight of this name.
    pub fn new(weights: &Weights, name: &str) -> Self {
        Self::stacked(weights, vec![name.to_owned()])
    }

    fn stacked(weights: &Weights, names: Vec<String>) -> Self {
        let tensors = names.iter().map(|name| weights.get(name)).collect();
        Self { names, weights: tensors, copies: weights.copies() }
    }

    /// Whether the mode's compute dtype is that of the weights, so that products need no copy.
    fn is_plain(&self, mode: Mode) -> bool {
        self.weights.iter().all(|weight| weight.kind() == mode.kind)
    }

    /// x·Wᵀ + b of `x` [.., in]: [.., out], in the mode's number format.
    pub fn product(&self, x: &Tensor, bias: Option<&Tensor>, mode: Mode) -> Tensor {
        let x = mode.cast(x);
        match (self.weights.as_slice(), bias) {
            ([weight], bias) if self.is_plain(mode) => {
                x.linear(weight, bias.map(|bias| mode.cast(bias)).as_ref())
            }
            (weights, None) => self.copies.product(&self.names, weights, &x),
            (weights, Some(bias)) => self.copies.product(&self.names, weights, &x) + mode.cast(bias),
        }
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

    /// The low-precision cache of the weights that this layer's weight belongs to.
    pub(super) fn copies(&self) -> &LowPrecisionCache {
        &self.weight.copies
    }

    /// `x` [.., in] → [.., out], in the mode's number format.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let x = mode.cast(x);
        let Some(lora) = &self.lora else { return self.weight.product(&x, self.bias.as_ref(), mode) };
        let mut size = x.size();
        let flat = x.reshape([-1, size.last().copied().unwrap_or(1)]);
        // The tensors that LoRA's backward pass needs are small. They are allocated before the output, and the sum is computed
        // in the output's memory: small tensors between large ones would fragment memory.
        let narrowed = lora.narrowed(&flat, mode);
        let y = lora.add(self.weight.product(&flat, self.bias.as_ref(), mode), &narrowed, mode);
        if let (Some(last), [.., outputs]) = (size.last_mut(), y.size().as_slice()) {
            *last = *outputs;
        }
        y.view(size.as_slice())
    }

    /// The output of the weight for `x`, plus LoRA's contribution.
    fn adapted(&self, y: Tensor, x: &Tensor, mode: Mode) -> Tensor {
        match &self.lora {
            Some(lora) => y + lora.widened(&lora.narrowed(x, mode), mode),
            None => y,
        }
    }
}

/// Linear layers with the same input. If products run on copies of the weights, a single product computes all.
#[derive(Debug)]
pub struct Linears {
    layers: Vec<Linear>,
    /// The layers' stacked weights, and the outputs of each; `None` if a layer has a bias.
    stacked: Option<(Matrix, Vec<i64>)>,
}

impl Linears {
    /// The layers of these names.
    pub fn new(weights: &Weights, names: &[String]) -> Self {
        let layers: Vec<Linear> = names.iter().map(|name| Linear::new(weights, name)).collect();
        let without_bias = layers.iter().all(|layer| layer.bias.is_none());
        let stacked = (without_bias && layers.len() > 1).then(|| {
            let matrix =
                Matrix::stacked(weights, names.iter().map(|name| format!("{name}.weight")).collect());
            let outputs = matrix.weights.iter().map(|weight| weight.size()[0]).collect();
            (matrix, outputs)
        });
        Self { layers, stacked }
    }

    /// `x` [.., in] → [.., out] of each layer, in the mode's number format.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Vec<Tensor> {
        let x = mode.cast(x);
        match &self.stacked {
            Some((matrix, outputs)) if !matrix.is_plain(mode) => {
                let parts = matrix.product(&x, None, mode).split_with_sizes(outputs, -1);
                self.layers.iter().zip(parts).map(|(layer, part)| layer.adapted(part, &x, mode)).collect()
            }
            _ => self.layers.iter().map(|layer| layer.forward(&x, mode)).collect(),
        }
    }
}

/// Root-mean-square norm (Zhang & Sennrich, 2019): x / √(mean(x²) + ε) · w, without mean and bias, in float32.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    /// The norm `name` of these weights.
    pub fn new(weights: &Weights, name: &str, epsilon: f64) -> Self {
        Self { weight: weights.get(&format!("{name}.weight")), epsilon }
    }

    /// `x` [.., d] → [.., d].
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mean_square = x.square().mean_dim(-1, true, Kind::Float);
        x * (mean_square + self.epsilon).rsqrt() * &self.weight
    }
}
