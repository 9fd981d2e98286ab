//! Passes over the round's scored rollouts: minibatches, accumulation, optimizer steps.

use super::loss::{PpoInputs, ppo_loss};
use crate::batch;
use crate::error::{Error, Result};
use crate::metrics::MetricLog;
use crate::optimizer::{AdamW, clip_factor, gradient_norm};
use crate::progress::{Progress, check_interrupt, interrupted};
use crate::resume::StepCheckpoint;
use crate::rl::advantage::whiten;
use crate::rollout::logprobs::{ValueModel, masked_logprobs};
use crate::seed;
use crate::student::{Mode, Student, Weights};
use crate::vision::ImageFeatures;
use schemas::settings::RlSettings;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// A scored rollout, ready to learn from.
#[derive(Debug, Clone)]
pub struct ScoredRollout {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Sampled tokens.
    pub tokens: Vec<i64>,
    /// log π(token) of the policy that sampled.
    pub old_logprobs: Vec<f32>,
    /// A_t.
    pub advantages: Vec<f32>,
    /// R_t; empty for algorithms without a value model.
    pub returns: Vec<f32>,
}

/// Policy, value model and their weights.
#[derive(Debug)]
pub struct Learner<'a> {
    /// The student that learns.
    pub policy: &'a Student,
    /// Its weights.
    pub policy_weights: &'a Weights,
    /// The value model and its weights; none for algorithms without one.
    pub value: Option<(&'a ValueModel, &'a Weights)>,
}

impl Learner<'_> {
    /// Loss of one minibatch; its `total` carries the gradient.
    pub fn loss(
        &self,
        rollouts: &[&ScoredRollout],
        features: &ImageFeatures,
        settings: &RlSettings,
        mode: Mode,
    ) -> super::loss::PpoLoss {
        let config = &self.policy.config;
        let device = self.policy.encoder.device();
        let sources: Vec<(&[i64], &str)> =
            rollouts.iter().map(|rollout| (rollout.source.as_slice(), rollout.problem_id.as_str())).collect();
        let tokens: Vec<&[i64]> = rollouts.iter().map(|rollout| rollout.tokens.as_slice()).collect();
        let lengths: Vec<usize> = tokens.iter().map(|tokens| tokens.len()).collect();
        let source = batch::source(&sources, features, config.pad_token_id, device);
        let inputs =
            batch::decoder_inputs(&tokens, config.decoder_start_token_id, config.pad_token_id, device);
        let labels = batch::pad(&tokens, config.pad_token_id, device);
        let mask = batch::mask(&lengths, device);
        let kept = mask.view(-1).nonzero().squeeze_dim(-1);
        let real = |tensor: &Tensor| tensor.contiguous().view(-1).index_select(0, &kept);
        let column = |numbers: fn(&ScoredRollout) -> &[f32]| {
            let rows: Vec<&[f32]> = rollouts.iter().map(|rollout| numbers(rollout)).collect();
            batch::pad_numbers(&rows, device)
        };

        let hidden = self.policy.hidden(&source, &inputs, mode);
        let logprobs = masked_logprobs(self.policy, &hidden, &labels, &mask, mode);
        let mut advantages = column(|rollout| &rollout.advantages);
        if settings.whiten {
            advantages = whiten(&advantages, &mask);
        }
        let values = self.value.map(|(model, _)| {
            let hidden = model.student.hidden(&source, &inputs, mode);
            (real(&model.values(&hidden, mode)), real(&column(|rollout| &rollout.returns)))
        });
        let inputs = PpoInputs {
            logprobs,
            old_logprobs: real(&column(|rollout| &rollout.old_logprobs)),
            advantages: real(&advantages),
            values,
        };
        ppo_loss(&inputs, settings.clip, settings.value_coefficient)
    }
}

/// Runs all passes; goes on from `saved` where it was stopped. Dropout is off, as in the public code.
///
/// # Errors
/// Where the loss is not finite, the run is interrupted, or the disk refuses.
#[allow(clippy::too_many_arguments)] // each is a thing of its own; one caller
pub fn train(
    learner: &Learner<'_>,
    rollouts: &[ScoredRollout],
    features: &ImageFeatures,
    settings: &RlSettings,
    seed: u64,
    kind: Kind,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    let minibatch = settings.minibatch as usize;
    let per_step = minibatch * settings.accumulation as usize;
    let steps_per_pass = rollouts.len().div_ceil(per_step) as u64;
    let total = steps_per_pass * u64::from(settings.passes);
    let mut sets = vec![("policy", learner.policy_weights)];
    sets.extend(learner.value.map(|(_, weights)| ("value", weights)));
    let mut optimizer = AdamW::new(settings.weight_decay);
    let first = saved.restore(&sets, &mut optimizer, log)?;
    let mut progress = Progress::new("rl", total);
    let mode = Mode { train: false, kind };
    let mut order = (u64::MAX, Vec::new());
    for step in first..total {
        let pass = step / steps_per_pass;
        if order.0 != pass {
            order = (pass, seed::order(rollouts.len(), settings.shuffle, seed, "rl", pass));
        }
        let start = (step % steps_per_pass) as usize * per_step;
        let chosen = &order.1[start..(start + per_step).min(rollouts.len())];
        let minibatches = chosen.chunks(minibatch);
        let count = minibatches.len() as f64;
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for indices in minibatches {
            let rollouts: Vec<&ScoredRollout> = indices.iter().map(|&index| &rollouts[index]).collect();
            let loss = learner.loss(&rollouts, features, settings, mode);
            (&loss.total / count).backward();
            for (name, value) in [
                ("loss", &loss.total),
                ("policy_loss", &loss.policy),
                ("value_loss", &loss.value),
                ("clip_fraction", &loss.clip_fraction),
                ("kl_to_sampler", &loss.kl),
                ("ratio", &loss.ratio),
            ] {
                *sums.entry(name).or_default() += value.double_value(&[]) / count;
            }
        }
        let value = sums["loss"];
        if !value.is_finite() {
            return Err(Error::NotFinite { stage: "rl", step, what: "loss", value });
        }
        let norm = gradient_norm(&sets);
        if !norm.is_finite() {
            return Err(Error::NotFinite { stage: "rl", step, what: "gradient norm", value: norm });
        }
        optimizer.step(&sets, settings.learning_rate, clip_factor(norm, settings.max_grad_norm));
        let passes = (step + 1) as f64 / steps_per_pass as f64;
        log.push(
            step + 1,
            passes,
            sums.iter().map(|(name, value)| (*name, *value)).chain([("gradient_norm", norm)]),
        );
        progress.set(step + 1, format!("loss {value:.3}, kl {:.4}", sums["kl_to_sampler"]));
        saved.save(&sets, &optimizer, log, interrupted())?;
        check_interrupt()?;
    }
    Ok(())
}
