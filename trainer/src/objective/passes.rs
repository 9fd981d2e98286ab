//! Passes over the rows of an objective: order, accumulation, optimizer steps, and stopping.

use super::Objective;
use super::advice::Adviser;
use super::loss::Coefficients;
use super::plan::Plan;
use super::statistics::Statistics;
use crate::backend::memory::unless_out_of_memory;
use crate::error::Result;
use crate::nn::weights::Weights;
use crate::train::metrics::MetricLog;
use crate::train::optimizer::zero_gradients;
use crate::train::resume::StepCheckpoint;
use crate::train::steps::{Training, no_room};
use tch::{Device, Tensor, no_grad};

/// KL to the sampling policy, in nats per token, above which advice is given if `rl.max_kl` sets no bound.
const USUAL_KL_BOUND: f64 = 0.1;

/// Why training ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// All passes were run.
    Complete,
    /// There were no rows to learn from.
    NothingToLearn,
    /// The next step would have exceeded `rl.max_kl`.
    AtKlBound {
        /// Steps taken.
        steps: u64,
        /// Steps planned.
        of: u64,
        /// KL after the step that was undone, in nats per token.
        kl: f64,
    },
}

/// Runs all passes; continues from `saved` if it was interrupted. Dropout is off, as in the public code.
///
/// With `rl.max_kl`, the KL after a step is known when the next step's rows have run through the policy, before that step is
/// taken. Above the bound, the previous step is undone, and training ends; so the final policy is within the bound, as measured
/// on the rows of one step.
///
/// # Errors
/// If the loss is not finite, the run is interrupted, or the write fails.
pub fn train<O: Objective>(
    objective: &O,
    plan: &Plan<'_>,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<End> {
    if objective.rows().is_empty() {
        return Ok(End::NothingToLearn);
    }
    let settings = plan.settings;
    let schedule = plan.schedule("rl", settings.passes);
    let sets = objective.sets();
    let mut training = Training::begin(schedule, objective.rows(), &sets, saved, log)?;
    let (first, total) = (training.steps(), training.total());
    let max_kl = settings.max_kl.filter(|bound| *bound > 0.0);
    let kl_bound = max_kl.unwrap_or(USUAL_KL_BOUND);
    let coefficients = Coefficients::of(settings);
    let mut adviser = Adviser::after(training.log().rows(), kl_bound);
    let mut before: Option<Snapshot> = None;
    let device =
        sets.iter().flat_map(|(_, weights)| weights.iter()).map(|(_, weight)| weight.device()).next();
    let device = device.unwrap_or(Device::Cpu);
    let mut last = Vec::new();
    for step in first..total {
        let chosen = training.rows(step);
        let minibatches = chosen.chunks(schedule.minibatch);
        let share = 1.0 / minibatches.len() as f64;
        let statistics = training.gradients(&chosen, |portion| {
            let mut statistics = Statistics::new(device);
            for (number, rows) in minibatches.clone().enumerate() {
                let portion = portion.of_minibatch(number + 1 == minibatches.len());
                statistics.add(&objective.backward(rows, portion, share));
            }
            statistics
        })?;
        let mut numbers = statistics.numbers(coefficients);
        let of = |numbers: &[(&str, f64)], name: &str| {
            numbers.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
        };
        let kl = of(&numbers, "drift");
        if let (Some(bound), Some(kl), Some(before)) = (max_kl, kl, &before)
            && kl > bound
        {
            zero_gradients(&sets);
            return Ok(undo(&mut training, before, &sets, kl));
        }
        if step > first {
            // The last step is kept.
            training.save(false)?;
        }
        if max_kl.is_some() {
            let taken = before.get_or_insert_with(Snapshot::default).take(&sets);
            taken.ok_or_else(|| {
                no_room("rl", "copying the weights for rl.max_kl (rl.max_kl = 0 needs no copy)")
            })?;
        }
        let loss = numbers[0].1;
        let rate = plan.rate(settings.learning_rate, step, total);
        numbers.extend(training.step(&chosen, ("loss", loss), rate)?);
        for line in adviser.lines(numbers.iter().copied(), kl_bound) {
            schemas::warn!("rl, step {}: {line}", training.steps());
        }
        training.push(step + 1, numbers.iter().copied());
        let remark = kl.map_or(String::new(), |kl| format!(", kl {kl:.4}"));
        training.show(step + 1, format!("loss {loss:.3}{remark}"));
        last = chosen;
    }
    if let (Some(bound), Some(before)) = (max_kl, &before)
        && let Some(kl) = training.group().agree(objective.drift(&last))?
    {
        let kl = training.group().number_of_first(kl)?;
        if kl > bound {
            return Ok(undo(&mut training, before, &sets, kl));
        }
    }
    Ok(End::Complete)
}

