//! AdamW (Loshchilov & Hutter, 2019) over named weights, with a state that can be saved.

mod kernel;

use crate::student::Weights;
use std::collections::BTreeMap;
use tch::{Kind, Tensor, no_grad};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Numbers worked on at once: three such slices of float32 stay in a core's cache through all operations of a step.
const SLICE: i64 = 1 << 17;

/// First and second moments by weight name, and the number of steps done.
#[derive(Debug)]
pub struct AdamW {
    weight_decay: f64,
    moments: BTreeMap<String, (Tensor, Tensor)>,
    steps: u64,
}

/// Whether weight decay applies: not to norms, nor to anything with "bias" in its name, as in the public code.
pub fn decays(name: &str) -> bool {
    !name.contains("bias") && !name.contains("layer_norm")
}

impl AdamW {
    /// An optimizer without history.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, moments: BTreeMap::new(), steps: 0 }
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step on all weights that have a gradient; gradients are scaled by `gradient_scale` first, then freed.
    ///
    /// θ ← θ·(1 − lr·wd) − lr · m̂ / (√v̂ + ε), with m, v the moving means of g and g².
    pub fn step(&mut self, weights: &[(&str, &Weights)], learning_rate: f64, gradient_scale: f64) {
        self.steps += 1;
        let exponent = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - BETA1.powi(exponent), 1.0 - BETA2.powi(exponent));
        let step = kernel::Step {
            gradient_scale: gradient_scale as f32,
            beta1: BETA1 as f32,
            beta2: BETA2 as f32,
            rate: (learning_rate / correction1) as f32,
            root: correction2.sqrt() as f32,
            epsilon: EPSILON as f32,
        };
        let mut plain = Vec::new();
        no_grad(|| {
            for (name, weight, gradient) in gradients(weights) {
                let decay = if decays(&name) { self.weight_decay } else { 0.0 };
                let (m, v) = self.moments.entry(name).or_insert_with(|| {
                    (Tensor::zeros_like(&weight.view(-1)), Tensor::zeros_like(&weight.view(-1)))
                });
                if [&weight, &gradient, m, v].into_iter().all(kernel::is_plain) {
                    let (m, v) = (m.shallow_clone(), v.shallow_clone());
                    let keep = (1.0 - learning_rate * decay) as f32;
                    plain.push(kernel::Weight { theta: weight, gradient, m, v, keep });
                    continue;
                }
                let (weight, flat) = (weight.view(-1), gradient.contiguous().view(-1));
                let total = weight.size()[0];
                for start in (0..total).step_by(SLICE as usize) {
                    let length = SLICE.min(total - start);
                    let part = |tensor: &Tensor| tensor.narrow(0, start, length);
                    let (mut theta, mut m, mut v) = (part(&weight), part(m), part(v));
                    let g = part(&flat) * gradient_scale;
                    let _ = theta.g_mul_scalar_(1.0 - learning_rate * decay);
                    let _ = m.lerp_(&g, 1.0 - BETA1);
                    let _ = v.g_mul_scalar_(BETA2).g_add_(&(g.square() * (1.0 - BETA2)));
                    let denominator = v.sqrt() / correction2.sqrt() + EPSILON;
                    let _ = theta.g_sub_(&(m * (learning_rate / correction1) / denominator));
                }
                let _ = gradient.shallow_clone().zero_();
            }
            kernel::step(&mut plain, step);
        });
        weights.iter().for_each(|(_, weights)| weights.copies().refresh());
    }

    /// State as named tensors, for a step checkpoint.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let named = self.moments.iter();
        named
            .flat_map(|(name, (m, v))| [(format!("adam.m.{name}"), m), (format!("adam.v.{name}"), v)])
            .collect()
    }

    /// Takes over a saved state.
    pub fn restore(&mut self, tensors: &mut BTreeMap<String, Tensor>, steps: u64, device: tch::Device) {
        let names: Vec<String> =
            tensors.keys().filter_map(|key| key.strip_prefix("adam.m.").map(ToOwned::to_owned)).collect();
        for name in names {
            let m = tensors.remove(&format!("adam.m.{name}"));
            let v = tensors.remove(&format!("adam.v.{name}"));
            if let (Some(m), Some(v)) = (m, v) {
                self.moments.insert(name, (m.to_device(device), v.to_device(device)));
            }
        }
        self.steps = steps;
    }
}

/// Weights that have a gradient, named `<set>.<weight>`.
fn gradients<'a>(sets: &'a [(&str, &Weights)]) -> impl Iterator<Item = (String, Tensor, Tensor)> + 'a {
    sets.iter().flat_map(|(set, weights)| {
        weights.copies().collect_gradients();
        weights.iter().filter(|(_, weight)| weight.requires_grad()).filter_map(move |(name, weight)| {
            let gradient = weight.grad();
            gradient.defined().then(|| (format!("{set}.{name}"), weight.detach(), gradient))
        })
    })
}

/// Forgets all gradients.
pub fn zero_gradients(sets: &[(&str, &Weights)]) {
    sets.iter().for_each(|(_, weights)| weights.copies().discard_gradients());
    for (_, mut gradient) in gradients(sets).map(|(name, _, gradient)| (name, gradient)) {
        let _ = gradient.zero_();
    }
}

/// Euclidean norm of all gradients together.
pub fn gradient_norm(sets: &[(&str, &Weights)]) -> f64 {
    let (plain, others): (Vec<Tensor>, Vec<Tensor>) =
        gradients(sets).map(|(_, _, gradient)| gradient).partition(kernel::is_plain);
    let squares = others.iter().map(|gradient| gradient.square().sum(Kind::Double));
    let others = squares.reduce(|sum, square| sum + square).map_or(0.0, |sum| sum.double_value(&[]));
    (kernel::sum_of_squares(&plain) + others).sqrt()
}

/// Factor that brings gradients of this norm to at most `max_norm` (PyTorch's `clip_grad_norm_`); 1 without a limit.
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max_norm| (max_norm / (norm + 1e-6)).min(1.0))
}
