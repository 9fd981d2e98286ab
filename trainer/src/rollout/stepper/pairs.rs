//! Products with bfloat16 weights on processors that multiply pairs of bfloat16 numbers and add them up in float32
//! (AVX512-BF16): twice the numbers of an instruction, and no widening.

#![allow(unsafe_code)] // vector loads; lengths are checked by the one caller

use super::kernel::{Rows, put};
use std::arch::x86_64::*;

/// Weights' rows that share a tile's registers.
const TILE: usize = 4;

/// As `Level::products`, the rows of `x` rounded to bfloat16, to nearest even.
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
    let mut n = 0;
    while n < outputs {
        let (w, out) = (w[n * width..].as_ptr(), out[n..].as_mut_ptr());
        if n + TILE <= outputs {
            unsafe { rows::<TILE>(&rounded, x.count, w, width, out, outputs) };
            n += TILE;
        } else {
            unsafe { rows::<1>(&rounded, x.count, w, width, out, outputs) };
            n += 1;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows<const N: usize>(
    x: &[u16],
    count: usize,
    w: *const u16,
    width: usize,
    out: *mut f32,
    outputs: usize,
) {
    let mut m = 0;
    while m < count {
        unsafe {
            let (row, out) = (x.as_ptr().add(m * width), out.add(m * outputs));
            match count - m {
                1 => tile::<1, N>(row, w, width, out, outputs),
                2 => tile::<2, N>(row, w, width, out, outputs),
                3 => tile::<3, N>(row, w, width, out, outputs),
                _ => tile::<4, N>(row, w, width, out, outputs),
            }
        }
        m += 4;
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
        let mut k = 0;
        while k < width {
            let ws: [__m512bh; N] = std::array::from_fn(|n| load(w.add(n * width + k)));
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = load(x.add(m * width + k));
                for (sum, w) in sums.iter_mut().zip(ws) {
                    *sum = _mm512_dpbf16_ps(*sum, x, w);
                }
            }
            k += 32;
        }
        for (m, sums) in sums.iter().enumerate() {
            put(sums, out.add(m * outputs));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const u16) -> __m512bh {
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}
