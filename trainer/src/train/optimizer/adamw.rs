//! AdamW (Loshchilov & Hutter, 2019) over named weights, with a savable state.

use super::shards::Shards;
use crate::backend::cpu::adamw as kernel;
use crate::error::Result;
use crate::nn::weights::Weights;
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Numbers processed at a time: three such slices of float32 stay in a core's cache through all operations of a step.
const SLICE: i64 = 1 << 17;

/// Numbers processed at a time on other devices after running out of memory, and the minimum tried.
const LARGE_SLICE: i64 = 1 << 22;
const SMALL_SLICE: i64 = 1 << 14;

/// First and second moments by weight name, and the number of steps done.
#[derive(Debug)]
pub struct AdamW {
    pub(super) weight_decay: f64,
    pub(super) moments: BTreeMap<String, (Tensor, Tensor)>,
    pub(super) steps: u64,
    /// Maximum numbers processed at a time by libtorch's operations, after running out of memory.
    pub(super) slice: Option<i64>,
    /// Whether steps use libtorch's operations even if the CPU has its own kernel.
    pub(super) by_operations: bool,
    /// Where a step ran out of memory: the index of the weight, and how many of its numbers are done.
    pub(super) unfinished: Option<(usize, i64)>,
    /// The part of the weights that this rank updates; `None` for all.
    pub(super) shards: Option<Shards>,
}

/// Whether weight decay applies: not to norms, nor to anything with "bias" in its name, as in the public code.
pub fn decays(name: &str) -> bool {
    !name.contains("bias") && !name.contains("layer_norm")
}

impl AdamW {
    /// An optimizer with an empty state.
    pub fn new(weight_decay: f64) -> Self {
        Self {
            weight_decay,
            moments: BTreeMap::new(),
            steps: 0,
            slice: None,
            by_operations: false,
            unfinished: None,
            shards: None,
        }
    }

    /// Uses libtorch's operations on whole weights, as on a GPU, on the CPU too: the reference for tests of the CPU kernel.
    #[must_use]
    pub fn by_operations(mut self) -> Self {
        self.by_operations = true;
        self
    }

    /// Keeps moments for this rank's part of the weights only. After each [`AdamW::step`], which updates that part,
    /// [`AdamW::spread`] fetches the others.
    #[must_use]
    pub fn sharded(mut self, shards: Shards) -> Self {
        self.shards = Some(shards);
        self
    }

    /// This rank's part of the weights; `None` for all.
    pub fn shards(&self) -> Option<&Shards> {
        self.shards.as_ref()
    }

    /// The range of a flattened weight that this rank updates.
    pub(super) fn own(&self, name: &str, length: i64) -> Range<i64> {
        self.shards.as_ref().map_or(0..length, |shards| shards.own(name))
    }

    /// Fetches the other ranks' parts of the weights, and updates the low-precision copies; no effect without
    /// [`AdamW::sharded`].
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn spread(&self, weights: &[(&str, &Weights)]) -> Result<()> {
        self.shards.as_ref().map_or(Ok(()), |shards| shards.spread(weights))
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step on all weights that have a gradient; gradients are scaled by `gradient_scale` first, then freed.
    ///
    /// θ ← θ·(1 − lr·wd) − lr · m̂ / (√v̂ + ε), with m, v the moving means of g and g².
    ///
    /// If memory runs out, which libtorch reports as a panic, calling it again finishes the step from there;
    /// [`AdamW::take_smaller_slices`] reduces the memory it needs.
    pub fn step(&mut self, weights: &[(&str, &Weights)], learning_rate: f64, gradient_scale: f64) {
        if self.unfinished.is_none() {
            self.steps += 1;
        }
        let (first, done) = *self.unfinished.get_or_insert((0, 0));
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
            for (index, Learned { name, mut weight, mut gradient, mut copies }) in
                learned(weights).into_iter().enumerate()
            {
                let decay = if decays(&name) { self.weight_decay } else { 0.0 };
                let own = self.own(&name, weight.numel() as i64);
                let part = |tensor: &Tensor| tensor.view(-1).narrow(0, own.start, own.end - own.start);
                if self.shards.is_some() {
                    // Copies are updated once all parts are present, and the gradients of other ranks' parts are dropped below.
                    (weight, gradient) = (part(&weight), part(&gradient.contiguous()));
                    copies.clear();
                }
                let (m, v) = self.moments.entry(name).or_insert_with(|| {
                    (Tensor::zeros_like(&weight.view(-1)), Tensor::zeros_like(&weight.view(-1)))
                });
                let has_kernel = !self.by_operations
                    && kernel::is_plain(&gradient, &copies)
                    && [&weight, m, v].into_iter().all(kernel::is_float32);
                if has_kernel {
                    let (m, v) = (m.shallow_clone(), v.shallow_clone());
                    let keep = (1.0 - learning_rate * decay) as f32;
                    plain.push(kernel::Weight { theta: weight, gradient, m, v, copies, keep });
                    continue;
                }
                if index < first {
                    continue; // done before memory ran out
                }
                let (flat_weight, flat) = (weight.view(-1), gradient.contiguous().view(-1));
                let total = flat_weight.size()[0];
                // A GPU has no such cache, and each operation on a slice has a fixed overhead.
                let is_cached = weight.device() == Device::Cpu && !self.by_operations;
                let slice = if is_cached { SLICE } else { total.max(1) };
                let slice = self.slice.map_or(slice, |most| most.min(slice));
                let start = if index == first { done } else { 0 };
                self.unfinished = Some((index, start));
                for start in (start..total).step_by(slice as usize) {
                    let length = slice.min(total - start);
                    let part = |tensor: &Tensor| tensor.narrow(0, start, length);
                    let (mut theta, mut m, mut v) = (part(&flat_weight), part(m), part(v));
                    let g = part(&flat).to_kind(Kind::Float) * gradient_scale;
                    // All allocations come before any change.
                    let next_m = m.lerp(&g, 1.0 - BETA1);
                    let next_v = &v * BETA2 + g.square() * (1.0 - BETA2);
                    let denominator = next_v.sqrt() / correction2.sqrt() + EPSILON;
                    let change = &next_m * (learning_rate / correction1) / denominator;
                    let _ = theta.g_mul_scalar_(1.0 - learning_rate * decay).g_sub_(&change);
                    m.copy_(&next_m);
                    v.copy_(&next_v);
                    self.unfinished = Some((index, start + length));
                }
                let _ = gradient.shallow_clone().zero_();
                copies.iter_mut().for_each(|copy| copy.copy_(&weight));
            }
            kernel::step(&mut plain, step);
        });
        self.unfinished = None;
        if self.shards.is_some() {
            zero_gradients(weights);
        }
        weights.iter().for_each(|(_, weights)| weights.copies().discard_gradients());
    }

    /// Makes [`AdamW::step`] process fewer numbers at a time, after memory ran out. Returns false if the minimum is reached.
    pub fn take_smaller_slices(&mut self) -> bool {
        let next = self.slice.map_or(LARGE_SLICE, |slice| slice / 4);
        if next < SMALL_SLICE {
            return false;
        }
        self.slice = Some(next);
        true
    }
}

