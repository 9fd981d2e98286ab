//! The distribution of the next token, from the logits.

use schemas::settings::{LogprobKind, Settings};
use tch::{Kind, Tensor};

/// A distribution of the next token: softmax(logits / temperature), restricted to the most likely tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// Divides the logits.
    pub temperature: f64,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: u32,
    /// Probability mass to keep, of the tokens left by `top_k`.
    pub top_p: f64,
}

impl Distribution {
    /// The full softmax at temperature 1.
    pub const FULL: Self = Self { temperature: 1.0, top_k: 0, top_p: 1.0 };

    /// The distribution whose log-probabilities RL compares: that of sampling, or the full softmax at temperature 1. The latter
    /// also if only `top_k` restricts it: the mass outside the 50 most likely tokens is small, and not worth another pass.
    pub fn of(settings: &Settings) -> Self {
        let rollout = &settings.rollout;
        let is_full = rollout.temperature == 1.0 && rollout.top_p >= 1.0;
        if is_full || settings.rl.logprobs == LogprobKind::Full {
            return Self::FULL;
        }
        Self { temperature: rollout.temperature, top_k: rollout.top_k, top_p: rollout.top_p }
    }

    /// log π(token) for `logits` [.., vocabulary] and `tokens` [..]. A token outside the restriction is treated as kept, so
    /// that its log-probability is finite: sampling in another number format may have kept it.
    pub fn logprobs(self, logits: &Tensor, tokens: &Tensor) -> Tensor {
        let scaled = (self.temperature != 1.0).then(|| logits / self.temperature);
        let logits = scaled.as_ref().unwrap_or(logits);
        let chosen = logits.gather(-1, &tokens.unsqueeze(-1), false).squeeze_dim(-1);
        if self.top_k == 0 && self.top_p >= 1.0 {
            return chosen - logits.logsumexp(-1, false);
        }
        let vocabulary = logits.size().last().copied().unwrap_or(1);
        let count = if self.top_k == 0 { vocabulary } else { i64::from(self.top_k).min(vocabulary) };
        let (mut kept, _) = logits.topk(count, -1, true, true);
        if self.top_p < 1.0 {
            let probabilities = kept.detach().softmax(-1, Kind::Float);
            // The smallest set that reaches top_p: each token before which the cumulative probability was below it.
            let before = probabilities.cumsum(-1, Kind::Float) - &probabilities;
            kept = kept.masked_fill(&before.ge(self.top_p), f64::NEG_INFINITY);
        }
        let least =
            kept.detach().masked_fill(&kept.isneginf(), f64::INFINITY).amin([-1i64].as_slice(), false);
        let normalizer = kept.logsumexp(-1, false);
        let with_chosen = normalizer.logaddexp(&chosen);
        &chosen - normalizer.where_self(&chosen.detach().ge_tensor(&least), &with_chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprobs(distribution: Distribution, logits: &[f32]) -> Vec<f32> {
        let rows = logits.len() as i64;
        let tokens = Tensor::arange(rows, (Kind::Int64, tch::Device::Cpu));
        let logits = Tensor::from_slice(logits).unsqueeze(0).expand([rows, rows], false);
        Vec::try_from(distribution.logprobs(&logits, &tokens)).expect("numbers")
    }

    #[test]
    fn probabilities_are_those_that_tokens_are_drawn_with() {
        // At temperature 2: e^1, e^0.5, 1, e^−1.
        let logits = [2.0f32, 1.0, 0.0, -2.0];
        let weights = [1f64.exp(), 0.5f64.exp(), 1.0, (-1f64).exp()];
        let close = |found: &[f32], expected: &[f64]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected.ln()).abs() < 1e-5, "{found} {}", expected.ln());
            }
        };
        let share = |count: usize| -> Vec<f64> {
            let sum: f64 = weights[..count].iter().sum();
            weights[..count].iter().map(|weight| weight / sum).collect()
        };
        let of = |top_k, top_p| logprobs(Distribution { temperature: 2.0, top_k, top_p }, &logits);
        close(&of(0, 1.0), &share(4));
        close(&of(3, 1.0)[..3], &share(3));
        // Of the first three tokens, the first has 0.51 of the probability, the first two 0.81.
        close(&of(3, 0.5)[..1], &[1.0]);
        close(&of(3, 0.6)[..2], &share(2));
        close(&of(3, 0.9)[..3], &share(3));
        // A token outside is treated as kept, so it is finite.
        let outside = weights[3] / (weights[0] + weights[1] + weights[2] + weights[3]);
        close(&of(3, 1.0)[3..], &[outside]);
        close(&logprobs(Distribution::FULL, &[1.0, 1.0]), &[0.5, 0.5]);
    }

    #[test]
    fn gradients_stay_inside_the_kept_tokens() {
        let logits = Tensor::from_slice(&[2.0f32, 1.0, 0.0, -2.0]).view([1, 4]).set_requires_grad(true);
        let tokens = Tensor::from_slice(&[1i64]);
        let distribution = Distribution { temperature: 1.0, top_k: 0, top_p: 0.7 };
        distribution.logprobs(&logits, &tokens).sum(Kind::Float).backward();
        let gradient = Vec::<f32>::try_from(logits.grad().view(-1)).expect("numbers");
        let first = (2f64.exp() / (2f64.exp() + 1f64.exp())) as f32;
        assert!((gradient[0] + first).abs() < 1e-6 && (gradient[1] - first).abs() < 1e-6, "{gradient:?}");
        assert_eq!(gradient[2..], [0.0, 0.0]);
    }
}
