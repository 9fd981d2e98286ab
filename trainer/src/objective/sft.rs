//! Supervised fine-tuning: teacher-forced cross-entropy on real target tokens, AdamW, linear decay to 0.

use crate::backend;
use crate::backend::memory::in_batches;
use crate::collective::Group;
use crate::data::batch;
use crate::data::batch::{Padded, Portion, Row};
use crate::data::vision::ImageFeatures;
use crate::error::{Error, Result};
use crate::model::Student;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::rollout::logprobs::{backward_by_positions, token_logprobs};
use crate::seed;
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use crate::train::steps::{Schedule, Training};
use schemas::provenance::sha256_hex;
use tch::{Kind, Tensor};

/// A source with its target.
#[derive(Debug, Clone)]
pub struct Example {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Target tokens, eos at the end.
    pub target: Vec<i64>,
}

impl Row for Example {
    fn problem_id(&self) -> &str {
        &self.problem_id
    }

    fn source(&self) -> &[i64] {
        &self.source
    }

    fn target(&self) -> &[i64] {
        &self.target
    }
}

/// How to fine-tune.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Stage for metrics, messages and seeds.
    pub stage: &'static str,
    /// Passes over the examples.
    pub epochs: u32,
    /// Examples in a step.
    pub batch: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clip of the gradient's norm.
    pub max_grad_norm: Option<f64>,
    /// Seed of order and dropout.
    pub seed: u64,
    /// Number format.
    pub kind: Kind,
    /// Fraction of the steps during which the learning rate rises to its peak.
    pub warmup: f64,
    /// Most tokens in one part of a batch.
    pub max_tokens_per_batch: Option<u64>,
}

impl Plan {
    /// Learning rate of a step: a linear rise over the warm-up, then a linear fall to 0 at the end.
    fn rate(&self, step: u64, total: u64) -> f64 {
        let rising = (self.warmup * total as f64).ceil();
        let step = step as f64;
        if step < rising {
            return self.learning_rate * (step + 1.0) / rising;
        }
        self.learning_rate * (total as f64 - step) / (total as f64 - rising).max(1.0)
    }
}

/// Identity of a fine-tuning's inputs, for its step checkpoint; `chosen` holds settings of the stage that neither the plan nor
/// the examples reflect.
pub(crate) fn identity(fingerprint: &str, plan: &Plan, examples: &[Example], chosen: &str) -> String {
    let tokens: Vec<String> =
        examples.iter().map(|example| sha256_hex(format!("{example:?}").as_bytes())).collect();
    let tokens = sha256_hex(tokens.join("\n").as_bytes());
    sha256_hex(format!("{fingerprint} {plan:?} {chosen} {tokens}").as_bytes())
}

/// The eval metric of checkpoint selection, measured after each pass.
pub struct Choice<'a> {
    /// Its name in the metrics.
    pub name: &'static str,
    /// Whether higher is better.
    pub higher: bool,
    /// Passes without improvement after which training ends.
    pub patience: Option<u32>,
    /// Measures it.
    pub measure: &'a dyn Fn() -> Result<f64>,
}

impl Choice<'_> {
    /// The last measured pass and the best one, counted from 0.
    fn best(&self, log: &MetricLog) -> Option<(u64, u64)> {
        let mut best: Option<(u64, f64)> = None;
        let mut last = 0;
        for row in log.rows().iter().filter(|row| row.name == self.name) {
            last = (row.epoch.round() as u64).saturating_sub(1);
            let is_better = |value: f64| if self.higher { row.value > value } else { row.value < value };
            if row.value.is_finite() && best.is_none_or(|(_, value)| is_better(value)) {
                best = Some((last, row.value));
            }
        }
        best.map(|(pass, _)| (last, pass))
    }

    /// True if enough passes have brought no improvement.
    fn is_over(&self, log: &MetricLog) -> bool {
        let Some((last, best)) = self.best(log) else { return false };
        self.patience.is_some_and(|patience| last - best >= u64::from(patience))
    }
}

