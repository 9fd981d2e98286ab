//! Dropout, with the device's mask generator.

use crate::backend;
use tch::Tensor;

/// `x` where a number is kept, scaled by 1 / (1 − rate), 0 elsewhere; `x` itself unless in training. the mask is seeded by
/// libtorch's generator.
pub fn dropout(x: &Tensor, rate: f64, train: bool) -> Tensor {
    if !train || rate == 0.0 {
        return x.shallow_clone();
    }
    backend::of(x.device()).dropout(x, rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

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
