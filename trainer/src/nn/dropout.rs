//! Dropout on a CPU: libtorch draws its masks one number after another from a slow generator, which is a tenth of a
//! fine-tuning step.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// `x` where a number is kept, scaled by 1 / (1 − rate), 0 elsewhere; `x` itself unless in training. Each number is
/// dropped with probability `rate`, rounded to a multiple of 2⁻¹⁶. libtorch's generator seeds the mask.
pub fn dropout(x: &Tensor, rate: f64, train: bool) -> Tensor {
    if !train || rate == 0.0 {
        return x.shallow_clone();
    }
    if x.device() != Device::Cpu {
        return x.dropout(rate, train);
    }
    let limit = (rate * 65_536.0).round().clamp(0.0, 65_535.0) as u16;
    let scale = 65_536.0 / (65_536.0 - f32::from(limit));
    let seed = Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]).unsigned_abs();
    let mask = Tensor::from_slice(&mask(x.numel(), seed, limit, scale));
    x * mask.to_kind(x.kind()).view_as(x)
}

/// `kept` for each number that stays, 0 for each that is dropped: those whose 16 random bits are below `limit`.
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

    /// libtorch's generator is common to all threads, so that other tests draw from it too: masks are compared by seed.
    #[test]
    fn a_seed_always_draws_the_same_mask() {
        let draw = |seed| mask(5000, seed, 6554, 1.0);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(mask(3000, 1, 6554, 1.0), draw(1)[..3000]);
    }

    #[test]
    fn as_many_are_dropped_as_asked_and_the_mean_stays() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let ones = Tensor::ones([1000, 1000], (kind, Device::Cpu)).set_requires_grad(true);
            let kept = dropout(&ones, 0.1, true);
            assert_eq!((kept.kind(), kept.size()), (kind, vec![1000, 1000]));
            let zeros = kept.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            // Four deviations of a mean of 10⁶ draws: 4 · √(0.1 · 0.9 / 10⁶).
            assert!((zeros - 0.1).abs() < 1.2e-3, "{zeros}");
            let mean = kept.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((mean - 1.0).abs() < if kind == Kind::Float { 1.4e-3 } else { 4e-3 }, "{mean}");
            kept.to_kind(Kind::Float).sum(Kind::Float).backward();
            assert_eq!(ones.grad(), kept.detach(), "what is dropped gets no gradient");
        }
    }

    #[test]
    fn nothing_is_dropped_outside_training_or_at_rate_0() {
        let x = Tensor::randn([40], (Kind::Float, Device::Cpu));
        assert_eq!(dropout(&x, 0.5, false), x);
        assert_eq!(dropout(&x, 0.0, true), x);
        assert!(dropout(&x, 0.999_999_9, true).isfinite().all().int64_value(&[]) == 1);
    }
}