/// Mean −log π(target token) of examples, without dropout and gradients; the ranks divide the examples among them.
///
/// # Errors
/// If not even one example fits into memory, or a rank has ended.
pub fn mean_loss(
    student: &Student,
    examples: &[Example],
    features: &ImageFeatures,
    batch: usize,
    kind: Kind,
    group: &Group,
) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0usize);
    let mut order: Vec<&Example> = examples.iter().collect();
    // Similar lengths are batched together to reduce padding.
    order.sort_by_key(|example| example.source.len() + example.target.len());
    let order = group.share(&order, batch);
    let done = in_batches("loss on the val split", &order, batch, |part| {
        let count: usize = part.iter().map(|example| example.target.len()).sum();
        let loss = tch::no_grad(|| batch_loss(student, part, features, Mode { train: false, kind }));
        sum += loss.double_value(&[]) * count as f64;
        tokens += count;
        Ok(())
    });
    group.agree(done)?;
    let shares = group.gather_numbers(&[sum, tokens as f64])?;
    let of_all = |index: usize| shares.iter().map(|share| share[index]).sum::<f64>();
    Ok(of_all(0) / of_all(1).max(1.0))
}

/// Mean −log π(target token) over the real tokens of a batch; a scalar with gradient.
pub fn batch_loss(student: &Student, examples: &[&Example], features: &ImageFeatures, mode: Mode) -> Tensor {
    let padded = Padded::new(examples, features, student);
    let states = padded.states(student, mode);
    -token_logprobs(student, &states, padded.tokens(), mode).mean(Kind::Float)
}

/// Adds the gradients of [`batch_loss`], in parts within the portion's token limit and a few head positions at a time, and
/// returns the loss: the same results in less memory. The portions of all ranks add up to them.
pub fn backward<'a>(
    student: &Student,
    examples: &[&Example],
    features: &ImageFeatures,
    mode: Mode,
    portion: impl Into<Portion<'a>>,
) -> Tensor {
    let (device, portion) = (student.device(), portion.into());
    let lengths = batch::lengths(examples);
    let all: usize = lengths.iter().map(|row| row.target).sum();
    let mut loss = Tensor::zeros([], (Kind::Float, device));
    let parts = batch::parts(&lengths, portion, backend::of(device).part_tokens(mode.kind));
    for (part, last) in portion.each(&parts) {
        let part: Vec<&Example> = part.iter().map(|&row| examples[row]).collect();
        let padded = Padded::new(&part, features, student);
        let states = padded.states(student, mode);
        let share = |logprobs: &Tensor, _, _| logprobs.sum(Kind::Float) * (-1.0 / all as f64);
        loss += backward_by_positions(student, &states, padded.tokens(), (mode, last), share, None);
    }
    student.flush_all_gradients();
    loss
}

/// Fine-tunes the weights that require gradients; continues from `saved` if it was interrupted. With `choice`, ends with the
/// weights of the best pass by its eval metric.
///
/// # Errors
/// If there is nothing to learn from, the loss is not finite, the run is interrupted, or the write fails.
pub fn fit(
    (student, weights): (&Student, &Weights),
    examples: &[Example],
    features: &ImageFeatures,
    plan: &Plan,
    choice: Option<&Choice<'_>>,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    let batch = plan.batch as usize;
    let schedule = Schedule {
        stage: plan.stage,
        passes: plan.epochs,
        batch,
        minibatch: batch,
        shuffle: true,
        by_problem: false,
        seed: plan.seed,
        weight_decay: plan.weight_decay,
        max_grad_norm: plan.max_grad_norm,
        max_tokens: plan.max_tokens_per_batch,
    };
    let sets = [("student", weights)];
    let mut training = Training::begin(schedule, examples, &sets, saved, log)?;
    let (first, total, steps_per_pass) = (training.steps(), training.total(), training.steps_per_pass());
    if first == 0 {
        training.saved().forget_own_best(); // left by a run that was killed before its first position was saved
    }
    let mode = Mode { train: true, kind: plan.kind };
    for step in first.. {
        if let Some(choice) = choice.filter(|_| step > 0 && step % steps_per_pass == 0) {
            end_pass(&mut training, &sets, choice, step / steps_per_pass - 1)?;
            if choice.is_over(training.log()) {
                break;
            }
        }
        if step >= total {
            break;
        }
        let chosen = training.rows(step);
        let place = match training.group().rank() {
            0 => format!("step {step}"),
            rank => format!("step {step} rank {rank}"),
        };
        let loss = training.gradients(&chosen, |portion| {
            // Dropout is seeded by step, so that a continued run draws the same masks as an uninterrupted one.
            seed::seed_torch(plan.seed, plan.stage, &place);
            backward(student, &chosen, features, mode, portion)
        })?;
        let loss = ("loss", loss.double_value(&[]));
        let numbers = training.step(&chosen, loss, plan.rate(step, total))?;
        training.push(step + 1, [loss].into_iter().chain(numbers));
        training.show(step + 1, format!("loss {:.3}", loss.1));
        training.save(false)?;
    }
    if let Some((_, pass)) = choice.and_then(|choice| choice.best(training.log())) {
        training.saved().restore_best(pass, &sets)?;
    }
    Ok(())
}

