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
        Some((values, returns)) => (values - returns).square().mean(Kind::Float),
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
