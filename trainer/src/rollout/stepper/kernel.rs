//! Products of a few rows with a large matrix, as decoding needs them. A stock matrix product is made for many rows
//! and reads such a matrix at a fraction of memory speed; these kernels read each weight once, in the layout that
//! libtorch keeps, as float32 or bfloat16, and add up in float32. A row's result does not depend on its neighbours.

#![allow(unsafe_code)] // vector loads; every kernel's lengths are checked by its one caller below

use super::math;

/// Numbers of a matrix or of cached keys and values, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    Float32(&'a [f32]),
    /// Upper halves of float32 numbers.
    Bfloat16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Float32(numbers) => numbers.len(),
            Self::Bfloat16(numbers) => numbers.len(),
        }
    }

    pub(super) fn part(&self, start: usize, length: usize) -> Numbers<'a> {
        match self {
            Self::Float32(numbers) => Self::Float32(&numbers[start..start + length]),
            Self::Bfloat16(numbers) => Self::Bfloat16(&numbers[start..start + length]),
        }
    }

    pub(super) fn copy_to(&self, out: &mut [f32]) {
        match self {
            Self::Float32(numbers) => out.copy_from_slice(numbers),
            Self::Bfloat16(numbers) => {
                out.iter_mut().zip(*numbers).for_each(|(out, &number)| *out = widen(number));
            }
        }
    }
}

fn widen(number: u16) -> f32 {
    f32::from_bits(u32::from(number) << 16)
}

/// A few rows of numbers, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

