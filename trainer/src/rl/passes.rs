//! Passes over the round's scored rollouts: order, accumulation, optimizer steps, what ends a pass.

use super::advice::Adviser;
use super::ppo::Learner;
use super::scored::ScoredRollout;
use super::statistics::Statistics;
use crate::error::Result;
use crate::metrics::MetricLog;
use crate::resume::StepCheckpoint;
use crate::student::Mode;
use crate::training::{Schedule, Training};
use crate::vision::ImageFeatures;
use schemas::Metric;
use schemas::settings::RlSettings;
use tch::Kind;

/// KL to the sampling policy, in nats per token, above which advice is given where `rl.max_kl` names no bound.
const USUAL_KL_BOUND: f64 = 0.1;

/// How to run the passes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Settings.
    pub settings: &'a RlSettings,
    /// Seed of the order.
    pub seed: u64,
    /// Number format of matrix products.
    pub kind: Kind,
    /// Most tokens in one part of a minibatch.
    pub max_tokens_per_batch: Option<u64>,
}

impl Plan<'_> {
    pub(super) fn schedule(&self, stage: &'static str, passes: u32) -> Schedule {
        let minibatch = self.settings.minibatch as usize;
        Schedule {
            stage,
            passes,
            batch: minibatch * self.settings.accumulation as usize,
            minibatch,
            shuffle: self.settings.shuffle,
            seed: self.seed,
            weight_decay: self.settings.weight_decay,
            max_grad_norm: self.settings.max_grad_norm,
            max_tokens: self.max_tokens_per_batch,
        }
    }
}

/// Runs all passes; continues from `saved` if it was interrupted. Dropout is off, as in the public code.
///
/// # Errors
/// If the loss is not finite, the run is interrupted, or the write fails.
pub fn train(
    learner: &Learner<'_>,
    rollouts: &[ScoredRollout],
    features: &ImageFeatures,
    plan: &Plan<'_>,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    let settings = plan.settings;
    let schedule = plan.schedule("rl", settings.passes);
    let mut sets = vec![("policy", learner.policy_weights)];
    sets.extend(learner.value.map(|(_, weights)| ("value", weights)));
    let mut training = Training::begin(schedule, rollouts, &sets, saved, log)?;
    let (total, steps_per_pass) = (training.total(), training.steps_per_pass());
    let mut place = place_after(training.log().rows(), steps_per_pass, settings.max_kl);
    let mode = Mode { train: false, kind: plan.kind };
    let device = learner.policy.encoder.device();
    let kl_bound = settings.max_kl.unwrap_or(USUAL_KL_BOUND);
    let mut adviser = Adviser::after(training.log().rows(), kl_bound);
    while place < total {
        let chosen = training.rows(place);
        let minibatches = chosen.chunks(schedule.minibatch);
        let share = 1.0 / minibatches.len() as f64;
        let statistics = training.gradients(&chosen, |budget| {
            let mut statistics = Statistics::new(device);
            for rollouts in minibatches.clone() {
                statistics.add(&learner.backward(rollouts, features, settings, mode, budget, share));
            }
            statistics
        })?;
        let mut numbers = statistics.numbers(settings.value_coefficient);
        let loss = numbers[0].1;
        numbers.extend(training.step(&chosen, ("loss", loss), settings.learning_rate)?);
        for line in adviser.lines(numbers.iter().copied(), kl_bound) {
            schemas::warn!("rl, step {}: {line}", training.steps());
        }
        training.push(place + 1, numbers.iter().copied());
        let kl = numbers.iter().find(|(name, _)| *name == "kl_to_sampler").map_or(0.0, |(_, kl)| *kl);
        let next = next_place(place, kl, steps_per_pass, settings.max_kl);
        if next > place + 1 {
            schemas::warn!(
                "rl, step {}: KL {kl:.4} is above rl.max_kl: this pass ends {} steps early",
                training.steps(),
                next - place - 1
            );
        }
        place = next;
        training.show(place, format!("loss {loss:.3}, kl {kl:.4}"));
        training.save(false)?;
    }
    Ok(())
}

