//! AdamW's step on a CPU: one pass over memory for everything that a weight needs, where libtorch's operations make a
//! dozen.

#![allow(unsafe_code)] // libtorch's memory as slices; kinds and layouts are checked by `is_plain`

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Numbers that a thread works on at a time.
const CHUNK: usize = 1 << 16;
/// Fewer numbers than this are done before another thread has woken up.
const WORTH_THREADS: usize = 1 << 22;

/// One weight with its gradient and moments.
pub(super) struct Weight {
    pub(super) theta: Tensor,
    pub(super) gradient: Tensor,
    pub(super) m: Tensor,
    pub(super) v: Tensor,
    /// θ is multiplied by this first.
    pub(super) keep: f32,
}

/// What a step has in common for all weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) gradient_scale: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    /// Learning rate / (1 − β₁ᵗ).
    pub(super) rate: f32,
    /// √(1 − β₂ᵗ).
    pub(super) root: f32,
    pub(super) epsilon: f32,
}

/// One chunk of a weight.
struct Chunk<'a> {
    theta: &'a mut [f32],
    gradient: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    keep: f32,
}

/// Whether a tensor's memory can be worked on as it lies.
pub(super) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// The numbers of a tensor that [`is_plain`]; empty for others.
fn numbers(tensor: &Tensor) -> &[f32] {
    if !is_plain(tensor) || tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: contiguous float32 in main memory, alive as long as `tensor`; libtorch writes nothing meanwhile.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

/// As [`numbers`], to write.
fn numbers_mut(tensor: &mut Tensor) -> &mut [f32] {
    if !is_plain(tensor) || tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as above; each tensor stands in one `Weight` only, and libtorch reads nothing meanwhile.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

/// Does a step on all weights and sets their gradients to 0.
pub(super) fn step(weights: &mut [Weight], step: Step) {
    let mut chunks = Vec::new();
    for weight in weights {
        let Weight { theta, gradient, m, v, keep } = weight;
        let sides = numbers_mut(theta).chunks_mut(CHUNK).zip(numbers_mut(gradient).chunks_mut(CHUNK));
        let moments = numbers_mut(m).chunks_mut(CHUNK).zip(numbers_mut(v).chunks_mut(CHUNK));
        chunks.extend(sides.zip(moments).map(|((theta, gradient), (m, v))| Chunk {
            theta,
            gradient,
            m,
            v,
            keep: *keep,
        }));
    }
    if is_worth_threads(chunks.iter().map(|chunk| chunk.theta.len()).sum()) {
        chunks.into_par_iter().for_each(|chunk| one(chunk, step));
    } else {
        chunks.into_iter().for_each(|chunk| one(chunk, step));
    }
}

/// Σ g² over all tensors; the sum does not depend on the number of threads.
pub(super) fn sum_of_squares(gradients: &[Tensor]) -> f64 {
    let chunks: Vec<&[f32]> = gradients.iter().flat_map(|gradient| numbers(gradient).chunks(CHUNK)).collect();
    let sums: Vec<f64> = if is_worth_threads(chunks.iter().map(|chunk| chunk.len()).sum()) {
        chunks.into_par_iter().map(squares).collect()
    } else {
        chunks.into_iter().map(squares).collect()
    };
    sums.into_iter().sum()
}

fn is_worth_threads(numbers: usize) -> bool {
    tch::get_num_threads() > 1 && numbers >= WORTH_THREADS
}

fn squares(numbers: &[f32]) -> f64 {
    // Eight sums at once, so that the additions need not wait for each other.
    let mut sums = [0f64; 8];
    let (eights, rest) = numbers.as_chunks::<8>();
    for eight in eights {
        for (sum, number) in sums.iter_mut().zip(eight) {
            *sum += f64::from(*number) * f64::from(*number);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>()
}

fn one(chunk: Chunk<'_>, step: Step) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { one_avx2(chunk, step) };
    }
    plain(chunk, step);
}

/// The same, for wider registers; the same operations in the same order, so the same numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn one_avx2(chunk: Chunk<'_>, step: Step) {
    plain(chunk, step);
}

#[inline(always)]
fn plain(chunk: Chunk<'_>, step: Step) {
    let Chunk { theta, gradient, m, v, keep } = chunk;
    let weights = theta.iter_mut().zip(gradient.iter_mut());
    for ((theta, gradient), (m, v)) in weights.zip(m.iter_mut().zip(v.iter_mut())) {
        let g = *gradient * step.gradient_scale;
        *gradient = 0.0;
        *m += (g - *m) * (1.0 - step.beta1);
        *v = *v * step.beta2 + g * g * (1.0 - step.beta2);
        *theta = *theta * keep - *m * step.rate / (v.sqrt() / step.root + step.epsilon);
    }
}