/// A weight that has a gradient.
struct Learned {
    /// `<set>.<weight>`.
    name: String,
    weight: Tensor,
    /// In float32, or in the compute dtype of matrix products.
    gradient: Tensor,
    /// Its copies in that dtype, which must be updated with it.
    copies: Vec<Tensor>,
}

fn learned(sets: &[(&str, &Weights)]) -> Vec<Learned> {
    let mut learned = Vec::new();
    for (set, weights) in sets {
        let mut places: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
        for (name, place) in weights.copies().places() {
            places.entry(name).or_default().push(place);
        }
        learned.extend(weights.gradients().into_iter().map(|(name, gradient)| Learned {
            weight: weights.get(&name).detach(),
            gradient,
            copies: places.remove(&name).unwrap_or_default(),
            name: format!("{set}.{name}"),
        }));
    }
    learned
}

/// Forgets all gradients.
pub fn zero_gradients(sets: &[(&str, &Weights)]) {
    for (_, weights) in sets {
        weights.copies().discard_gradients();
        let own = weights.iter().map(|(_, weight)| weight.grad());
        own.filter(Tensor::defined).for_each(|mut gradient| drop(gradient.zero_()));
    }
}

/// Numbers whose squares are summed at a time by libtorch.
const NORM_SLICE: i64 = 1 << 24;

/// Global Euclidean norm of all gradients.
pub fn gradient_norm(sets: &[(&str, &Weights)]) -> f64 {
    let gradients = sets.iter().flat_map(|(_, weights)| weights.gradients().into_values());
    let (plain, others): (Vec<Tensor>, Vec<Tensor>) =
        gradients.partition(|gradient| kernel::is_plain(gradient, &[]));
    // In slices, since the squares of a whole gradient would take more memory.
    let slices = others.iter().flat_map(|gradient| gradient.contiguous().view(-1).split(NORM_SLICE, 0));
    let squares = slices.map(|slice| slice.square().sum(Kind::Double));
    let others = squares.reduce(|sum, square| sum + square).map_or(0.0, |sum| sum.double_value(&[]));
    (kernel::sum_of_squares(&plain) + others).sqrt()
}

/// A gradient with a smaller norm is only rounding error, for instance where no sample of a minibatch is better than another.
/// AdamW divides by its size: it would become a whole step in a random direction.
const LEAST_NORM: f64 = 1e-6;

/// Factor that scales gradients of this norm to at most `max_norm` (PyTorch's `clip_grad_norm_`); 1 without a limit, or if it
/// is 0. It is 0 for a gradient of rounding errors.
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f64 {
    if norm < LEAST_NORM {
        return 0.0;
    }
    max_norm.filter(|max_norm| *max_norm > 0.0).map_or(1.0, |max_norm| (max_norm / (norm + 1e-6)).min(1.0))
}
