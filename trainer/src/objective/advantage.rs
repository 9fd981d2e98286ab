//! Generalized advantage estimation (Schulman et al., 2016), by token and by sentence, and normalization.

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

/// Advantages normalized over the positions where `mask` is 1, to variance 1 after the mean was subtracted or, if not `centre`,
/// to a mean square of 1; padding is excluded.
///
/// `advantages` and `mask` [batch, length] → [batch, length].
pub fn whiten(advantages: &Tensor, mask: &Tensor, centre: bool) -> Tensor {
    let count = mask.sum(Kind::Float);
    let own = advantages * mask;
    if !centre {
        let square = own.square().sum(Kind::Float) / count.clamp_min(1.0);
        return own * (square + 1e-8).rsqrt();
    }
    let mean = own.sum(Kind::Float) / &count;
    let centred = (advantages - mean) * mask;
    // The unbiased variance, as PyTorch's `var`; for a single position it is undefined, and the result is 0.
    let variance = centred.square().sum(Kind::Float) / (count - 1.0).clamp_min(1.0);
    centred * (variance + 1e-8).rsqrt()
}

/// As [`gae`], but γ and λ apply only where one of the tokens `ends` was the last of a sentence, and are 1 elsewhere: a reward
/// has the same weight for the first and the last token of its sentence.
///
/// δ_t = r_t + g_t·V_{t+1} − V_t, A_t = δ_t + g_t·l_t·A_{t+1}, with g_t, l_t = γ, λ at the end of a sentence, else 1.
pub fn gae_by_sentence(
    rewards: &[f32],
    values: &[f32],
    ends: &[u32],
    gamma: f64,
    lambda: f64,
) -> (Vec<f32>, Vec<f32>) {
    let mut advantages = vec![0f32; rewards.len()];
    let (mut next_value, mut next_advantage) = (0f64, 0f64);
    for t in (0..rewards.len()).rev() {
        let is_end = ends.binary_search(&(t as u32)).is_ok();
        let (gamma, lambda) = if is_end { (gamma, lambda) } else { (1.0, 1.0) };
        let value = f64::from(values[t]);
        let delta = f64::from(rewards[t]) + gamma * next_value - value;
        next_advantage = delta + gamma * lambda * next_advantage;
        advantages[t] = next_advantage as f32;
        next_value = value;
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

/// Normalizes the advantages of all rollouts over all of their tokens: divided by the standard deviation after the mean
/// was subtracted or, if not `centre`, by the root of the mean square. Advantages that are all equal become 0.
pub fn whiten_all(rows: &mut [Vec<f32>], centre: bool) {
    let count = rows.iter().map(Vec::len).sum::<usize>();
    if count == 0 {
        return;
    }
    let each = || rows.iter().flatten().map(|&advantage| f64::from(advantage));
    let mean = if centre { each().sum::<f64>() / count as f64 } else { 0.0 };
    let freedom = if centre { count.saturating_sub(1).max(1) } else { count };
    let variance = each().map(|advantage| (advantage - mean).powi(2)).sum::<f64>() / freedom as f64;
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for advantage in rows.iter_mut().flatten() {
        *advantage = ((f64::from(*advantage) - mean) * scale) as f32;
    }
}

/// Subtracts from each token the KL penalty from there on: A_t −= β · Σ_{s ≥ t} (log π − log π_ref)(a_s), so that the
/// group-relative variant has the same KL penalty as the rewards of PPO.
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
        let a = whiten(&Tensor::from_slice(&[1f32, 2.0, 3.0, 0.0]).view([1, 4]), &mask, true);
        let b = whiten(&Tensor::from_slice(&[1f32, 2.0, 3.0, 99.0]).view([1, 4]), &mask, true);
        assert!(a.equal(&b));
        let a: Vec<f32> = Vec::try_from(a.view(-1)).expect("numbers");
        assert!(close(&a, &[-1.0, 0.0, 1.0, 0.0]), "{a:?}");
        // What is as good as the others stays at 0: the mean square is (0 + 4 + 4) / 3.
        let numbers = Tensor::from_slice(&[0f32, 2.0, -2.0, 99.0]).view([1, 4]);
        let kept: Vec<f32> = Vec::try_from(whiten(&numbers, &mask, false).view(-1)).expect("numbers");
        let root = 1.5f32.sqrt();
        assert!(close(&kept, &[0.0, root, -root, 0.0]), "{kept:?}");
    }

    #[test]
    fn drifting_costs_all_tokens_before_it() {
        let mut advantages = [1.0f32, 1.0, 1.0];
        charge_kl(&mut advantages, &[-1.0, -1.0, -1.0], &[-1.0, -3.0, -1.0], 0.1);
        assert!(close(&advantages, &[0.8, 0.8, 1.0]), "{advantages:?}");
    }

    /// γ = 1, λ = 0.5, V = 0, a score of 1 at the end of the second sentence: every token of a sentence has the same
    /// advantage, however long the sentence is. By token, the first one would have 0.5⁵.
    #[test]
    fn lambda_counts_sentences() {
        let rewards = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let (advantages, returns) = gae_by_sentence(&rewards, &[0.0; 6], &[2, 5], 1.0, 0.5);
        assert!(close(&advantages, &[0.5, 0.5, 0.5, 1.0, 1.0, 1.0]), "{advantages:?}");
        assert!(close(&returns, &advantages));
        let (by_token, _) = gae(&rewards, &[0.0; 6], 1.0, 0.5);
        assert!(close(&by_token[..1], &[0.03125]), "{by_token:?}");
        // γ = 0.5, λ = 1: δ = [0.5·2 − 1, 1 + 0 − 2] for sentences of one token with V = [1, 2].
        let (advantages, returns) = gae_by_sentence(&[0.0, 1.0], &[1.0, 2.0], &[0, 1], 0.5, 1.0);
        assert!(close(&advantages, &[-0.5, -1.0]), "{advantages:?}");
        assert!(close(&returns, &[0.5, 1.0]), "{returns:?}");
    }

    #[test]
    fn all_rollouts_are_whitened_together() {
        let mut rows = vec![vec![1.0, 2.0], vec![3.0]];
        whiten_all(&mut rows, true);
        assert!(close(&rows.concat(), &[-1.0, 0.0, 1.0]), "{rows:?}");
        let mut rows = vec![vec![0.0, 2.0], vec![0.0, -2.0]];
        whiten_all(&mut rows, false);
        let root = 2f32.sqrt();
        assert!(close(&rows.concat(), &[0.0, root, 0.0, -root]), "what earned nothing stays at 0: {rows:?}");
        let mut same = vec![vec![0.5, 0.5]];
        whiten_all(&mut same, true);
        assert!(close(&same[0], &[0.0, 0.0]), "{same:?}");
    }
}
