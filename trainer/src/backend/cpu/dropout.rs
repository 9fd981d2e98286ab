//! Dropout masks on a CPU. libtorch draws them sequentially from a slow generator, which takes a tenth of a fine-tuning step.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// `x` where a number is kept, scaled by 1 / (1 − rate), 0 elsewhere. Each number is dropped with probability `rate`, rounded
/// to a multiple of 2⁻¹⁶.
pub(super) fn dropout(x: &Tensor, rate: f64) -> Tensor {
    let limit = (rate * 65_536.0).round().clamp(0.0, 65_535.0) as u16;
    let scale = 65_536.0 / (65_536.0 - f32::from(limit));
    let seed = Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]).unsigned_abs();
    let mask = Tensor::from_slice(&mask(x.numel(), seed, limit, scale));
    x * mask.to_kind(x.kind()).view_as(x)
}

/// `kept` for each number that is kept, 0 for each that is dropped: a number is dropped if its 16 random bits are below `limit`.
fn mask(count: usize, seed: u64, limit: u16, kept: f32) -> Vec<f32> {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut mask = vec![0.0; count];
    let mut bytes = [0u8; 2048];
    for numbers in mask.chunks_mut(bytes.len() / 2) {
        stream.fill_bytes(&mut bytes);
        for (number, pair) in numbers.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *number = if u16::from_le_bytes(*pair) < limit { 0.0 } else { kept };
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libtorch's generator is shared by all threads, so other tests draw from it too: masks are compared by seed.
    #[test]
    fn a_seed_always_draws_the_same_mask() {
        let draw = |seed| mask(5000, seed, 6554, 1.0);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(mask(3000, 1, 6554, 1.0), draw(1)[..3000]);
    }
}