/// The place after a step at `place`: the next one, or the beginning of the next pass where the KL passed its bound.
fn next_place(place: u64, kl: f64, steps_per_pass: u64, max_kl: Option<f64>) -> u64 {
    if max_kl.is_some_and(|bound| kl > bound) {
        (place / steps_per_pass + 1) * steps_per_pass
    } else {
        place + 1
    }
}

/// Position of a continued run: passes that ended early are found in the saved metrics.
fn place_after(rows: &[Metric], steps_per_pass: u64, max_kl: Option<f64>) -> u64 {
    let kls = rows.iter().filter(|row| row.name == "kl_to_sampler");
    kls.fold(0, |place, row| next_place(place, row.value, steps_per_pass, max_kl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::AdamW;
    use crate::rl::ppo::tests::rollouts;
    use crate::student::{Student, StudentConfig, Weights};
    use schemas::Settings;
    use schemas::settings::Algorithm;
    use std::time::Duration;
    use tch::Device;

    #[test]
    fn a_pass_ends_where_the_kl_passes_its_bound() {
        assert_eq!(next_place(3, 0.5, 10, None), 4);
        assert_eq!(next_place(3, 0.5, 10, Some(0.4)), 10);
        assert_eq!(next_place(9, 0.5, 10, Some(0.4)), 10);
        assert_eq!(next_place(10, 0.1, 10, Some(0.4)), 11);
        let mut log = MetricLog::new(1, "rl");
        for kl in [0.1, 0.5, 0.1] {
            log.push(0, 0.0, [("kl_to_sampler", kl), ("loss", 9.0)]);
        }
        assert_eq!(place_after(log.rows(), 10, Some(0.4)), 11);
        assert_eq!(place_after(log.rows(), 10, None), 3);
    }

    /// Steps of two minibatches of two rollouts; of five rollouts the last is a step of its own. The public code would fill
    /// that step up with the first rollouts.
    #[test]
    fn the_last_batch_is_as_small_as_what_is_left() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let start = Weights::random(&config, 1);
        let features = ImageFeatures::none(8);
        let rollouts = rollouts();
        let settings = RlSettings {
            algorithm: Algorithm::Grpo,
            passes: 1,
            minibatch: 2,
            accumulation: 2,
            learning_rate: 1e-2,
            shuffle: false,
            ..Settings::default().rl
        };
        let weights = start.copy_to(Device::Cpu);
        weights.train_only(|_| true);
        let policy = Student::new(&weights, &config);
        let learner = Learner { policy: &policy, policy_weights: &weights, value: None };
        let folder = tempfile::tempdir().expect("folder");
        let mut saved = StepCheckpoint::new(&folder.path().join("rl"), "id".into(), Duration::MAX);
        let mut log = MetricLog::new(1, "rl");
        let plan = Plan { settings: &settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
        train(&learner, &rollouts, &features, &plan, &mut saved, &mut log).expect("trained");
        let lengths: Vec<f64> =
            log.rows().iter().filter(|row| row.name == "length").map(|row| row.value).collect();
        assert_eq!(lengths, [(4 + 11 + 7 + 1) as f64 / 4.0, 9.0]);

        let expected = start.copy_to(Device::Cpu);
        expected.train_only(|_| true);
        let policy = Student::new(&expected, &config);
        let learner = Learner { policy: &policy, policy_weights: &expected, value: None };
        let mut optimizer = AdamW::new(settings.weight_decay);
        let steps: [&[&[usize]]; 2] = [&[&[0, 1], &[2, 3]], &[&[4]]];
        for minibatches in steps {
            for rows in minibatches {
                let chosen: Vec<&ScoredRollout> = rows.iter().map(|&row| &rollouts[row]).collect();
                let loss = learner.loss(&chosen, &features, &settings, Mode::EVAL).total;
                (loss / minibatches.len() as f64).backward();
            }
            optimizer.step(&[("policy", &expected)], settings.learning_rate, 1.0);
        }
        let mut moved = 0.0f64;
        for (name, weight) in weights.iter() {
            let expected = expected.find(name).expect("the same names");
            let off = (weight - expected).abs().max().double_value(&[]);
            assert!(off < 2e-4, "{name}: off by {off:e}");
            moved = moved.max((expected - start.get(name)).abs().max().double_value(&[]));
        }
        assert!(moved > 1e-2, "{moved}");
    }
}
