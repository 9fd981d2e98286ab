//! The clipped PPO objective (Schulman et al., 2017) with a KL penalty and a squared value error, averaged over real
//! tokens.

use schemas::settings::RlSettings;
use tch::{Kind, Tensor};

/// Weights and bounds of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// ε: ratios count up to 1 ± ε.
    pub clip: f64,
    /// Weight of the value loss.
    pub value: f64,
    /// Weight of the KL from the sampling policy.
    pub kl: f64,
}

impl Coefficients {
    /// The values of the settings.
    pub fn of(settings: &RlSettings) -> Self {
        Self { clip: settings.clip, value: settings.value_coefficient, kl: settings.kl_penalty }
    }
}

/// Losses of a minibatch, scalars; `total` carries the gradient.
#[derive(Debug)]
pub struct PpoLoss {
    /// policy + c_v · value + c_kl · KL.
    pub total: Tensor,
    /// policy + c_kl · KL: the policy's part of the total.
    pub of_policy: Tensor,
    /// Mean of max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)).
    pub policy: Tensor,
    /// Mean of (V − R)².
    pub value: Tensor,
    /// Share of tokens whose clipped term was the larger.
    pub clip_fraction: Tensor,
    /// Mean of (ρ − 1) − log ρ, an unbiased estimate of KL(old ‖ new) that is never negative (k3 of Schulman, 2020); without
    /// gradient.
    pub kl: Tensor,
    /// Mean ratio ρ.
    pub ratio: Tensor,
}

/// Inputs of a minibatch's loss, each a vector over the real tokens of the batch.
#[derive(Debug)]
pub struct PpoInputs {
    /// log π_new(a_t), with gradient.
    pub logprobs: Tensor,
    /// log π_old(a_t) of the sampling policy.
    pub old_logprobs: Tensor,
    /// A_t.
    pub advantages: Tensor,
    /// V_t of the value model with gradient, and the returns R_t; none for algorithms without one.
    pub values: Option<(Tensor, Tensor)>,
}

/// ρ_t = exp(log π_new − log π_old);
/// L = mean max(−A ρ, −A clip(ρ, 1 ± ε)) + c_kl · mean (ρ − 1 − log ρ) + c_v · mean (V − R)².
///
/// Tokens were sampled from the old policy, so the mean of ρ − 1 − log ρ is the KL from it. It pulls ratios towards 1 from both
/// sides, more strongly with distance.
pub fn ppo_loss(inputs: &PpoInputs, coefficients: Coefficients) -> PpoLoss {
    let Coefficients { clip, value: value_coefficient, kl: kl_coefficient } = coefficients;
    let log_ratio = &inputs.logprobs - &inputs.old_logprobs;
    let ratio = log_ratio.exp();
    let plain = -(&inputs.advantages * &ratio);
    let clipped = -(&inputs.advantages * ratio.clamp(1.0 - clip, 1.0 + clip));
    let policy = plain.maximum(&clipped).mean(Kind::Float);
    let kl = (&ratio - 1.0 - log_ratio).mean(Kind::Float);
    let value = match &inputs.values {
        Some((values, returns)) => value_loss(values, returns, None),
        None => policy.zeros_like(),
    };
    let of_policy =
        if kl_coefficient == 0.0 { policy.shallow_clone() } else { &policy + &kl * kl_coefficient };
    PpoLoss {
        total: &of_policy + &value * value_coefficient,
        of_policy,
        clip_fraction: clipped.gt_tensor(&plain).to_kind(Kind::Float).mean(Kind::Float),
        kl: kl.detach(),
        ratio: ratio.mean(Kind::Float).detach(),
        policy,
        value,
    }
}

/// Mean of (V − R)²; with `clip`, of max((V − R)², (V_old ± clip − R)²), which stops moving values further from those at
/// sampling once they are beyond the clip range.
pub fn value_loss(values: &Tensor, returns: &Tensor, clip: Option<(f64, &Tensor)>) -> Tensor {
    let plain = (values - returns).square();
    match clip {
        None => plain.mean(Kind::Float),
        Some((clip, old)) => {
            let clipped = (old + (values - old).clamp(-clip, clip) - returns).square();
            plain.maximum(&clipped).mean(Kind::Float)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L = c · (ρ − 1 − log ρ) without advantages: its gradient with respect to log π is c · (ρ − 1), by the chain rule.
    #[test]
    fn the_penalty_pulls_ratios_to_one_from_both_sides() {
        let logprobs = Tensor::from_slice(&[-1.0f32, -1.0, -1.0]).set_requires_grad(true);
        let inputs = PpoInputs {
            logprobs: logprobs.shallow_clone(),
            old_logprobs: Tensor::from_slice(&[-1.0f32, -2.0, -0.5]),
            advantages: Tensor::from_slice(&[0.0f32, 0.0, 0.0]),
            values: None,
        };
        let loss = ppo_loss(&inputs, Coefficients { clip: 0.2, value: 1.0, kl: 0.3 });
        let ratios = [1.0, 1f64.exp(), (-0.5f64).exp()];
        let expected: f64 = ratios.iter().map(|ratio| ratio - 1.0 - ratio.ln()).sum::<f64>() / 3.0;
        assert!((loss.total.double_value(&[]) - 0.3 * expected).abs() < 1e-6);
        loss.total.backward();
        let gradient = Vec::<f32>::try_from(logprobs.grad()).expect("numbers");
        for (found, ratio) in gradient.iter().zip(ratios) {
            assert!((f64::from(*found) - 0.3 * (ratio - 1.0) / 3.0).abs() < 1e-6, "{gradient:?}");
        }
    }

    #[test]
    fn clipped_values_are_not_pulled_further() {
        let values = Tensor::from_slice(&[0.5f32, 0.1]).set_requires_grad(true);
        let (old, returns) = (Tensor::from_slice(&[0.0f32, 0.0]), Tensor::from_slice(&[1.0f32, 1.0]));
        let loss = value_loss(&values, &returns, Some((0.2, &old)));
        // max(0.25, 0.64) and max(0.81, 0.81)
        assert!((loss.double_value(&[]) - (0.64 + 0.81) / 2.0).abs() < 1e-6);
        loss.backward();
        let gradient = Vec::<f32>::try_from(values.grad()).expect("numbers");
        assert_eq!(gradient[0], 0.0, "beyond the clip");
        assert!((gradient[1] + 0.9).abs() < 1e-6, "{gradient:?}");
        let plain = value_loss(&values, &returns, None).double_value(&[]);
        assert!((plain - (0.25 + 0.81) / 2.0).abs() < 1e-6);
    }
}