/// Undoes the last step.
fn undo<R: crate::data::batch::Row>(
    training: &mut Training<'_, R>,
    before: &Snapshot,
    sets: &[(&'static str, &Weights)],
    kl: f64,
) -> End {
    before.restore(sets);
    let (steps, of) = (training.steps() - 1, training.total());
    training.push(steps + 1, [("stopped_at_kl", kl)]);
    schemas::warn!(
        "rl, step {}: KL {kl:.4} is above rl.max_kl: this step is undone, and training ends after {steps} of {}",
        steps + 1,
        schemas::number::counted(of, "step")
    );
    End::AtKlBound { steps, of, kl }
}

/// A copy of the weights that are trained.
#[derive(Debug, Default)]
struct Snapshot {
    copies: Vec<Tensor>,
}

impl Snapshot {
    fn trained<'a>(sets: &'a [(&'static str, &Weights)]) -> impl Iterator<Item = &'a Tensor> {
        let all = sets.iter().flat_map(|(_, weights)| weights.iter());
        all.map(|(_, weight)| weight).filter(|weight| weight.requires_grad())
    }

    /// Copies the weights, into the memory of an older copy if there is one, else next to the weights or, without room there,
    /// into main memory. `None` if there is no room there either.
    fn take(&mut self, sets: &[(&'static str, &Weights)]) -> Option<()> {
        if !self.copies.is_empty() {
            return unless_out_of_memory(|| {
                no_grad(|| {
                    for (copy, weight) in self.copies.iter_mut().zip(Self::trained(sets)) {
                        copy.copy_(&weight.detach());
                    }
                });
            });
        }
        let copies_on = |device: Option<Device>| {
            let copy = |weight: &Tensor| {
                let mut copy =
                    Tensor::empty(weight.size(), (weight.kind(), device.unwrap_or(weight.device())));
                copy.copy_(&weight.detach());
                copy
            };
            unless_out_of_memory(|| no_grad(|| Self::trained(sets).map(copy).collect::<Vec<_>>()))
        };
        self.copies = match copies_on(None) {
            Some(copies) => copies,
            None => {
                let copies = copies_on(Some(Device::Cpu))?;
                schemas::warn!(
                    "rl: not enough device memory for the copy of the weights that rl.max_kl needs; keeping it in main memory"
                );
                copies
            }
        };
        Some(())
    }

    /// Restores the weights.
    fn restore(&self, sets: &[(&'static str, &Weights)]) {
        no_grad(|| {
            for (copy, weight) in self.copies.iter().zip(Self::trained(sets)) {
                weight.detach().copy_(copy);
            }
        });
        sets.iter().for_each(|(_, weights)| weights.copies().refresh());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Portion;
    use crate::data::vision::ImageFeatures;
    use crate::model::Student;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::nn::mode::Mode;
    use crate::objective::ppo::Learner;
    use crate::objective::ppo::tests::{rollouts, whole_loss};
    use crate::objective::rows::ScoredRollout;
    use crate::rollout::distribution::Distribution;
    use crate::train::optimizer::AdamW;
    use schemas::Settings;
    use schemas::settings::{Algorithm, RateSchedule, RlSettings};
    use std::collections::BTreeMap;
    use std::time::Duration;
    use tch::Kind;

    /// Rows that need no preparation.
    struct Ready<'a> {
        learner: Learner<'a>,
        rows: Vec<ScoredRollout>,
        features: &'a ImageFeatures,
        settings: &'a RlSettings,
    }

    impl Objective for Ready<'_> {
        type Row = ScoredRollout;

        fn prepare(&mut self) -> Result<()> {
            Ok(())
        }

        fn rows(&self) -> &[ScoredRollout] {
            &self.rows
        }

        fn sets(&self) -> Vec<(&'static str, &Weights)> {
            vec![("policy", self.learner.policy_weights)]
        }

        fn backward(&self, rows: &[&ScoredRollout], portion: Portion<'_>, share: f64) -> Statistics {
            self.learner.backward(rows, self.features, self.settings, Mode::EVAL, portion, share)
        }

        fn drift(&self, rows: &[&ScoredRollout]) -> Result<Option<f64>> {
            crate::objective::ppo::drift(&self.learner, rows, self.features, 8, Kind::Float).map(Some)
        }
    }

    fn learner<'a>(policy: &'a Student, weights: &'a Weights) -> Learner<'a> {
        Learner { policy, policy_weights: weights, value: None, distribution: Distribution::FULL }
    }

    /// Such a weight is one number in memory, and its copy would be all of them.
    #[test]
    fn a_copy_without_room_is_an_error() {
        let wide = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([1 << 45], false);
        let weights = Weights::new(BTreeMap::from([("wide".to_owned(), wide)]));
        weights.train();
        assert!(Snapshot::default().take(&[("policy", &weights)]).is_none());
    }

    #[test]
    fn the_last_copy_is_restored() {
        let weights = Weights::new(BTreeMap::from([("w".to_owned(), Tensor::from_slice(&[1f32, 2.0]))]));
        weights.train();
        let sets = [("policy", &weights)];
        let mut before = Snapshot::default();
        for expected in [[1f32, 2.0], [2.0, 4.0]] {
            assert!(before.take(&sets).is_some());
            no_grad(|| weights.get("w").detach().copy_(&(weights.get("w") * 2.0)));
            before.restore(&sets);
            assert_eq!(Vec::<f32>::try_from(weights.get("w").detach()).expect("numbers"), expected);
            no_grad(|| weights.get("w").detach().copy_(&(weights.get("w") * 2.0)));
        }
    }

    /// Steps of two minibatches of two rollouts; with five rollouts, the last is a step of its own. The public code would fill
    /// up that step with the first rollouts.
    #[test]
    fn the_last_batch_is_as_small_as_what_is_left() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let start = random_weights(&config, 1);
        let features = ImageFeatures::none(8);
        let rollouts = rollouts();
        let settings = RlSettings {
            algorithm: Algorithm::Grpo,
            passes: 1,
            minibatch: 2,
            accumulation: 2,
            learning_rate: 1e-2,
            schedule: RateSchedule::Constant,
            max_grad_norm: None,
            max_kl: None,
            shuffle: false,
            ..Settings::default().rl
        };
        let weights = start.copy_to(Device::Cpu);
        weights.train_only(|_| true);
        let policy = Student::new(&weights, &config);
        let ready = Ready {
            learner: learner(&policy, &weights),
            rows: rollouts.clone(),
            features: &features,
            settings: &settings,
        };
        let folder = tempfile::tempdir().expect("folder");
        let mut saved = StepCheckpoint::new(&folder.path().join("rl"), "id".into(), Duration::MAX);
        let mut log = MetricLog::new(1, "rl");
        let plan = Plan { settings: &settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
        let end = train(&ready, &plan, &mut saved, &mut log).expect("trained");
        assert_eq!(end, End::Complete);
        let lengths: Vec<f64> =
            log.rows().iter().filter(|row| row.name == "length").map(|row| row.value).collect();
        assert_eq!(lengths, [(4 + 11 + 7 + 1) as f64 / 4.0, 9.0]);

        let expected = start.copy_to(Device::Cpu);
        expected.train_only(|_| true);
        let policy = Student::new(&expected, &config);
        let learner = learner(&policy, &expected);
        let mut optimizer = AdamW::new(settings.weight_decay);
        let steps: [&[&[usize]]; 2] = [&[&[0, 1], &[2, 3]], &[&[4]]];
        for minibatches in steps {
            for rows in minibatches {
                let chosen: Vec<&ScoredRollout> = rows.iter().map(|&row| &rollouts[row]).collect();
                let loss = whole_loss(&learner, &chosen, &features, &settings).total;
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

    /// All rows are in each step, so that the KL is that of the policy; it must be within the bound at the end, for any bound,
    /// even if only the last step exceeds it.
    #[test]
    fn the_policy_does_not_end_beyond_the_bound() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let start = random_weights(&config, 1);
        let features = ImageFeatures::none(8);
        let run = |max_kl: f64, passes: u32| {
            let settings = RlSettings {
                passes,
                minibatch: 8,
                accumulation: 1,
                learning_rate: 2e-5,
                max_kl: Some(max_kl),
                schedule: RateSchedule::Constant,
                ..Settings::default().rl
            };
            let weights = start.copy_to(Device::Cpu);
            weights.train_only(|_| true);
            let policy = Student::new(&weights, &config);
            let learner = learner(&policy, &weights);
            let mut rows = rollouts();
            let all: Vec<&ScoredRollout> = rows.iter().collect();
            let now = crate::objective::ppo::logprobs_of(&learner, &all, &features, 8, Kind::Float);
            for (row, now) in rows.iter_mut().zip(now.expect("fits")) {
                row.old_logprobs = now;
            }
            let ready = Ready { learner, rows, features: &features, settings: &settings };
            let folder = tempfile::tempdir().expect("folder");
            let mut saved = StepCheckpoint::new(&folder.path().join("rl"), "id".into(), Duration::MAX);
            let mut log = MetricLog::new(1, "rl");
            let plan = Plan { settings: &settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
            let end = train(&ready, &plan, &mut saved, &mut log).expect("trained");
            let all: Vec<&ScoredRollout> = ready.rows.iter().collect();
            let kl = ready.drift(&all).expect("fits").expect("samples");
            let gradients = weights.gradients();
            let left = gradients.values().map(|gradient| gradient.abs().max().double_value(&[]));
            (end, kl, left.fold(0.0, f64::max))
        };
        let (end, free, _) = run(0.0, 12);
        assert_eq!(end, End::Complete);
        let mut ended = Vec::new();
        for share in [0.9, 0.5, 0.1] {
            let (end, kl, gradient) = run(share * free, 12);
            assert!(matches!(end, End::AtKlBound { of: 12, .. }), "{end:?}");
            assert!(kl <= share * free, "{kl} beyond {}", share * free);
            assert_eq!(gradient, 0.0);
            ended.push(kl);
        }
        assert!(ended[0] > 0.0, "steps within the bound stand: {ended:?}");
        // The KL of the first step is only seen after the last one.
        let (end, kl, _) = run(1e-9, 1);
        assert!(matches!(end, End::AtKlBound { steps: 0, of: 1, .. }), "{end:?}");
        assert_eq!(kl, 0.0);
    }
}
