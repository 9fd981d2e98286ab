//! Minibatches of scored rollouts: their loss, and its gradients in pieces that fit in memory.

use super::advantage::whiten;
use super::loss::{Coefficients, PpoInputs, ppo_loss, value_loss};
use super::rows::{Part, ScoredRollout, split_rows};
use super::statistics::Statistics;
use super::value_model::ValueModel;
use crate::backend;
use crate::backend::memory::in_batches;
use crate::data::batch;
use crate::data::batch::{Padded, Portion, Row};
use crate::data::vision::ImageFeatures;
use crate::error::Result;
use crate::model::Student;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::rollout::distribution::Distribution;
use crate::rollout::logprobs::{backward_under, token_logprobs_under};
use schemas::settings::{Algorithm, BaselineKind, RlSettings, WhitenOver};
use tch::{Kind, Tensor, no_grad};

/// Policy, value model and their weights.
#[derive(Debug)]
pub struct Learner<'a> {
    /// The trained student.
    pub policy: &'a Student,
    /// Its weights.
    pub policy_weights: &'a Weights,
    /// The value model trained in the same passes, and its weights.
    pub value: Option<(&'a ValueModel, &'a Weights)>,
    /// Distribution of both old and new log-probabilities.
    pub distribution: Distribution,
}

impl Learner<'_> {
    /// Advantages [rows, longest] of a minibatch, whitened if the settings require it per minibatch. Those of grpo are already
    /// relative to their problem's samples: subtracting the minibatch's mean would push rollouts that earned nothing.
    fn advantages(&self, rows: &[&[f32]], settings: &RlSettings) -> Tensor {
        let device = self.policy.device();
        let advantages = batch::pad_numbers(rows, device);
        let by_minibatch = settings.whiten && settings.whiten_over == WhitenOver::Minibatch;
        if !by_minibatch || settings.algorithm != Algorithm::Ppo {
            return advantages;
        }
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        // As over all rollouts: samples as good as the others stay at 0.
        let centre = settings.baseline != BaselineKind::LeaveOneOut;
        whiten(&advantages, &batch::mask(&lengths, device), centre)
    }

    /// Whether the value head shares the policy's network.
    pub(super) fn shares_trunk(&self) -> bool {
        self.value.is_some_and(|(model, _)| model.student.reads_same_weights(self.policy))
    }

    /// Adds the gradients of `scale` times the loss of one minibatch, in parts within the portion's token limit and a few head
    /// positions at a time: the gradients of the whole, in less memory. Whitening and the mean are over the whole minibatch,
    /// whatever the portion.
    pub fn backward<'b>(
        &self,
        rollouts: &[&ScoredRollout],
        features: &ImageFeatures,
        settings: &RlSettings,
        mode: Mode,
        portion: impl Into<Portion<'b>>,
        scale: f64,
    ) -> Statistics {
        let (device, portion) = (self.policy.device(), portion.into());
        let lengths = batch::shared_lengths(rollouts);
        let all: usize = lengths.iter().map(|row| row.target).sum();
        // The loss is a mean over the minibatch's tokens, so each piece is weighted by its share of them.
        let share = |tokens: i64| tokens as f64 / all as f64 * scale;
        let rows: Vec<&[f32]> = rollouts.iter().map(|rollout| rollout.advantages.as_slice()).collect();
        let advantages = self.advantages(&rows, settings);
        let coefficients = Coefficients::of(settings);
        let mut statistics = Statistics::new(device);
        let parts = batch::parts(&lengths, portion, backend::of(device).part_tokens(mode.kind));
        let part_of = |rows: &[usize]| {
            let chosen = rows.iter().map(|&row| rollouts[row]).collect();
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let part = Part::new(chosen, features, self.policy);
            let advantages = advantages.index_select(0, &Tensor::from_slice(&rows).to_device(device));
            let advantages = part.real(&advantages);
            (part, advantages)
        };
        let value_share =
            |statistics: &mut Statistics, model: &ValueModel, part: &Part<'_>, states: &Tensor| {
                let values = model.values(states, mode);
                let returns = part.column(|rollout| &rollout.returns);
                let old = part.column(|rollout| &rollout.values);
                let loss = value_loss(&values, &returns, settings.value_clip.map(|clip| (clip, &old)));
                statistics.add_values(&values, &returns, &loss);
                loss * (settings.value_coefficient * share(part.count()))
            };
        let shares_trunk = self.shares_trunk();
        let own_copies = self.value.is_some_and(|(model, _)| !model.student.shares_copies(self.policy));
        // A separate value model is processed first: activations, or weight copies, of two models are never in memory together.
        if let Some((model, _)) = self.value.filter(|_| !shares_trunk) {
            if own_copies {
                // Leftovers of an attempt that ran out of memory.
                self.policy.release_copies();
            }
            for (rows, last) in portion.each(&parts) {
                let (part, _) = part_of(rows);
                let states = part.states(&model.student, mode);
                last.backward(&value_share(&mut statistics, model, &part, &states));
                model.flush_gradients();
            }
            model.flush_all_gradients();
            if own_copies {
                model.student.release_copies();
            }
        }
        let sharing = self.value.filter(|_| shares_trunk).map(|(model, _)| model);
        for (rows, last) in portion.each(&parts) {
            let (part, advantages) = part_of(rows);
            let states = part.states(self.policy, mode);
            let value = sharing.map(|model| value_share(&mut statistics, model, &part, &states));
            let old_logprobs = part.column(|rollout| &rollout.old_logprobs);
            let policy_loss = |logprobs: &Tensor, start: i64, length: i64| {
                let inputs = PpoInputs {
                    logprobs: logprobs.shallow_clone(),
                    old_logprobs: old_logprobs.narrow(0, start, length),
                    advantages: advantages.narrow(0, start, length),
                    values: None,
                };
                let loss = ppo_loss(&inputs, coefficients);
                statistics.add_policy(&inputs, &loss);
                loss.of_policy * share(length)
            };
            let under = (mode, self.distribution, last);
            let _ = backward_under(self.policy, &states, part.tokens(), under, policy_loss, value);
            if let Some(model) = sharing {
                model.flush_gradients();
            }
        }
        self.policy.flush_all_gradients();
        if let Some(model) = sharing {
            model.flush_all_gradients();
        }
        if own_copies {
            self.policy.release_copies();
        }
        statistics
    }
}

