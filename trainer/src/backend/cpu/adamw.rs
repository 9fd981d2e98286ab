//! AdamW's step on a CPU: a single pass over memory per weight, where libtorch's operations need a dozen.

#![allow(unsafe_code)] // libtorch's memory as slices; kinds and layouts are checked by `is_plain`

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// Numbers per chunk of a thread's work.
const CHUNK: usize = 1 << 16;
/// Below this many numbers, a single thread finishes before another has woken up.
const WORTH_THREADS: usize = 1 << 22;

/// One weight with its gradient, in float32 or bfloat16, its moments, and its copies in bfloat16.
pub(crate) struct Weight {
    pub(crate) theta: Tensor,
    pub(crate) gradient: Tensor,
    pub(crate) m: Tensor,
    pub(crate) v: Tensor,
    /// They receive θ after the step.
    pub(crate) copies: Vec<Tensor>,
    /// θ is multiplied by this first.
    pub(crate) keep: f32,
}

/// The parameters of a step that all weights share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) gradient_scale: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// Learning rate / (1 − β₁ᵗ).
    pub(crate) rate: f32,
    /// √(1 − β₂ᵗ).
    pub(crate) root: f32,
    pub(crate) epsilon: f32,
}

/// One chunk of a weight.
struct Chunk<'a> {
    theta: &'a mut [f32],
    gradient: Gradient<'a>,
    m: &'a mut [f32],
    v: &'a mut [f32],
    copies: Vec<&'a mut [u16]>,
    keep: f32,
}

/// Gradients in memory order.
enum Gradient<'a> {
    Float32(&'a mut [f32]),
    /// bfloat16: the upper half of a float32's bits.
    Bfloat16(&'a [u16]),
}

fn is_of(tensor: &Tensor, kind: Kind) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.is_contiguous()
}

/// Whether a tensor's memory can be processed in place as float32.
pub(crate) fn is_float32(tensor: &Tensor) -> bool {
    is_of(tensor, Kind::Float)
}

/// Whether the memory of a gradient and of copies can be processed in place.
pub(crate) fn is_plain(gradient: &Tensor, copies: &[Tensor]) -> bool {
    (is_float32(gradient) || is_of(gradient, Kind::BFloat16))
        && copies.iter().all(|copy| is_of(copy, Kind::BFloat16))
}

