//! Generalized advantage estimation (Schulman et al., 2016), and the group-relative advantage of sentences.

use tch::{Kind, Tensor};

/// Advantages and returns of one sequence: δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, R_t = A_t + V_t;
/// the value after the last token is 0.
pub fn gae(rewards: &[f32], values: &[f32], gamma: f64, lambda: f64) -> (Vec<f32>, Vec<f32>) {
    let mut advantages = vec![0f32; rewards.len()];
    let (mut next_value, mut next_advantage) = (0f64, 0f64);
    for t in (0..rewards.len()).rev() {
        let value = f64::from(values[t]);
        let delta = f64::from(rewards[t]) + gamma * next_value - value;
        next_advantage = delta + gamma * lambda * next_advantage;
        advantages[t] = next_advantage as f32;
        next_value = value;
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

/// Advantages normalized to mean 0 and variance 1 over the positions where `mask` is 1; padding is excluded.
///
/// `advantages` and `mask` [batch, length] → [batch, length].
pub fn whiten(advantages: &Tensor, mask: &Tensor) -> Tensor {
    let count = mask.sum(Kind::Float);
    let mean = (advantages * mask).sum(Kind::Float) / &count;
    let centred = (advantages - mean) * mask;
    // The unbiased variance, as PyTorch's `var`; a single position has none and stays at 0.
    let variance = centred.square().sum(Kind::Float) / (count - 1.0).clamp_min(1.0);
    centred * (variance + 1e-8).rsqrt()
}

/// Sentence rewards of the k samples of one problem → advantages a token without a value model (after GRPO, Shao et
/// al., 2024, at the level of sentences): each token gets the sum of the normalised rewards of the sentences that
/// end at or after it. `sentence_ends` holds, for each sample, pairs of token index and centred reward.
pub fn group_relative(sentence_ends: &[Vec<(u32, f32)>], lengths: &[usize]) -> Vec<Vec<f32>> {
    let rewards: Vec<f64> = sentence_ends.iter().flatten().map(|(_, reward)| f64::from(*reward)).collect();
    let count = rewards.len().max(1) as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt() + 1e-4;
    sentence_ends
        .iter()
        .zip(lengths)
        .map(|(ends, &length)| {
            let mut advantages = vec![0f32; length];
            for &(token, reward) in ends {
                let normalised = ((f64::from(reward) - mean) / deviation) as f32;
                for advantage in advantages.iter_mut().take(token as usize + 1) {
                    *advantage += normalised;
                }
            }
            advantages
        })
        .collect()
}

/// Charges each token what drifting from the reference costs from there on: A_t −= β · Σ_{s ≥ t} (log π − log π_ref)(a_s),
/// so that the group-relative variant knows the same KL penalty as the rewards of PPO.
pub fn charge_kl(advantages: &mut [f32], logprobs: &[f32], ref_logprobs: &[f32], kl_coefficient: f64) {
    let mut cost = 0f64;
    let pairs = logprobs.iter().zip(ref_logprobs);
    for (advantage, (policy, reference)) in advantages.iter_mut().zip(pairs).rev() {
        cost += kl_coefficient * f64::from(policy - reference);
        *advantage -= cost as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn gae_by_hand() {
        // γ = 1, λ = 0.5: δ = [0.2, 1.6], A₁ = 1.6, A₀ = 0.2 + 0.5·1.6
        let (advantages, returns) = gae(&[0.1, 2.0], &[0.3, 0.4], 1.0, 0.5);
        assert!(close(&advantages, &[1.0, 1.6]), "{advantages:?}");
        assert!(close(&returns, &[1.3, 2.0]), "{returns:?}");
    }

    #[test]
    fn padding_stays_out_of_whitening() {
        let mask = Tensor::from_slice(&[1f32, 1.0, 1.0, 0.0]).view([1, 4]);
        let a = whiten(&Tensor::from_slice(&[1f32, 2.0, 3.0, 0.0]).view([1, 4]), &mask);
        let b = whiten(&Tensor::from_slice(&[1f32, 2.0, 3.0, 99.0]).view([1, 4]), &mask);
        assert!(a.equal(&b));
        let a: Vec<f32> = Vec::try_from(a.view(-1)).expect("numbers");
        assert!(close(&a, &[-1.0, 0.0, 1.0, 0.0]), "{a:?}");
    }

    #[test]
    fn drifting_costs_all_tokens_before_it() {
        let mut advantages = [1.0f32, 1.0, 1.0];
        charge_kl(&mut advantages, &[-1.0, -1.0, -1.0], &[-1.0, -3.0, -1.0], 0.1);
        assert!(close(&advantages, &[0.8, 0.8, 1.0]), "{advantages:?}");
    }

    #[test]
    fn groups_compare_the_samples_of_one_problem() {
        let ends = vec![vec![(1, 0.5)], vec![(1, -0.5)]];
        let advantages = group_relative(&ends, &[3, 2]);
        assert!(
            advantages[0][0] > 0.9 && advantages[0][1] > 0.9 && advantages[0][2] == 0.0,
            "{advantages:?}"
        );
        assert!(close(&advantages[1], &[-advantages[0][0], -advantages[0][1]]), "{advantages:?}");
    }
}
