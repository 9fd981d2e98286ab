//! Statistics of a step, summed on the device and read back once.

use super::loss::{Coefficients, PpoInputs, PpoLoss};
use crate::collective::Group;
use crate::error::Result;
use crate::train::steps::Share;
use tch::{Device, Kind, Tensor};

/// Sums over the real tokens of the minibatches of one step; scalars on the device.
#[derive(Debug)]
pub struct Statistics {
    /// Tokens, policy loss, clipped, KL, ρ, ρ², value loss, R, R², R − V, (R − V)², −ρ log π, −log π_old,
    /// (log ρ)² / 2.
    sums: Tensor,
    largest_ratio: Tensor,
    has_values: bool,
    /// Sums over rows of per-row metrics known on the host, by name, in order, and the number of rows.
    by_row: Vec<(&'static str, f64)>,
    rows: f64,
}

const SUMS: i64 = 14;

impl Statistics {
    /// No tokens yet.
    pub fn new(device: Device) -> Self {
        let options = (Kind::Float, device);
        Self {
            sums: Tensor::zeros([SUMS], options),
            largest_ratio: Tensor::zeros([], options),
            has_values: false,
            by_row: Vec::new(),
            rows: 0.0,
        }
    }

    /// Statistics with per-row metrics of these names, the loss first.
    #[must_use]
    pub fn of_rows(mut self, names: &[&'static str]) -> Self {
        self.by_row = names.iter().map(|name| (*name, 0.0)).collect();
        self
    }

    /// Adds a row's metrics, in the order of [`Statistics::of_rows`].
    pub fn add_numbers(&mut self, numbers: &[f64]) {
        for (sum, added) in self.by_row.iter_mut().zip(numbers) {
            sum.1 += added;
        }
        self.rows += 1.0;
    }

    fn add_sums(&mut self, sums: &[(&'static str, f64)], rows: f64) {
        if self.by_row.is_empty() {
            self.by_row = sums.iter().map(|(name, _)| (*name, 0.0)).collect();
        }
        for (sum, (_, added)) in self.by_row.iter_mut().zip(sums) {
            sum.1 += added;
        }
        self.rows += rows;
    }

    /// Mean over rows of one of their metrics.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.by_row.iter().find(|(found, _)| *found == name).map(|(_, sum)| sum / self.rows)
    }

    /// Adds a piece of the policy's loss.
    pub fn add_policy(&mut self, inputs: &PpoInputs, loss: &PpoLoss) {
        let tokens = inputs.logprobs.size()[0] as f64;
        let log_ratio = inputs.logprobs.detach() - &inputs.old_logprobs;
        let ratio = log_ratio.exp();
        let device = self.sums.device();
        let means =
            [&loss.policy, &loss.clip_fraction, &loss.kl, &loss.ratio].map(|mean| mean.detach() * tokens);
        let count = Tensor::full([], tokens, (Kind::Float, device));
        let [policy, clipped, kl, mean_ratio] = means;
        let added = [count, policy, clipped, kl, mean_ratio, ratio.square().sum(Kind::Float)];
        let _ = self.sums.narrow(0, 0, 6).g_add_(&Tensor::stack(&added, 0));
        let surprise = -(inputs.logprobs.detach() * &ratio).sum(Kind::Float);
        let of_sampler = -inputs.old_logprobs.sum(Kind::Float);
        let drift = log_ratio.square().sum(Kind::Float) * 0.5;
        let _ = self.sums.narrow(0, 11, 3).g_add_(&Tensor::stack(&[surprise, of_sampler, drift], 0));
        self.largest_ratio = self.largest_ratio.maximum(&ratio.max());
    }

    /// Adds a piece of the value loss.
    pub fn add_values(&mut self, values: &Tensor, returns: &Tensor, loss: &Tensor) {
        self.has_values = true;
        let error = returns - values.detach();
        let added = [
            loss.detach() * returns.size()[0] as f64,
            returns.sum(Kind::Float),
            returns.square().sum(Kind::Float),
            error.sum(Kind::Float),
            error.square().sum(Kind::Float),
        ];
        let _ = self.sums.narrow(0, 6, 5).g_add_(&Tensor::stack(&added, 0));
    }

    /// Adds another minibatch of the step.
    pub fn add(&mut self, other: &Self) {
        self.sums += &other.sums;
        self.largest_ratio = self.largest_ratio.maximum(&other.largest_ratio);
        self.has_values |= other.has_values;
        self.add_sums(&other.by_row, other.rows);
    }

    /// Named metrics, the loss first: means over all tokens, or over all rows if there are per-row metrics. The only place that
    /// synchronizes with the device.
    pub fn numbers(&self, coefficients: Coefficients) -> Vec<(&'static str, f64)> {
        if self.rows > 0.0 {
            return self.by_row.iter().map(|(name, sum)| (*name, sum / self.rows)).collect();
        }
        let sums = self.read();
        let tokens = sums[0].max(1.0);
        let mean = |index: usize| sums[index] / tokens;
        let mut numbers = vec![
            ("loss", mean(1) + coefficients.kl * mean(3) + coefficients.value * mean(6)),
            ("policy_loss", mean(1)),
            ("clip_fraction", mean(2)),
            ("kl_to_sampler", mean(3)),
            // The KL to second order. A token of probability 0.0001 that has become a hundred times likelier adds 100 to the
            // estimate above, and 10 to this one, so that it alone does not end training.
            ("drift", mean(13)),
            ("ratio", mean(4)),
            ("ratio_max", sums[SUMS as usize]),
            // (Σρ)² / (n·Σρ²): 1 if all tokens have equal weight.
            ("effective_sample_share", sums[4].powi(2) / (tokens * sums[5]).max(f64::MIN_POSITIVE)),
            // −Σ ρ log π / Σ ρ: an estimate, in nats per token, from samples of the old policy.
            ("entropy", sums[11] / sums[4].max(f64::MIN_POSITIVE)),
            // The same for the sampling policy, on the same tokens.
            ("sampler_entropy", sums[12] / tokens),
            ("tokens", sums[0]),
        ];
        if self.has_values {
            let (loss, explained) = values(&sums, tokens);
            numbers.push(("value_loss", loss));
            if explained.is_finite() {
                numbers.push(("explained_variance", explained));
            }
        }
        numbers
    }

    /// Mean value loss and explained variance over `tokens` values.
    pub fn of_values(&self, tokens: usize) -> (f64, f64) {
        values(&self.read(), tokens.max(1) as f64)
    }

    /// All sums, and the largest ratio.
    fn read(&self) -> [f64; SUMS as usize + 1] {
        let all = Tensor::cat(&[self.sums.shallow_clone(), self.largest_ratio.view(1)], 0);
        let all = all.to_device(Device::Cpu).to_kind(Kind::Double).contiguous();
        let mut sums = [0f64; SUMS as usize + 1];
        all.copy_data(&mut sums, SUMS as usize + 1);
        sums
    }
}

impl Share for Statistics {
    fn add_up(&mut self, group: &Group) -> Result<()> {
        if group.is_alone() {
            return Ok(());
        }
        let mut own: Vec<f64> = self.read().into();
        own.push(f64::from(u8::from(self.has_values)));
        own.push(self.rows);
        own.extend(self.by_row.iter().map(|(_, sum)| sum));
        let mut all = vec![0f64; own.len()];
        for numbers in group.gather_numbers(&own)? {
            for (place, (sum, number)) in all.iter_mut().zip(numbers).enumerate() {
                *sum = if place == SUMS as usize { sum.max(number) } else { *sum + number };
            }
        }
        let (sums, rest) = all.split_at(SUMS as usize);
        let device = self.sums.device();
        self.sums = Tensor::from_slice(sums).to_kind(Kind::Float).to_device(device);
        self.largest_ratio = Tensor::from(rest[0]).to_kind(Kind::Float).to_device(device);
        self.has_values = rest[1] > 0.0;
        self.rows = rest[2];
        self.by_row.iter_mut().zip(&rest[3..]).for_each(|(own, sum)| own.1 = *sum);
        Ok(())
    }
}

/// Mean value loss, and 1 − Var(R − V) / Var(R): NaN if all returns are equal.
fn values(sums: &[f64], tokens: f64) -> (f64, f64) {
    let mean = |index: usize| sums[index] / tokens;
    let variance = |sum: usize, squares: usize| mean(squares) - mean(sum).powi(2);
    let of_returns = variance(7, 8);
    let explained = if of_returns > 1e-12 { 1.0 - variance(9, 10) / of_returns } else { f64::NAN };
    (mean(6), explained)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::loss::{ppo_loss, value_loss};

    #[test]
    fn numbers_are_means_over_all_pieces() {
        let coefficients = Coefficients { clip: 0.2, value: 0.5, kl: 0.3 };
        let mut statistics = Statistics::new(Device::Cpu);
        // Ratios 1, 1 and e.
        for (logprobs, old) in [(&[-1.0f32, -1.0][..], &[-1.0f32, -1.0][..]), (&[-1.0], &[-2.0])] {
            let inputs = PpoInputs {
                logprobs: Tensor::from_slice(logprobs),
                old_logprobs: Tensor::from_slice(old),
                advantages: Tensor::from_slice(&vec![1f32; old.len()]),
                values: None,
            };
            statistics.add_policy(&inputs, &ppo_loss(&inputs, coefficients));
        }
        let (values, returns) =
            (Tensor::from_slice(&[0.0f32, 1.0, 1.0]), Tensor::from_slice(&[0.0f32, 1.0, 2.0]));
        statistics.add_values(&values, &returns, &value_loss(&values, &returns, None));
        let numbers: std::collections::BTreeMap<_, _> =
            statistics.numbers(coefficients).into_iter().collect();
        let e = 1f64.exp();
        let close = |name: &str, expected: f64| {
            assert!((numbers[name] - expected).abs() < 1e-5, "{name}: {} for {expected}", numbers[name]);
        };
        close("policy_loss", -(1.0 + 1.0 + 1.2) / 3.0);
        close("value_loss", 1.0 / 3.0);
        close("kl_to_sampler", (e - 2.0) / 3.0);
        close("loss", -(1.0 + 1.0 + 1.2) / 3.0 + 0.3 * (e - 2.0) / 3.0 + 0.5 / 3.0);
        close("clip_fraction", 1.0 / 3.0);
        close("drift", 0.5 / 3.0);
        close("ratio", (2.0 + e) / 3.0);
        close("entropy", (1.0 + 1.0 + e) / (2.0 + e));
        close("sampler_entropy", (1.0 + 1.0 + 2.0) / 3.0);
        close("ratio_max", e);
        close("effective_sample_share", (2.0 + e).powi(2) / (3.0 * (2.0 + e * e)));
        // Errors 0, 0, 1 have variance 2/9, returns 0, 1, 2 have 2/3.
        close("explained_variance", 1.0 - (2.0 / 9.0) / (2.0 / 3.0));
    }

    /// One of a thousand tokens has become two hundred times likelier: the estimate of the KL is that token alone.
    #[test]
    fn one_token_does_not_decide_the_drift() {
        let coefficients = Coefficients { clip: 0.2, value: 1.0, kl: 0.1 };
        let mut logprobs = vec![-1.0f32; 1000];
        logprobs[7] = 200f32.ln() - 9.0;
        let mut old = vec![-1.0f32; 1000];
        old[7] = -9.0;
        let inputs = PpoInputs {
            logprobs: Tensor::from_slice(&logprobs),
            old_logprobs: Tensor::from_slice(&old),
            advantages: Tensor::from_slice(&vec![1f32; 1000]),
            values: None,
        };
        let mut statistics = Statistics::new(Device::Cpu);
        statistics.add_policy(&inputs, &ppo_loss(&inputs, coefficients));
        let numbers: std::collections::BTreeMap<_, _> =
            statistics.numbers(coefficients).into_iter().collect();
        assert!(numbers["kl_to_sampler"] > 0.19, "{numbers:?}");
        assert!((0.013..0.015).contains(&numbers["drift"]), "{numbers:?}");
    }
}
