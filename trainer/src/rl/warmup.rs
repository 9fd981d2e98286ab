//! Passes in which only the value model learns, before the policy does.
//!
//! Rollouts are sampled before there is a value model that has learned anything, so the values stored with them are as
//! random as its head. Advantages are then returns without a baseline: tokens with more sentences to come look good, the
//! end of a text looks bad, and texts grow. A value model that was fitted to the round's own returns takes that away
//! (value pretraining, as in Yuan et al., 2025, for long texts).

use super::loss::value_loss;
use super::part::Part;
use super::passes::{Plan, smaller_budget};
use super::ppo::{Learner, ScoredRollout, named};
use super::statistics::Statistics;
use crate::batch;
use crate::error::Result;
use crate::memory::{in_batches, unless_out_of_memory};
use crate::metrics::MetricLog;
use crate::optimizer::{AdamW, clip_factor, gradient_norm, zero_gradients};
use crate::progress::{Progress, check_interrupt, interrupted};
use crate::resume::StepCheckpoint;
use crate::seed;
use crate::student::Mode;
use crate::vision::ImageFeatures;
use tch::{Kind, Tensor, no_grad};

/// Fits the value model to the returns of `rollouts`; goes on from `saved` where it was stopped. A value head that
/// stands on the policy learns alone, so that the policy stays as it was.
///
/// # Errors
/// Where the loss is not finite, the run is interrupted, or the disk refuses.
pub fn fit_values(
    learner: &Learner<'_>,
    rollouts: &[ScoredRollout],
    features: &ImageFeatures,
    plan: &Plan<'_>,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    let Some((_, weights)) = learner.value else { return Ok(()) };
    let settings = plan.settings;
    let per_step = settings.minibatch as usize * settings.accumulation as usize;
    let steps_per_pass = rollouts.len().div_ceil(per_step) as u64;
    let total = steps_per_pass * u64::from(settings.value_passes);
    let sets = [("value", weights)];
    let mut optimizer = AdamW::new(settings.weight_decay);
    let first = saved.restore(&sets, &mut optimizer, log)?;
    let mut progress = Progress::new("rl, values", total);
    let mode = Mode { train: false, kind: plan.kind };
    let mut order = (u64::MAX, Vec::new());
    let mut budget = plan.max_tokens_per_batch;
    for step in first..total {
        let pass = step / steps_per_pass;
        if order.0 != pass {
            order = (pass, seed::order(rollouts.len(), settings.shuffle, plan.seed, "rl values", pass));
        }
        let start = (step % steps_per_pass) as usize * per_step;
        let chosen: Vec<&ScoredRollout> = order.1[start..(start + per_step).min(rollouts.len())]
            .iter()
            .map(|&index| &rollouts[index])
            .collect();
        let tokens: usize = chosen.iter().map(|rollout| rollout.tokens.len()).sum();
        let statistics = loop {
            let gradients = || gradients(learner, &chosen, features, plan, mode, budget);
            match unless_out_of_memory(gradients) {
                Some(statistics) => break statistics,
                None => {
                    zero_gradients(&sets);
                    budget = Some(smaller_budget(budget, &chosen, plan.settings.minibatch as usize)?);
                }
            }
        };
        let (loss, explained) = statistics.of_values(tokens);
        let norm = gradient_norm(&sets);
        if let Some(wrong) =
            [("value loss", loss), ("gradient norm", norm)].into_iter().find(|(_, value)| !value.is_finite())
        {
            return Err(saved.not_finite(("rl", step), wrong, &named(&chosen)));
        }
        optimizer.step(&sets, settings.value_learning_rate, clip_factor(norm, settings.max_grad_norm));
        let numbers = [("warmup_value_loss", loss), ("warmup_explained_variance", explained)];
        // Returns that are all alike have no variance to explain.
        let numbers = numbers.into_iter().filter(|(_, value)| value.is_finite());
        log.push(step + 1, (step + 1) as f64 / steps_per_pass as f64, numbers);
        progress.set(step + 1, format!("value loss {loss:.3}, explained variance {explained:.2}"));
        // The last place stays until the stage is done: the policy's passes start from it however often they are stopped.
        saved.save(&sets, &optimizer, log, interrupted() || step + 1 == total)?;
        check_interrupt()?;
    }
    Ok(())
}

/// Adds the gradients of one step's value loss, a mean over the tokens of `chosen`.
fn gradients(
    learner: &Learner<'_>,
    chosen: &[&ScoredRollout],
    features: &ImageFeatures,
    plan: &Plan<'_>,
    mode: Mode,
    budget: Option<u64>,
) -> Statistics {
    let device = learner.policy.encoder.device();
    let tokens: usize = chosen.iter().map(|rollout| rollout.tokens.len()).sum();
    let mut statistics = Statistics::new(device);
    for rollouts in chosen.chunks(plan.settings.minibatch as usize) {
        let lengths: Vec<(usize, usize)> =
            rollouts.iter().map(|rollout| (rollout.source.len(), rollout.tokens.len())).collect();
        for part in batch::parts(&lengths, budget, batch::part_tokens(device, plan.kind)) {
            let part: Vec<&ScoredRollout> = part.iter().map(|&row| rollouts[row]).collect();
            let values = values(learner, &part, features, mode);
            let returns: Vec<f32> = part.iter().flat_map(|rollout| rollout.returns.iter().copied()).collect();
            let returns = Tensor::from_slice(&returns).to_device(device);
            let loss = value_loss(&values, &returns, None);
            statistics.add_values(&values, &returns, &loss);
            (loss * (returns.size()[0] as f64 / tokens as f64)).backward();
            if let Some((model, _)) = learner.value {
                model.collect_gradients();
            }
        }
    }
    if let Some((model, _)) = learner.value {
        model.settle_gradients();
    }
    statistics
}

/// Values of each rollout's tokens.
///
/// # Errors
/// Where not even one rollout fits into memory.
pub fn values_of(
    learner: &Learner<'_>,
    rollouts: &[ScoredRollout],
    features: &ImageFeatures,
    together: usize,
    kind: Kind,
) -> Result<Vec<Vec<f32>>> {
    let mode = Mode { train: false, kind };
    let mut all = Vec::with_capacity(rollouts.len());
    in_batches("values", rollouts, together, |part| {
        let part: Vec<&ScoredRollout> = part.iter().collect();
        let values = no_grad(|| values(learner, &part, features, mode));
        let values = values.to_device(tch::Device::Cpu).contiguous();
        let mut flat = vec![0f32; values.numel()];
        values.copy_data(&mut flat, values.numel());
        let mut rest = flat.as_slice();
        for rollout in part {
            let (own, others) = rest.split_at(rollout.tokens.len());
            all.push(own.to_vec());
            rest = others;
        }
        Ok(())
    })?;
    Ok(all)
}

/// Values of the real tokens of some rollouts, a vector in row order.
fn values(
    learner: &Learner<'_>,
    rollouts: &[&ScoredRollout],
    features: &ImageFeatures,
    mode: Mode,
) -> Tensor {
    let Some((model, _)) = learner.value else { return Tensor::zeros([0], (Kind::Float, tch::Device::Cpu)) };
    let part =
        Part::new(rollouts.to_vec(), features, &learner.policy.config, learner.policy.encoder.device());
    let states = if learner.shares_trunk() {
        no_grad(|| part.states(learner.policy, mode))
    } else {
        part.states(&model.student, mode)
    };
    model.values(&states, mode)
}
