//! Products of a few rows with a large matrix, as decoding needs them. A stock matrix product is optimized for many rows and
//! reads such a matrix at a fraction of the memory bandwidth; these kernels read each weight once, in the layout that libtorch
//! keeps, as float32 or bfloat16, and add up in float32. A row's result does not depend on its neighbours.

#![allow(unsafe_code)] // vector loads; every kernel's lengths are checked by its one caller below

use super::math;
use super::numbers::{Numbers, Rows, widen};
#[cfg(target_arch = "x86_64")]
use super::{avx512_bf16, lanes};

/// The instructions to use; chosen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 with products of bfloat16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// The widest that this processor supports.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                let has_bf16 = is_x86_feature_detected!("avx512bf16");
                return if has_bf16 { Self::Avx512Bf16 } else { Self::Avx512 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// out[m][n] = Σ_k x[m][k] · w[n][k]; `out` [rows, outputs] row by row, `w` [outputs, width]. [`Self::Avx512Bf16`] rounds x
    /// to bfloat16 if the weights are bfloat16.
    pub(crate) fn products(self, x: Rows<'_>, w: Numbers<'_>, width: usize, out: &mut [f32]) {
        let outputs = w.len() / width;
        assert_eq!(w.len(), outputs * width, "a whole number of rows");
        assert_eq!(out.len(), x.count * outputs, "one number for each row and output");
        assert!(
            x.count > 0 && x.numbers.len() >= (x.count - 1) * x.stride + width,
            "rows must hold the width"
        );
        match (self, w) {
            // SAFETY: lengths were checked above; a level is only created if the processor supports it.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16, Numbers::Bfloat16(w)) if width.is_multiple_of(32) => unsafe {
                avx512_bf16::products(x, w, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512 | Self::Avx512Bf16, Numbers::Float32(w)) if width.is_multiple_of(16) => unsafe {
                avx512::products_f32(x, w, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512 | Self::Avx512Bf16, Numbers::Bfloat16(w)) if width.is_multiple_of(16) => unsafe {
                avx512::products_bf16(x, w, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Numbers::Float32(w)) if width.is_multiple_of(8) => unsafe {
                avx2::products_f32(x, w, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Numbers::Bfloat16(w)) if width.is_multiple_of(8) => unsafe {
                avx2::products_bf16(x, w, width, out);
            },
            (_, Numbers::Float32(w)) => portable_products(x, w, |number| number, width, out),
            (_, Numbers::Bfloat16(w)) => portable_products(x, w, widen, width, out),
        }
    }

    /// out[m][d] = Σ_t weights[m][t] · values[t][d]; `out` [rows, width] row by row.
    pub(crate) fn mix(self, weights: Rows<'_>, values: Numbers<'_>, width: usize, out: &mut [f32]) {
        let length = values.len() / width;
        assert_eq!(values.len(), length * width, "a whole number of positions");
        assert_eq!(out.len(), weights.count * width, "one vector for each row");
        let needed = (weights.count - 1) * weights.stride + length;
        assert!(weights.count > 0 && weights.numbers.len() >= needed, "rows must hold the length");
        match (self, values) {
            // SAFETY: as in `products`.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512 | Self::Avx512Bf16, Numbers::Float32(v)) if width.is_multiple_of(16) => unsafe {
                avx512::mix_f32(weights, v, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512 | Self::Avx512Bf16, Numbers::Bfloat16(v)) if width.is_multiple_of(16) => unsafe {
                avx512::mix_bf16(weights, v, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Numbers::Float32(v)) if width.is_multiple_of(8) => unsafe {
                avx2::mix_f32(weights, v, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Numbers::Bfloat16(v)) if width.is_multiple_of(8) => unsafe {
                avx2::mix_bf16(weights, v, width, out);
            },
            (_, Numbers::Float32(v)) => portable_mix(weights, v, |number| number, width, out),
            (_, Numbers::Bfloat16(v)) => portable_mix(weights, v, widen, width, out),
        }
    }
}

/// Wraps element-wise functions so that each level compiles them with its own instructions.
macro_rules! dispatched {
    ($($name:ident($($argument:ident: $ty:ty),*) $(-> $out:ty)?;)+) => {
        impl Level {
            $(pub(crate) fn $name(self, $($argument: $ty),*) $(-> $out)? {
                match self {
                    // SAFETY: a level is only created if the processor supports it.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx512 | Self::Avx512Bf16 => unsafe { avx512::$name($($argument),*) },
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx2 => unsafe { avx2::$name($($argument),*) },
                    Self::Portable => math::$name($($argument),*),
                }
            })+
        }
    };
}

dispatched! {
    softmax(scores: &mut [f32]);
    log_sum_exp(values: &[f32]) -> f32;
    gelu_gate(gate: &mut [f32], inner: &[f32]);
    rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]);
}

fn portable_products<T: Copy>(
    x: Rows<'_>,
    w: &[T],
    number: impl Fn(T) -> f32,
    width: usize,
    out: &mut [f32],
) {
    let outputs = w.len() / width;
    for (n, w) in w.chunks_exact(width).enumerate() {
        for m in 0..x.count {
            let row = &x.numbers[m * x.stride..m * x.stride + width];
            let mut lanes = [0f32; 8];
            for (row, w) in row.chunks(8).zip(w.chunks(8)) {
                for ((lane, &x), &w) in lanes.iter_mut().zip(row).zip(w) {
                    *lane += x * number(w);
                }
            }
            out[m * outputs + n] = lanes.iter().sum();
        }
    }
}

fn portable_mix<T: Copy>(
    weights: Rows<'_>,
    values: &[T],
    number: impl Fn(T) -> f32,
    width: usize,
    out: &mut [f32],
) {
    out.fill(0.0);
    for (t, value) in values.chunks_exact(width).enumerate() {
        for (m, out) in out.chunks_exact_mut(width).enumerate() {
            let weight = weights.numbers[m * weights.stride + t];
            for (out, &value) in out.iter_mut().zip(value) {
                *out += weight * number(value);
            }
        }
    }
}

/// The kernels of one instruction set. Four rows and `$narrow` outputs share the registers; for exactly `$block` rows, the
/// common batch size, `$wide` outputs, so that weights are read once.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    (
        $module:ident, $feature:literal, lanes $lanes:literal, block $block:literal, narrow $narrow:literal, wide $wide:literal, zero $zero:path, splat $splat:path,
        load $load:path, store $store:path, fma $fma:path, widen $widen:ident, put $put:ident, $($helper:item)*
    ) => {
        mod $module {
            use super::{Rows, math};
            use std::arch::x86_64::*;

            $($helper)*

            kernels!(@typed $feature, $lanes, $block, $narrow, $wide, $zero, $splat, $store, $fma, $put, $load, f32,
                products_f32, rows_f32, tile_f32, mix_f32, mix_rows_f32, mix_block_f32, load $load);
            kernels!(@typed $feature, $lanes, $block, $narrow, $wide, $zero, $splat, $store, $fma, $put, $load, u16,
                products_bf16, rows_bf16, tile_bf16, mix_bf16, mix_rows_bf16, mix_block_bf16, load $widen);

            #[target_feature(enable = $feature)]
            pub(crate) fn softmax(scores: &mut [f32]) {
                math::softmax(scores);
            }

            #[target_feature(enable = $feature)]
            pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
                math::log_sum_exp(values)
            }

            #[target_feature(enable = $feature)]
            pub(crate) fn gelu_gate(gate: &mut [f32], inner: &[f32]) {
                math::gelu_gate(gate, inner);
            }

            #[target_feature(enable = $feature)]
            pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
                math::rms_norm(x, weight, epsilon, out);
            }
        }
    };
    (
        @typed $feature:literal, $lanes:literal, $block:literal, $narrow:literal, $wide:literal, $zero:path, $splat:path, $store:path, $fma:path,
        $put:ident, $load32:path, $element:ty, $products:ident, $rows:ident, $tile_fn:ident, $mix:ident,
        $mix_rows:ident, $mix_block:ident, load $load:path
    ) => {
        /// # Safety
        /// Lengths as `Level::products` checks them, `width` a multiple of the lanes.
        #[target_feature(enable = $feature)]
        pub(crate) unsafe fn $products(x: Rows<'_>, w: &[$element], width: usize, out: &mut [f32]) {
            let outputs = w.len() / width;
            let (x, count, stride) = (x.numbers.as_ptr(), x.count, x.stride);
            let (w, out) = (w.as_ptr(), out.as_mut_ptr());
            unsafe {
                match count {
                    $block => $rows::<$block, $wide>(x, count, stride, w, width, out, outputs),
                    _ => $rows::<4, $narrow>(x, count, stride, w, width, out, outputs),
                }
            }
        }

        /// Tiles of `M` rows and `N` outputs; a tile's weights stay in the L1 cache for all rows.
        ///
        /// # Safety
        /// As above; `M` is 4, or the whole `count`: with another `M`, the last tile would read beyond the rows.
        #[target_feature(enable = $feature)]
        unsafe fn $rows<const M: usize, const N: usize>(
            x: *const f32, count: usize, stride: usize, w: *const $element, width: usize, out: *mut f32,
            outputs: usize,
        ) {
            let mut n = 0;
            while n < outputs {
                let whole = n + N <= outputs;
                let mut m = 0;
                while m < count {
                    unsafe {
                        let (x, w, out) = (x.add(m * stride), w.add(n * width), out.add(m * outputs + n));
                        match (count - m, whole) {
                            (1, true) => $tile_fn::<1, N>(x, stride, w, width, out, outputs),
                            (2, true) => $tile_fn::<2, N>(x, stride, w, width, out, outputs),
                            (3, true) => $tile_fn::<3, N>(x, stride, w, width, out, outputs),
                            (_, true) => $tile_fn::<M, N>(x, stride, w, width, out, outputs),
                            (1, false) => $tile_fn::<1, 1>(x, stride, w, width, out, outputs),
                            (2, false) => $tile_fn::<2, 1>(x, stride, w, width, out, outputs),
                            (3, false) => $tile_fn::<3, 1>(x, stride, w, width, out, outputs),
                            (_, false) => $tile_fn::<M, 1>(x, stride, w, width, out, outputs),
                        }
                    }
                    m += M;
                }
                n += if whole { N } else { 1 };
            }
        }

        #[target_feature(enable = $feature)]
        unsafe fn $tile_fn<const M: usize, const N: usize>(
            x: *const f32, stride: usize, w: *const $element, width: usize, out: *mut f32, outputs: usize,
        ) {
            unsafe {
                let mut sums = [[$zero(); N]; M];
                let rows: [*const f32; M] = std::array::from_fn(|m| x.add(m * stride));
                let weights: [*const $element; N] = std::array::from_fn(|n| w.add(n * width));
                // Prefetches the next rows: the hardware prefetcher does not cross a page boundary.
                let next = weights.map(|weights| weights.wrapping_add(N * width));
                let mut k = 0;
                while k < width {
                    let mut ws = [$zero(); N];
                    for (n, into) in ws.iter_mut().enumerate() {
                        _mm_prefetch::<_MM_HINT_T0>(next[n].wrapping_add(k).cast());
                        *into = $load(weights[n].add(k));
                    }
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let x = $load32(row.add(k));
                        for (sum, w) in sums.iter_mut().zip(ws) {
                            *sum = $fma(x, w, *sum);
                        }
                    }
                    k += $lanes;
                }
                $put(&sums, out, outputs);
            }
        }

        /// # Safety
        /// Lengths as `Level::mix` checks them, `width` a multiple of the lanes.
        #[target_feature(enable = $feature)]
        pub(crate) unsafe fn $mix(weights: Rows<'_>, values: &[$element], width: usize, out: &mut [f32]) {
            let length = values.len() / width;
            let mut m = 0;
            while m < weights.count {
                let (row, out) = (weights.numbers[m * weights.stride..].as_ptr(), out[m * width..].as_mut_ptr());
                let stride = weights.stride;
                match weights.count - m {
                    1 => unsafe { $mix_rows::<1>(row, stride, values.as_ptr(), length, width, out) },
                    2 => unsafe { $mix_rows::<2>(row, stride, values.as_ptr(), length, width, out) },
                    3 => unsafe { $mix_rows::<3>(row, stride, values.as_ptr(), length, width, out) },
                    _ => unsafe { $mix_rows::<4>(row, stride, values.as_ptr(), length, width, out) },
                }
                m += 4;
            }
        }

        #[target_feature(enable = $feature)]
        unsafe fn $mix_rows<const M: usize>(
            weights: *const f32, stride: usize, values: *const $element, length: usize, width: usize, out: *mut f32,
        ) {
            let mut d = 0;
            while d < width {
                unsafe {
                    let (values, out) = (values.add(d), out.add(d));
                    if d + 4 * $lanes <= width {
                        $mix_block::<M, 4>(weights, stride, values, length, width, out);
                        d += 4 * $lanes;
                    } else {
                        $mix_block::<M, 1>(weights, stride, values, length, width, out);
                        d += $lanes;
                    }
                }
            }
        }

        #[target_feature(enable = $feature)]
        unsafe fn $mix_block<const M: usize, const V: usize>(
            weights: *const f32, stride: usize, values: *const $element, length: usize, width: usize, out: *mut f32,
        ) {
            unsafe {
                let mut sums = [[$zero(); V]; M];
                for t in 0..length {
                    let mut vs = [$zero(); V];
                    for (v, into) in vs.iter_mut().enumerate() {
                        *into = $load(values.add(t * width + v * $lanes));
                    }
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let weight = $splat(*weights.add(m * stride + t));
                        for (sum, v) in sums.iter_mut().zip(vs) {
                            *sum = $fma(weight, v, *sum);
                        }
                    }
                }
                for (m, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        $store(out.add(m * width + v * $lanes), sum);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels! {
    avx512, "avx512f", lanes 16, block 8, narrow 4, wide 2, zero _mm512_setzero_ps, splat _mm512_set1_ps, load _mm512_loadu_ps,
    store _mm512_storeu_ps, fma _mm512_fmadd_ps, widen widen, put put,

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen(from: *const u16) -> __m512 {
        let halves = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    use super::lanes::put;
}

#[cfg(target_arch = "x86_64")]
kernels! {
    avx2, "avx2,fma", lanes 8, block 4, narrow 2, wide 2, zero _mm256_setzero_ps, splat _mm256_set1_ps, load _mm256_loadu_ps,
    store _mm256_storeu_ps, fma _mm256_fmadd_ps, widen widen, put put,

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn widen(from: *const u16) -> __m256 {
        let halves = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn put<const M: usize, const N: usize>(sums: &[[__m256; N]; M], out: *mut f32, stride: usize) {
        for (m, sums) in sums.iter().enumerate() {
            for (n, &lanes) in sums.iter().enumerate() {
                unsafe { *out.add(m * stride + n) = sum(lanes) };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sum(lanes: __m256) -> f32 {
        let half = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