/// log π of each rollout's tokens under the current policy.
///
/// # Errors
/// If not even one rollout fits into memory.
pub fn logprobs_of<R: Row>(
    learner: &Learner<'_>,
    rows: &[&R],
    features: &ImageFeatures,
    together: usize,
    kind: Kind,
) -> Result<Vec<Vec<f32>>> {
    let mode = Mode { train: false, kind };
    let mut all = Vec::with_capacity(rows.len());
    in_batches("log-probabilities", rows, together, |rows| {
        let padded = Padded::new(rows, features, learner.policy);
        let logprobs = no_grad(|| {
            let states = padded.states(learner.policy, mode);
            token_logprobs_under(learner.policy, &states, padded.tokens(), mode, learner.distribution)
        });
        all.extend(split_rows(&logprobs, rows.iter().map(|row| row.target().len())));
        Ok(())
    })?;
    Ok(all)
}

/// Mean of ½ (log ρ)² over the tokens of `rows`: KL(sampling policy ‖ policy) to second order, in nats per token.
///
/// # Errors
/// If not even one rollout fits into memory.
pub fn drift(
    learner: &Learner<'_>,
    rows: &[&ScoredRollout],
    features: &ImageFeatures,
    together: usize,
    kind: Kind,
) -> Result<f64> {
    let now = logprobs_of(learner, rows, features, together, kind)?;
    let old = rows.iter().flat_map(|row| &row.old_logprobs);
    let (mut sum, mut tokens) = (0f64, 0usize);
    for (now, old) in now.iter().flatten().zip(old) {
        let log_ratio = f64::from(*now) - f64::from(*old);
        sum += 0.5 * log_ratio * log_ratio;
        tokens += 1;
    }
    Ok(sum / tokens.max(1) as f64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Student;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::nn::value_head;
    use crate::nn::value_head::ValueHead;
    use crate::objective::loss::PpoLoss;
    use schemas::Settings;
    use tch::Device;

    /// Loss of one minibatch by the formula on whole tensors; its `total` carries the gradient.
    pub(in crate::objective) fn whole_loss(
        learner: &Learner<'_>,
        rollouts: &[&ScoredRollout],
        features: &ImageFeatures,
        settings: &RlSettings,
    ) -> PpoLoss {
        let mode = Mode::EVAL;
        let part = Part::new(rollouts.to_vec(), features, learner.policy);
        let states = part.states(learner.policy, mode);
        let rows: Vec<&[f32]> = rollouts.iter().map(|rollout| rollout.advantages.as_slice()).collect();
        let values = learner.value.map(|(model, _)| {
            let states = part.states(&model.student, mode);
            (model.values(&states, mode), part.column(|rollout| &rollout.returns))
        });
        let inputs = PpoInputs {
            logprobs: token_logprobs_under(
                learner.policy,
                &states,
                part.tokens(),
                mode,
                learner.distribution,
            ),
            old_logprobs: part.column(|rollout| &rollout.old_logprobs),
            advantages: part.real(&learner.advantages(&rows, settings)),
            values,
        };
        let mut loss = ppo_loss(&inputs, Coefficients::of(settings));
        if let (Some(clip), Some((values, returns))) = (settings.value_clip, &inputs.values) {
            let old = part.column(|rollout| &rollout.values);
            loss.value = value_loss(values, returns, Some((clip, &old)));
            loss.total = &loss.of_policy + &loss.value * settings.value_coefficient;
        }
        loss
    }

    pub(in crate::objective) fn rollouts() -> Vec<ScoredRollout> {
        let numbers = |count: usize, salt: usize| -> Vec<f32> {
            (0..count).map(|i| (((i + salt) * 31) as f32).sin()).collect()
        };
        let lengths = [(9, 4), (3, 11), (12, 7), (5, 1), (8, 9)];
        let rollout = |(row, &(source, target)): (usize, &(usize, usize))| ScoredRollout {
            problem_id: row.to_string(),
            source: (0..source).map(|i| (i * 7 + row) as i64 % 60 + 2).collect(),
            tokens: (0..target).map(|i| (i * 5 + row) as i64 % 60 + 2).collect(),
            old_logprobs: vec![-4.2; target],
            advantages: numbers(target, row),
            returns: numbers(target, row + 7),
            values: numbers(target, row + 11),
        };
        lengths.iter().enumerate().map(rollout).collect()
    }

    /// The public code's mean KL includes padding; so would its losses' means if they were not masked.
    #[test]
    fn means_are_over_real_tokens() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let weights = random_weights(&config, 1);
        let policy = Student::new(&weights, &config);
        let learner = Learner {
            policy: &policy,
            policy_weights: &weights,
            value: None,
            distribution: Distribution::FULL,
        };
        let features = ImageFeatures::none(8);
        let settings = RlSettings { whiten: false, ..Settings::default().rl };
        let rollouts = rollouts();
        let numbers = |rollouts: &[&ScoredRollout]| {
            weights.train_only(|_| true);
            let part = Some(u64::MAX); // one padded part is cheapest for so few rows
            let found = learner.backward(rollouts, &features, &settings, Mode::EVAL, part, 1.0);
            let numbers = found.numbers(Coefficients::of(&settings));
            ["kl_to_sampler", "policy_loss", "ratio"].map(|name| {
                numbers.iter().find(|(found, _)| *found == name).map_or(f64::NAN, |(_, value)| *value)
            })
        };
        let together = numbers(&rollouts.iter().collect::<Vec<_>>());
        let tokens: usize = rollouts.iter().map(|rollout| rollout.tokens.len()).sum();
        let mut sums = [0.0; 3];
        for rollout in &rollouts {
            for (sum, number) in sums.iter_mut().zip(numbers(&[rollout])) {
                *sum += number * rollout.tokens.len() as f64 / tokens as f64;
            }
        }
        for (sum, number) in sums.iter().zip(together) {
            assert!((sum - number).abs() < 1e-4 * number.abs().max(1.0), "{sums:?} {together:?}");
        }
    }

    #[test]
    fn what_earned_nothing_against_other_samples_is_not_pushed() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let weights = random_weights(&config, 1);
        let policy = Student::new(&weights, &config);
        let learner = Learner {
            policy: &policy,
            policy_weights: &weights,
            value: None,
            distribution: Distribution::FULL,
        };
        // One problem with equal samples, and one whose samples differ.
        let rows: [&[f32]; 2] = [&[0.0, 0.0, 0.0], &[1.0, 2.0]];
        let nothing = |algorithm, baseline| {
            let whiten_over = WhitenOver::Minibatch;
            let settings =
                RlSettings { algorithm, baseline, whiten: true, whiten_over, ..Settings::default().rl };
            learner.advantages(&rows, &settings).get(0).abs().max().double_value(&[])
        };
        let (others, model) = (BaselineKind::LeaveOneOut, BaselineKind::Model);
        assert_eq!(nothing(Algorithm::Grpo, others), 0.0, "what earned nothing is not pushed");
        assert_eq!(nothing(Algorithm::Ppo, others), 0.0, "nor against the other samples");
        assert!(nothing(Algorithm::Ppo, model) > 0.1);
    }

    fn gradients(weights: &Weights) -> Vec<(String, Tensor)> {
        weights
            .gradients()
            .into_iter()
            .map(|(name, gradient)| (name, gradient.to_kind(Kind::Float).copy()))
            .collect()
    }

    #[test]
    fn pieces_give_the_gradient_of_the_whole() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let rollouts = rollouts();
        let rollouts: Vec<&ScoredRollout> = rollouts.iter().collect();
        let features = ImageFeatures::none(8);
        // Initialized once: libtorch's generator is shared by all threads, so other tests would disturb a second
        // initialization.
        let start = random_weights(&config, 1);
        let mut own_start = random_weights(&config, 2);
        own_start.extend(value_head::random(config.d_model, 3));
        let tempered = Distribution { temperature: 0.7, top_k: 20, top_p: 0.9 };
        let cases = [(false, None), (true, None), (false, Some(0.2)), (true, Some(0.2))];
        let cases = cases.into_iter().map(|(shared, clip)| (shared, clip, Distribution::FULL));
        for (shared, value_clip, distribution) in cases.chain([(false, None, tempered)]) {
            let settings = RlSettings { value_clip, value_coefficient: 0.3, ..Settings::default().rl };
            assert!(settings.kl_penalty > 0.0);
            let run = |whole: bool, budget: Option<u64>| {
                let weights = start.copy_to(Device::Cpu);
                weights.train_only(|_| true);
                let mut own = own_start.copy_to(Device::Cpu);
                if shared {
                    let others =
                        own_start.iter().map(|(name, _)| name).filter(|name| !name.starts_with("v_head."));
                    others.for_each(|name| drop(own.remove(name)));
                }
                own.train_only(|name| name != "lm_head.weight");
                let policy = Student::new(&weights, &config);
                let model = ValueModel {
                    student: Student::new(if shared { &weights } else { &own }, &config),
                    head: ValueHead::new(&own),
                };
                let learner = Learner {
                    policy: &policy,
                    policy_weights: &weights,
                    value: Some((&model, &own)),
                    distribution,
                };
                assert_eq!(learner.shares_trunk(), shared);
                let loss = if whole {
                    let loss = whole_loss(&learner, &rollouts, &features, &settings).total;
                    (&loss * 0.5).backward();
                    loss.double_value(&[])
                } else {
                    let found = learner.backward(&rollouts, &features, &settings, Mode::EVAL, budget, 0.5);
                    found.numbers(Coefficients::of(&settings))[0].1
                };
                (loss, gradients(&weights), gradients(&own))
            };
            let whole = run(true, None);
            for budget in [None, Some(40), Some(1)] {
                let pieces = run(false, budget);
                assert!((whole.0 - pieces.0).abs() < 1e-5, "{shared} {budget:?}: {} {}", whole.0, pieces.0);
                for (expected, found) in [(&whole.1, &pieces.1), (&whole.2, &pieces.2)] {
                    assert_eq!(expected.len(), found.len());
                    for ((name, expected), (_, found)) in expected.iter().zip(found) {
                        let off = (expected - found).abs().max().double_value(&[]);
                        assert!(off < 1e-5, "{shared} {budget:?} {name}: off by {off:e}");
                    }
                }
            }
        }
        assert_eq!(features.batch(&["0"], Device::Cpu).size(), [1, 1, 8]);
    }
}