/// The numbers of a tensor whose kind is that of `T`, and which is contiguous in main memory.
fn numbers<T>(tensor: &Tensor, kind: Kind) -> &[T] {
    if !is_of(tensor, kind) || tensor.numel() == 0 || kind.elt_size_in_bytes() != size_of::<T>() {
        return &[];
    }
    // SAFETY: contiguous numbers of T's size in main memory, alive as long as `tensor`; libtorch writes nothing meanwhile.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

/// As [`numbers`], mutable.
fn numbers_mut<T>(tensor: &mut Tensor, kind: Kind) -> &mut [T] {
    if !is_of(tensor, kind) || tensor.numel() == 0 || kind.elt_size_in_bytes() != size_of::<T>() {
        return &mut [];
    }
    // SAFETY: as above; each tensor is in one `Weight` only, and libtorch reads nothing meanwhile.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

/// Steps all weights, and zeroes float32 gradients, whose memory is reused by the next step.
pub(crate) fn step(weights: &mut [Weight], step: Step) {
    let mut chunks = Vec::new();
    for weight in weights {
        let Weight { theta, gradient, m, v, copies, keep } = weight;
        let gradients: Vec<Gradient<'_>> = if is_float32(gradient) {
            numbers_mut(gradient, Kind::Float).chunks_mut(CHUNK).map(Gradient::Float32).collect()
        } else {
            numbers(gradient, Kind::BFloat16).chunks(CHUNK).map(Gradient::Bfloat16).collect()
        };
        let mut copies: Vec<_> =
            copies.iter_mut().map(|copy| numbers_mut(copy, Kind::BFloat16).chunks_mut(CHUNK)).collect();
        let sides = numbers_mut(theta, Kind::Float).chunks_mut(CHUNK).zip(gradients);
        let moments =
            numbers_mut(m, Kind::Float).chunks_mut(CHUNK).zip(numbers_mut(v, Kind::Float).chunks_mut(CHUNK));
        chunks.extend(sides.zip(moments).map(|((theta, gradient), (m, v))| Chunk {
            theta,
            gradient,
            m,
            v,
            copies: copies.iter_mut().filter_map(Iterator::next).collect(),
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
pub(crate) fn sum_of_squares(gradients: &[Tensor]) -> f64 {
    let float32 = gradients.iter().flat_map(|gradient| numbers::<f32>(gradient, Kind::Float).chunks(CHUNK));
    let bfloat16 =
        gradients.iter().flat_map(|gradient| numbers::<u16>(gradient, Kind::BFloat16).chunks(CHUNK));
    let (float32, bfloat16): (Vec<&[f32]>, Vec<&[u16]>) = (float32.collect(), bfloat16.collect());
    let count = float32.iter().map(|chunk| chunk.len()).chain(bfloat16.iter().map(|chunk| chunk.len())).sum();
    let sums: Vec<f64> = if is_worth_threads(count) {
        let float32 = float32.into_par_iter().map(|chunk| squares(chunk, |number| number));
        float32.chain(bfloat16.into_par_iter().map(|chunk| squares(chunk, widened))).collect()
    } else {
        let float32 = float32.into_iter().map(|chunk| squares(chunk, |number| number));
        float32.chain(bfloat16.into_iter().map(|chunk| squares(chunk, widened))).collect()
    };
    sums.into_iter().sum()
}

fn is_worth_threads(numbers: usize) -> bool {
    tch::get_num_threads() > 1 && numbers >= WORTH_THREADS
}

fn squares<T: Copy>(numbers: &[T], widened: impl Fn(T) -> f32) -> f64 {
    // Eight independent sums, so that the additions do not wait for each other.
    let mut sums = [0f64; 8];
    let (eights, rest) = numbers.as_chunks::<8>();
    let square = |number: T| f64::from(widened(number)).powi(2);
    for eight in eights {
        for (sum, number) in sums.iter_mut().zip(eight) {
            *sum += square(*number);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|number| square(*number)).sum::<f64>()
}

/// The float32 value of a bfloat16.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bfloat16 nearest to a float32, ties to even; NaN stays NaN.
#[inline(always)]
fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if number.is_nan() { 0x7fc0 } else { nearest as u16 }
}

fn one(chunk: Chunk<'_>, step: Step) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor supports it.
        return unsafe { one_avx2(chunk, step) };
    }
    plain(chunk, step);
}

/// The same for wider registers: the same operations in the same order, so the results are identical.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn one_avx2(chunk: Chunk<'_>, step: Step) {
    plain(chunk, step);
}

#[inline(always)]
fn plain(chunk: Chunk<'_>, step: Step) {
    let Chunk { theta, gradient, m, v, copies, keep } = chunk;
    match gradient {
        Gradient::Float32(gradient) => {
            let gradients = gradient.iter_mut().map(std::mem::take);
            update(theta, gradients, m, v, keep, step);
        }
        Gradient::Bfloat16(gradient) => {
            let gradients = gradient.iter().map(|bits| widened(*bits));
            update(theta, gradients, m, v, keep, step);
        }
    }
    for copy in copies {
        copy.iter_mut().zip(theta.iter()).for_each(|(place, theta)| *place = rounded(*theta));
    }
}

#[inline(always)]
fn update(
    theta: &mut [f32],
    gradients: impl Iterator<Item = f32>,
    m: &mut [f32],
    v: &mut [f32],
    keep: f32,
    step: Step,
) {
    let weights = theta.iter_mut().zip(gradients);
    for ((theta, gradient), (m, v)) in weights.zip(m.iter_mut().zip(v.iter_mut())) {
        let g = gradient * step.gradient_scale;
        *m += (g - *m) * (1.0 - step.beta1);
        *v = *v * step.beta2 + g * g * (1.0 - step.beta2);
        *theta = *theta * keep - *m * step.rate / (v.sqrt() / step.root + step.epsilon);
    }
}
