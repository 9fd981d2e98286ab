//! Choosing the next token of a row.

/// How the next token is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Sampling {
    /// The most likely token.
    Greedy,
    /// At random among the most likely.
    Random {
        /// Number of most likely tokens to keep; 0 keeps all.
        top_k: u32,
        /// Probability mass to keep.
        top_p: f64,
        /// Divides the logits.
        temperature: f64,
    },
}

/// Index and value of the largest logit; ties go to the first.
pub(super) fn greedy(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best
}

/// The `count` largest logits with their tokens, largest first; ties in the order of the vocabulary. `count` 0 takes all.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<(f32, u32)> {
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let count = if count == 0 { logits.len() } else { count.min(logits.len()) };
    // A pool of candidates above a rising threshold: most of the vocabulary is passed over with one comparison.
    let mut pool: Vec<(f32, u32)> = Vec::with_capacity(4 * count);
    let mut threshold = f32::NEG_INFINITY;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > threshold || pool.len() < count {
            pool.push((logit, index as u32));
            if pool.len() == 4 * count {
                pool.select_nth_unstable_by(count - 1, order);
                pool.truncate(count);
                threshold = pool[count - 1].0;
            }
        }
    }
    pool.sort_unstable_by(order);
    pool.truncate(count);
    pool
}

/// Token and log-probability (under the full softmax at temperature 1, whose ln Σ e^logit is `normalizer`) that
/// `uniform` in [0, 1) falls on.
pub(super) fn random(
    logits: &[f32],
    normalizer: f32,
    top_k: u32,
    top_p: f64,
    temperature: f64,
    uniform: f64,
) -> (i64, f32) {
    let kept = likeliest(logits, top_k as usize);
    let values: Vec<f32> = kept.iter().map(|(logit, _)| *logit).collect();
    let choice = draw(&values, top_p, temperature, uniform);
    (i64::from(kept[choice].1), values[choice] - normalizer)
}

/// Index of the value that `uniform` in [0, 1) falls on, for `values` in descending order.
pub(super) fn draw(values: &[f32], top_p: f64, temperature: f64, uniform: f64) -> usize {
    let highest = f64::from(values.first().copied().unwrap_or_default());
    let weights: Vec<f64> =
        values.iter().map(|&value| ((f64::from(value) - highest) / temperature).exp()).collect();
    let mut total: f64 = weights.iter().sum();
    let mut kept = weights.len();
    if top_p < 1.0 {
        // The smallest set whose probability reaches top_p, at least one token.
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            sum += weight;
            if sum >= top_p * total {
                kept = index + 1;
                break;
            }
        }
        total = weights[..kept].iter().sum();
    }
    let mut rest = uniform * total;
    for (index, weight) in weights[..kept].iter().enumerate() {
        rest -= weight;
        if rest < 0.0 {
            return index;
        }
    }
    kept - 1
}

impl Sampling {
    /// Whether tokens are drawn at random.
    pub(super) fn is_random(self) -> bool {
        matches!(self, Self::Random { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::{draw, greedy, likeliest};

    #[test]
    fn draws_follow_the_distribution() {
        let values = [2.0f32, 1.0, 0.0];
        let total: f64 = values.iter().map(|&value| f64::from(value).exp()).sum();
        let first = 2f64.exp() / total;
        assert_eq!(draw(&values, 1.0, 1.0, first - 1e-9), 0);
        assert_eq!(draw(&values, 1.0, 1.0, first + 1e-9), 1);
        assert_eq!(draw(&values, 1.0, 1.0, 1.0 - 1e-12), 2);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let values = [2.0f32, 1.0, 0.0]; // probabilities 0.665, 0.245, 0.090
        assert_eq!(draw(&values, 0.6, 1.0, 0.999_999), 0);
        assert_eq!(draw(&values, 0.7, 1.0, 0.999_999), 1);
        assert_eq!(draw(&values, 0.7, 1.0, 0.72), 0); // 0.665 / 0.910 = 0.731
        assert_eq!(draw(&values, 0.7, 1.0, 0.74), 1);
    }

    #[test]
    fn low_temperature_is_nearly_greedy() {
        assert_eq!(draw(&[1.0, 0.5], 1.0, 0.01, 0.999_999), 0);
    }

    #[test]
    fn the_likeliest_are_those_of_a_full_sort() {
        let logits: Vec<f32> = (0..3000).map(|i: u32| ((i * 7919) % 1013) as f32).collect(); // with ties
        let mut sorted: Vec<(f32, u32)> =
            logits.iter().zip(0..).map(|(&logit, index)| (logit, index)).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for count in [1, 5, 50, 999, 3000] {
            assert_eq!(likeliest(&logits, count), sorted[..count], "{count}");
        }
        assert_eq!(likeliest(&logits, 0), sorted);
        assert_eq!(greedy(&logits) as u32, sorted[0].1);
    }
}