/// Measures the eval metric of a pass, and saves its weights if it is the best.
fn end_pass(
    training: &mut Training<'_, Example>,
    sets: &[(&str, &Weights)],
    choice: &Choice<'_>,
    pass: u64,
) -> Result<()> {
    if training.log().rows().iter().filter(|row| row.name == choice.name).count() as u64 > pass {
        return Ok(()); // already measured by the interrupted run
    }
    let measured = training.group().agree((choice.measure)());
    if matches!(measured, Err(Error::Interrupted)) {
        training.save(true)?; // the next run first measures this pass
    }
    // All ranks select the same pass, even if their processors round differently.
    let measured = training.group().number_of_first(measured?)?;
    training.push((pass + 1) * training.steps_per_pass(), [(choice.name, measured)]);
    let is_best = choice.best(training.log()) == Some((pass, pass));
    // The weights of a pass are on disk before the position that refers to them.
    if is_best {
        training.saved().save_best(pass, sets)?;
    }
    // An older position refers to the older best pass.
    if training.save(true)? && is_best {
        training.saved().forget_best_but(pass);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::train::optimizer::AdamW;
    use tch::Device;

    #[test]
    fn the_best_pass_counts() {
        let choice = |higher, patience| Choice { name: "val", higher, patience, measure: &|| Ok(0.0) };
        let mut log = MetricLog::new(1, "sft");
        assert_eq!(choice(true, Some(1)).best(&log), None);
        log.push(0, 1.0, [("val", f64::NAN)]);
        assert_eq!(choice(true, None).best(&log), None, "what is no number is not the best");
        for (pass, value) in [(1.0, 0.3), (2.0, 0.1), (3.0, 0.2), (4.0, 0.2)] {
            log.push(0, pass, [("val", value), ("loss", 9.0)]);
        }
        assert_eq!(choice(false, None).best(&log), Some((3, 1)));
        assert_eq!(choice(true, None).best(&log), Some((3, 0)));
        assert!(!choice(false, Some(3)).is_over(&log) && choice(false, Some(2)).is_over(&log));
        assert!(!choice(false, None).is_over(&log));
    }

    fn examples() -> Vec<Example> {
        let tokens =
            |count: usize, salt: usize| (0..count).map(|i| ((i * 7 + salt) % 60 + 2) as i64).collect();
        let lengths = [(9, 4), (30, 11), (12, 7), (5, 1), (8, 9)];
        let example = |(row, &(source, target)): (usize, &(usize, usize))| Example {
            problem_id: row.to_string(),
            source: tokens(source, row),
            target: tokens(target, row + 3),
        };
        lengths.iter().enumerate().map(example).collect()
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
        let examples = examples();
        let examples: Vec<&Example> = examples.iter().collect();
        let features = ImageFeatures::none(8);
        for tied in [false, true] {
            let mut config = StudentConfig::named("tiny", 64, 8).expect("shape");
            config.tie_word_embeddings = tied;
            let start = random_weights(&config, 1);
            let run = |whole: bool, kind: Kind, budget: Option<u64>| {
                let weights = start.copy_to(Device::Cpu);
                weights.train_only(|_| true);
                let student = Student::new(&weights, &config);
                let mode = Mode { train: false, kind };
                let loss = if whole {
                    let loss = batch_loss(&student, &examples, &features, mode);
                    loss.backward();
                    student.flush_gradients();
                    loss
                } else {
                    backward(&student, &examples, &features, mode, budget)
                };
                (loss.double_value(&[]), gradients(&weights))
            };
            let whole = run(true, Kind::Float, None);
            let cases = [
                (false, Kind::Float, None, 1e-5),
                (false, Kind::Float, Some(40), 1e-5),
                (false, Kind::Float, Some(1), 1e-5),
                // bfloat16 has eight bits of mantissa.
                (true, Kind::BFloat16, None, 0.03),
                (false, Kind::BFloat16, Some(40), 0.03),
            ];
            for (at_once, kind, budget, tolerance) in cases {
                let found = run(at_once, kind, budget);
                let case = format!("tied {tied}, {kind:?}, {budget:?}");
                assert!((whole.0 - found.0).abs() < tolerance, "{case}: {} {}", whole.0, found.0);
                assert_eq!(whole.1.len(), found.1.len(), "{case}");
                for ((name, expected), (_, found)) in whole.1.iter().zip(&found.1) {
                    let off = (expected - found).norm() / expected.norm().clamp_min(1e-6);
                    let off = off.double_value(&[]);
                    assert!(off < tolerance.max(1e-4), "{case}, {name}: off by {off:e}");
                }
            }
        }
    }

    #[test]
    fn bfloat16_products_see_each_step() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let (examples, features) = (examples(), ImageFeatures::none(8));
        let examples: Vec<&Example> = examples.iter().collect();
        let weights = random_weights(&config, 1);
        weights.train_only(|name| name.ends_with(".q.weight"));
        let student = Student::new(&weights, &config);
        let mode = Mode { train: false, kind: Kind::BFloat16 };
        let mut optimizer = AdamW::new(0.0);
        let mut losses = Vec::new();
        for _ in 0..3 {
            let _ = backward(&student, &examples, &features, mode, None);
            optimizer.step(&[("student", &weights)], 1e-2, 1.0);
            let anew = weights.copy_to(Device::Cpu);
            let anew = Student::new(&anew, &config);
            let loss = |student: &Student| batch_loss(student, &examples, &features, mode).double_value(&[]);
            assert_eq!(loss(&student), loss(&anew), "copies are as new as the weights");
            losses.push(loss(&student));
        }
        assert!(losses[0] != losses[1] && losses[1] != losses[2], "{losses:?}");
    }

    /// Rates of PyTorch's schedulers, from `tests/reference/make_optimizer_values.py`.
    #[test]
    fn rates_are_those_of_pytorch() {
        #[derive(serde::Deserialize)]
        struct Values {
            schedules: Vec<Rates>,
        }
        #[derive(serde::Deserialize)]
        struct Rates {
            learning_rate: f64,
            warmup: f64,
            rates: Vec<f64>,
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/values/optimizer.json");
        let text = std::fs::read_to_string(path).expect("values");
        let values: Values = serde_json::from_str(&text).expect("values");
        assert!(values.schedules.len() > 3);
        for Rates { learning_rate, warmup, rates } in values.schedules {
            let plan = Plan {
                stage: "sft",
                epochs: 1,
                batch: 1,
                learning_rate,
                weight_decay: 0.0,
                max_grad_norm: None,
                seed: 0,
                kind: Kind::Float,
                warmup,
                max_tokens_per_batch: None,
            };
            for (step, expected) in (0..).zip(&rates) {
                let found = plan.rate(step, rates.len() as u64);
                assert!((found - expected).abs() < 1e-12, "{warmup}, step {step}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn the_loss_on_val_knows_no_dropout() {
        let mut config = StudentConfig::named("tiny", 64, 8).expect("shape");
        config.dropout_rate = 0.5;
        let (examples, features) = (examples(), ImageFeatures::none(8));
        let weights = random_weights(&config, 1);
        let student = Student::new(&weights, &config);
        let losses = [1, 2].map(|seed| {
            tch::manual_seed(seed);
            mean_loss(&student, &examples, &features, 2, Kind::Float, &Group::alone()).expect("a loss")
        });
        assert_eq!(losses[0], losses[1]);
        let (mut sum, mut tokens) = (0.0, 0);
        for example in &examples {
            let loss = batch_loss(&student, &[example], &features, Mode::EVAL).double_value(&[]);
            sum += loss * example.target.len() as f64;
            tokens += example.target.len();
        }
        assert!((losses[0] - sum / tokens as f64).abs() < 1e-5, "{losses:?}");
        let examples: Vec<&Example> = examples.iter().collect();
        let training = Mode { train: true, kind: Kind::Float };
        let with_dropout = batch_loss(&student, &examples, &features, training).double_value(&[]);
        assert!((with_dropout - losses[0]).abs() > 1e-2, "dropout would show: {with_dropout}");
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let plan = |warmup: f64| Plan {
            stage: "sft",
            epochs: 1,
            batch: 1,
            learning_rate: 1.0,
            weight_decay: 0.0,
            max_grad_norm: None,
            seed: 0,
            kind: Kind::Float,
            warmup,
            max_tokens_per_batch: None,
        };
        let rates = |warmup: f64| (0..4).map(|step| plan(warmup).rate(step, 4)).collect::<Vec<_>>();
        assert_eq!(rates(0.0), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(0.5), [0.5, 1.0, 1.0, 0.5]);
        assert_eq!(rates(1.0), [0.25, 0.5, 0.75, 1.0]);
    }
}
