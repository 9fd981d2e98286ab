//! The clipped PPO objective (Schulman et al., 2017) with a squared value error, averaged over real tokens.

use tch::{Kind, Tensor};

/// Losses of a minibatch, scalars; `total` carries the gradient.
#[derive(Debug)]
pub struct PpoLoss {
    /// policy + value coefficient · value.
    pub total: Tensor,
    /// Mean of max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)).
    pub policy: Tensor,
    /// Mean of (V − R)².
    pub value: Tensor,
    /// Share of tokens whose clipped term was the larger.
    pub clip_fraction: Tensor,
    /// Mean of (ρ − 1) − log ρ, an estimate of KL(old ‖ new) that is never negative.
    pub kl: Tensor,
    /// Mean ratio ρ.
    pub ratio: Tensor,
}

/// What a minibatch's loss is computed from, each a vector over the real tokens of the batch.
#[derive(Debug)]
pub struct PpoInputs {
    /// log π_new(a_t), with gradient.
    pub logprobs: Tensor,
    /// log π_old(a_t) of the policy that sampled.
    pub old_logprobs: Tensor,
    /// A_t.
    pub advantages: Tensor,
    /// V_t of the value model with gradient, and the returns R_t; none for algorithms without one.
    pub values: Option<(Tensor, Tensor)>,
}

/// ρ_t = exp(log π_new − log π_old); L = mean max(−A ρ, −A clip(ρ, 1 ± ε)) + c · mean (V − R)².
pub fn ppo_loss(inputs: &PpoInputs, clip: f64, value_coefficient: f64) -> PpoLoss {
    let log_ratio = &inputs.logprobs - &inputs.old_logprobs;
    let ratio = log_ratio.exp();
    let plain = -(&inputs.advantages * &ratio);
    let clipped = -(&inputs.advantages * ratio.clamp(1.0 - clip, 1.0 + clip));
    let policy = plain.maximum(&clipped).mean(Kind::Float);
    let value = match &inputs.values {
        Some((values, returns)) => value_loss(values, returns, None),
        None => policy.zeros_like(),
    };
    PpoLoss {
        total: &policy + &value * value_coefficient,
        clip_fraction: clipped.gt_tensor(&plain).to_kind(Kind::Float).mean(Kind::Float),
        kl: (&ratio - 1.0 - log_ratio).mean(Kind::Float).detach(),
        ratio: ratio.mean(Kind::Float).detach(),
        policy,
        value,
    }
}

/// Mean of (V − R)²; with `clip`, of max((V − R)², (V_old ± clip − R)²), which stops pulling values far from those of
/// sampling.
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
    use super::value_loss;
    use tch::Tensor;

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
