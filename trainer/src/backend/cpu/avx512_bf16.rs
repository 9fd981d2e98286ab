//! Products with bfloat16 weights on processors that multiply pairs of bfloat16 numbers and add them up in float32
//! (AVX512-BF16): twice as many numbers per instruction, and no widening.

#![allow(unsafe_code)] // vector loads; lengths are checked by the one caller

use super::lanes::put;
use super::numbers::Rows;
use std::arch::x86_64::*;

/// As `Level::products`, with the rows of `x` rounded to bfloat16 (to nearest, ties to even).
///
/// # Safety
/// Lengths as `Level::products` checks them, `width` a multiple of 32, and a processor with these instructions.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn products(x: Rows<'_>, w: &[u16], width: usize, out: &mut [f32]) {
    let outputs = w.len() / width;
    let mut rounded = vec![0u16; x.count * width];
    for (m, rounded) in rounded.chunks_exact_mut(width).enumerate() {
        let row = &x.numbers[m * x.stride..m * x.stride + width];
        for (rounded, row) in rounded.chunks_exact_mut(16).zip(row.chunks_exact(16)) {
            unsafe {
                let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(row.as_ptr())));
                _mm256_storeu_si256(rounded.as_mut_ptr().cast(), halves);
            }
        }
    }
    let (rounded, w, out) = (rounded.as_ptr(), w.as_ptr(), out.as_mut_ptr());
    unsafe {
        match x.count {
            // The common batch size: weights are read once.
            8 => rows::<8, 2>(rounded, 8, w, width, out, outputs),
            count => rows::<4, 4>(rounded, count, w, width, out, outputs),
        }
    }
}

/// Tiles of `M` rows and `N` outputs; a tile's weights stay in the L1 cache for all rows.
///
/// # Safety
/// As above; `M` is 4, or the whole `count`: with another `M`, the last tile would read beyond the rows.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows<const M: usize, const N: usize>(
    x: *const u16,
    count: usize,
    w: *const u16,
    width: usize,
    out: *mut f32,
    outputs: usize,
) {
    let mut n = 0;
    while n < outputs {
        let whole = n + N <= outputs;
        let mut m = 0;
        while m < count {
            unsafe {
                let (x, w, out) = (x.add(m * width), w.add(n * width), out.add(m * outputs + n));
                match (count - m, whole) {
                    (1, true) => tile::<1, N>(x, w, width, out, outputs),
                    (2, true) => tile::<2, N>(x, w, width, out, outputs),
                    (3, true) => tile::<3, N>(x, w, width, out, outputs),
                    (_, true) => tile::<M, N>(x, w, width, out, outputs),
                    (1, false) => tile::<1, 1>(x, w, width, out, outputs),
                    (2, false) => tile::<2, 1>(x, w, width, out, outputs),
                    (3, false) => tile::<3, 1>(x, w, width, out, outputs),
                    (_, false) => tile::<M, 1>(x, w, width, out, outputs),
                }
            }
            m += M;
        }
        n += if whole { N } else { 1 };
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const M: usize, const N: usize>(
    x: *const u16,
    w: *const u16,
    width: usize,
    out: *mut f32,
    outputs: usize,
) {
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        let rows: [*const u16; M] = std::array::from_fn(|m| x.add(m * width));
        let weights: [*const u16; N] = std::array::from_fn(|n| w.add(n * width));
        // Prefetches the next rows: the hardware prefetcher does not cross a page boundary.
        let next = weights.map(|weights| weights.wrapping_add(N * width));
        let mut k = 0;
        while k < width {
            let ws: [__m512bh; N] = std::array::from_fn(|n| {
                _mm_prefetch::<_MM_HINT_T0>(next[n].wrapping_add(k).cast());
                load(weights[n].add(k))
            });
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = load(row.add(k));
                for (sum, w) in sums.iter_mut().zip(ws) {
                    *sum = _mm512_dpbf16_ps(*sum, x, w);
                }
            }
            k += 32;
        }
        put(&sums, out, outputs);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const u16) -> __m512bh {
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}
