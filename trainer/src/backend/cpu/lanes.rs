//! The sum over the lanes of AVX-512 vectors.

#![allow(unsafe_code)] // stores; both callers check the lengths

use std::arch::x86_64::*;

/// Writes the sum over the lanes of each vector, rows `stride` apart. Four vectors are summed together, which takes
/// a third of the work; each is summed in the same order at any position.
///
/// # Safety
/// `out` must have room for `M` rows of `N` numbers, and the processor AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn put<const M: usize, const N: usize>(
    sums: &[[__m512; N]; M],
    out: *mut f32,
    stride: usize,
) {
    let at = |i: usize| if i < M * N { sums[i / N][i % N] } else { _mm512_setzero_ps() };
    for first in (0..M * N).step_by(4) {
        let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (a, b) = (pair(at(first), at(first + 1)), pair(at(first + 2), at(first + 3)));
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        let quarters = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
        let doubles = _mm512_castps_pd(quarters);
        let upper = _mm512_castpd_ps(_mm512_shuffle_f64x2::<0b1110>(doubles, doubles));
        let half = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_castps512_ps256(upper));
        let four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
        let mut numbers = [0f32; 4];
        unsafe {
            _mm_storeu_ps(numbers.as_mut_ptr(), four);
            for (i, number) in (first..M * N).zip(numbers) {
                *out.add(i / N * stride + i % N) = number;
            }
        }
    }
}