/// The instructions to use; chosen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// The widest that this processor has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// out[m][n] = Σ_k x[m][k] · w[n][k]; `out` [rows, outputs] row by row, `w` [outputs, width].
    pub(super) fn products(self, x: Rows<'_>, w: Numbers<'_>, width: usize, out: &mut [f32]) {
        let outputs = w.len() / width;
        assert_eq!(w.len(), outputs * width, "a whole number of rows");
        assert_eq!(out.len(), x.count * outputs, "one number for each row and output");
        assert!(
            x.count > 0 && x.numbers.len() >= (x.count - 1) * x.stride + width,
            "rows must hold the width"
        );
        match (self, w) {
            // SAFETY: lengths were checked above; a level is only made where the processor has it.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Numbers::Float32(w)) if width.is_multiple_of(16) => unsafe {
                avx512::products_f32(x, w, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Numbers::Bfloat16(w)) if width.is_multiple_of(16) => unsafe {
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
    pub(super) fn mix(self, weights: Rows<'_>, values: Numbers<'_>, width: usize, out: &mut [f32]) {
        let length = values.len() / width;
        assert_eq!(values.len(), length * width, "a whole number of positions");
        assert_eq!(out.len(), weights.count * width, "one vector for each row");
        let needed = (weights.count - 1) * weights.stride + length;
        assert!(weights.count > 0 && weights.numbers.len() >= needed, "rows must hold the length");
        match (self, values) {
            // SAFETY: as in `products`.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Numbers::Float32(v)) if width.is_multiple_of(16) => unsafe {
                avx512::mix_f32(weights, v, width, out);
            },
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Numbers::Bfloat16(v)) if width.is_multiple_of(16) => unsafe {
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
macro_rules! levelled {
    ($($name:ident($($argument:ident: $ty:ty),*) $(-> $out:ty)?;)+) => {
        impl Level {
            $(pub(super) fn $name(self, $($argument: $ty),*) $(-> $out)? {
                match self {
                    // SAFETY: a level is only made where the processor has it.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx512 => unsafe { avx512::$name($($argument),*) },
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx2 => unsafe { avx2::$name($($argument),*) },
                    Self::Portable => math::$name($($argument),*),
                }
            })+
        }
    };
}

levelled! {
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

/// The kernels of one instruction set. `$tile` outputs and up to four rows share the registers.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    (
        $module:ident, $feature:literal, lanes $lanes:literal, tile $tile:literal, zero $zero:path, splat $splat:path,
        load $load:path, store $store:path, fma $fma:path, widen $widen:ident, sum $sum:ident, $($helper:item)*
    ) => {
        mod $module {
            use super::{Rows, math};
            use std::arch::x86_64::*;

            $($helper)*

            kernels!(@typed $feature, $lanes, $tile, $zero, $splat, $store, $fma, $sum, $load, f32,
                products_f32, rows_f32, tile_f32, mix_f32, mix_rows_f32, mix_block_f32, load $load);
            kernels!(@typed $feature, $lanes, $tile, $zero, $splat, $store, $fma, $sum, $load, u16,
                products_bf16, rows_bf16, tile_bf16, mix_bf16, mix_rows_bf16, mix_block_bf16, load $widen);

            #[target_feature(enable = $feature)]
            pub(super) fn softmax(scores: &mut [f32]) {
                math::softmax(scores);
            }

            #[target_feature(enable = $feature)]
            pub(super) fn log_sum_exp(values: &[f32]) -> f32 {
                math::log_sum_exp(values)
            }

            #[target_feature(enable = $feature)]
            pub(super) fn gelu_gate(gate: &mut [f32], inner: &[f32]) {
                math::gelu_gate(gate, inner);
            }

            #[target_feature(enable = $feature)]
            pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
                math::rms_norm(x, weight, epsilon, out);
            }
        }
    };
    (
        @typed $feature:literal, $lanes:literal, $tile:literal, $zero:path, $splat:path, $store:path, $fma:path,
        $sum:ident, $load32:path, $element:ty, $products:ident, $rows:ident, $tile_fn:ident, $mix:ident,
        $mix_rows:ident, $mix_block:ident, load $load:path
    ) => {
        /// # Safety
        /// Lengths as `Level::products` checks them, `width` a multiple of the lanes.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $products(x: Rows<'_>, w: &[$element], width: usize, out: &mut [f32]) {
            let outputs = w.len() / width;
            let mut n = 0;
            while n < outputs {
                // A tile of weights stays in the cache for all rows.
                let (w, out) = (w[n * width..].as_ptr(), out[n..].as_mut_ptr());
                if n + $tile <= outputs {
                    unsafe { $rows::<$tile>(x, w, width, out, outputs) };
                    n += $tile;
                } else {
                    unsafe { $rows::<1>(x, w, width, out, outputs) };
                    n += 1;
                }
            }
        }

        #[target_feature(enable = $feature)]
        unsafe fn $rows<const N: usize>(
            x: Rows<'_>, w: *const $element, width: usize, out: *mut f32, outputs: usize,
        ) {
            let mut m = 0;
            while m < x.count {
                let (row, out) = unsafe { (x.numbers.as_ptr().add(m * x.stride), out.add(m * outputs)) };
                match x.count - m {
                    1 => unsafe { $tile_fn::<1, N>(row, x.stride, w, width, out, outputs) },
                    2 => unsafe { $tile_fn::<2, N>(row, x.stride, w, width, out, outputs) },
                    3 => unsafe { $tile_fn::<3, N>(row, x.stride, w, width, out, outputs) },
                    _ => unsafe { $tile_fn::<4, N>(row, x.stride, w, width, out, outputs) },
                }
                m += 4;
            }
        }

        #[target_feature(enable = $feature)]
        unsafe fn $tile_fn<const M: usize, const N: usize>(
            x: *const f32, stride: usize, w: *const $element, width: usize, out: *mut f32, outputs: usize,
        ) {
            unsafe {
                let mut sums = [[$zero(); N]; M];
                let mut k = 0;
                while k < width {
                    let mut ws = [$zero(); N];
                    for (n, into) in ws.iter_mut().enumerate() {
                        *into = $load(w.add(n * width + k));
                    }
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let x = $load32(x.add(m * stride + k));
                        for (sum, w) in sums.iter_mut().zip(ws) {
                            *sum = $fma(x, w, *sum);
                        }
                    }
                    k += $lanes;
                }
                for (m, sums) in sums.iter().enumerate() {
                    for (n, &sum) in sums.iter().enumerate() {
                        *out.add(m * outputs + n) = $sum(sum);
                    }
                }
            }
        }

        /// # Safety
        /// Lengths as `Level::mix` checks them, `width` a multiple of the lanes.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $mix(weights: Rows<'_>, values: &[$element], width: usize, out: &mut [f32]) {
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
    avx512, "avx512f", lanes 16, tile 4, zero _mm512_setzero_ps, splat _mm512_set1_ps, load _mm512_loadu_ps,
    store _mm512_storeu_ps, fma _mm512_fmadd_ps, widen widen, sum sum,

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen(from: *const u16) -> __m512 {
        let halves = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum(lanes: __m512) -> f32 {
        _mm512_reduce_add_ps(lanes)
    }
}

#[cfg(target_arch = "x86_64")]
kernels! {
    avx2, "avx2,fma", lanes 8, tile 2, zero _mm256_setzero_ps, splat _mm256_set1_ps, load _mm256_loadu_ps,
    store _mm256_storeu_ps, fma _mm256_fmadd_ps, widen widen, sum sum,

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn widen(from: *const u16) -> __m256 {
        let halves = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
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
mod tests {
    use super::*;

    fn levels() -> Vec<Level> {
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect()
    }

    fn upper_halves(numbers: &[f32]) -> Vec<u16> {
        numbers.iter().map(|number| (number.to_bits() >> 16) as u16).collect()
    }

    #[test]
    fn every_level_multiplies_alike() {
        // Odd counts of rows and outputs, and widths that fill no vector, take the paths at the edges.
        for (rows, outputs, width) in [(1, 5, 8), (3, 7, 48), (5, 9, 64), (8, 4, 12), (4, 1, 16)] {
            let (x, w) = (numbers(rows * width, 0.0), numbers(outputs * width, 9.0));
            let halves = upper_halves(&w);
            let rounded: Vec<f32> = halves.iter().map(|&half| widen(half)).collect();
            for (weights, exact) in [(Numbers::Float32(&w), &w), (Numbers::Bfloat16(&halves), &rounded)] {
                for level in levels() {
                    let mut out = vec![0.0; rows * outputs];
                    level.products(
                        Rows { numbers: &x, stride: width, count: rows },
                        weights,
                        width,
                        &mut out,
                    );
                    for m in 0..rows {
                        for n in 0..outputs {
                            let pairs = x[m * width..].iter().zip(&exact[n * width..]).take(width);
                            let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            let found = f64::from(out[m * outputs + n]);
                            assert!((found - expected).abs() < 1e-5, "{level:?} {rows}×{outputs}×{width}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_mixes_alike() {
        for (rows, length, width) in [(1, 3, 8), (3, 5, 64), (6, 2, 80), (2, 4, 12)] {
            let (weights, values) = (numbers(rows * length, 3.0), numbers(length * width, 5.0));
            let halves = upper_halves(&values);
            let rounded: Vec<f32> = halves.iter().map(|&half| widen(half)).collect();
            for (source, exact) in
                [(Numbers::Float32(&values), &values), (Numbers::Bfloat16(&halves), &rounded)]
            {
                for level in levels() {
                    let mut out = vec![9.0; rows * width];
                    level.mix(
                        Rows { numbers: &weights, stride: length, count: rows },
                        source,
                        width,
                        &mut out,
                    );
                    for m in 0..rows {
                        for d in 0..width {
                            let terms = (0..length).map(|t| weights[m * length + t] * exact[t * width + d]);
                            let expected: f32 = terms.sum();
                            assert!(
                                (out[m * width + d] - expected).abs() < 1e-5,
                                "{level:?} {rows}×{length}×{width}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (x, w) = (numbers(7 * 64, 1.0), numbers(10 * 64, 2.0));
        for level in levels() {
            let mut together = vec![0.0; 70];
            level.products(
                Rows { numbers: &x, stride: 64, count: 7 },
                Numbers::Float32(&w),
                64,
                &mut together,
            );
            for m in 0..7 {
                let mut alone = vec![0.0; 10];
                let row = Rows { numbers: &x[m * 64..], stride: 64, count: 1 };
                level.products(row, Numbers::Float32(&w), 64, &mut alone);
                assert_eq!(alone, together[m * 10..m * 10 + 10], "{level:?} row {m}");
            }
        }
    }
}
