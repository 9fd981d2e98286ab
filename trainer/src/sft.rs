//! Supervised fine-tuning: teacher-forced cross-entropy on real target tokens, AdamW, linear decay to 0.

use crate::batch;
use crate::error::{Error, Result};
use crate::metrics::MetricLog;
use crate::optimizer::{AdamW, clip_factor, gradient_norm};
use crate::progress::{Progress, check_interrupt, interrupted};
use crate::resume::StepCheckpoint;
use crate::rollout::logprobs::masked_logprobs;
use crate::seed;
use crate::student::{Mode, Student, Weights};
use crate::vision::ImageFeatures;
use tch::{Kind, Tensor};

/// A source with the target to learn.
#[derive(Debug, Clone)]
pub struct Example {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Target tokens, eos at the end.
    pub target: Vec<i64>,
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
}

/// Mean −log π(target token) over the real tokens of a batch; a scalar with gradient.
pub fn batch_loss(student: &Student, examples: &[&Example], features: &ImageFeatures, mode: Mode) -> Tensor {
    let config = &student.config;
    let device = student.encoder.device();
    let sources: Vec<(&[i64], &str)> =
        examples.iter().map(|example| (example.source.as_slice(), example.problem_id.as_str())).collect();
    let targets: Vec<&[i64]> = examples.iter().map(|example| example.target.as_slice()).collect();
    let lengths: Vec<usize> = targets.iter().map(|target| target.len()).collect();
    let source = batch::source(&sources, features, config.pad_token_id, device);
    let inputs = batch::decoder_inputs(&targets, config.decoder_start_token_id, config.pad_token_id, device);
    let labels = batch::pad(&targets, config.pad_token_id, device);
    let hidden = student.hidden(&source, &inputs, mode);
    -masked_logprobs(student, &hidden, &labels, &batch::mask(&lengths, device), mode).mean(Kind::Float)
}

/// Fine-tunes the weights that require gradients; goes on from `saved` where it was stopped.
///
/// # Errors
/// Where there is nothing to learn from, the loss is not finite, the run is interrupted, or the disk refuses.
pub fn fit(
    student: &Student,
    weights: &Weights,
    examples: &[Example],
    features: &ImageFeatures,
    plan: &Plan,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    if examples.is_empty() {
        let message = format!("{}: expected texts to learn from, found none", plan.stage);
        return Err(Error::BadInput { message, hint: None });
    }
    let batch = plan.batch as usize;
    let steps_per_epoch = examples.len().div_ceil(batch) as u64;
    let total = steps_per_epoch * u64::from(plan.epochs);
    let sets = [("student", weights)];
    let mut optimizer = AdamW::new(plan.weight_decay);
    let first = saved.restore(&sets, &mut optimizer, log)?;
    let mut progress = Progress::new(plan.stage, total);
    let mode = Mode { train: true, kind: plan.kind };
    let mut order = (u64::MAX, Vec::new());
    for step in first..total {
        let epoch = step / steps_per_epoch;
        if order.0 != epoch {
            order = (epoch, seed::order(examples.len(), true, plan.seed, plan.stage, epoch));
        }
        let start = (step % steps_per_epoch) as usize * batch;
        let chosen: Vec<&Example> = order.1[start..(start + batch).min(examples.len())]
            .iter()
            .map(|&index| &examples[index])
            .collect();
        // Dropout is seeded by step, so that a continued run draws what an undisturbed one would.
        seed::seed_torch(plan.seed, plan.stage, &format!("step {step}"));
        let loss = batch_loss(student, &chosen, features, mode);
        let value = loss.double_value(&[]);
        if !value.is_finite() {
            return Err(Error::NotFinite { stage: plan.stage, step, what: "loss", value });
        }
        loss.backward();
        let norm = gradient_norm(&sets);
        if !norm.is_finite() {
            return Err(Error::NotFinite { stage: plan.stage, step, what: "gradient norm", value: norm });
        }
        let rate = plan.learning_rate * (1.0 - step as f64 / total as f64);
        optimizer.step(&sets, rate, clip_factor(norm, plan.max_grad_norm));
        let passes = (step + 1) as f64 / steps_per_epoch as f64;
        log.push(step + 1, passes, [("loss", value), ("gradient_norm", norm), ("learning_rate", rate)]);
        progress.set(step + 1, format!("loss {value:.3}"));
        saved.save(&sets, &optimizer, log, interrupted())?;
        check_interrupt()?;
    }
    Ok(())
}
