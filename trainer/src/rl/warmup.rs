//! Passes in which only the value model learns, before the policy does.
//!
//! Rollouts are sampled before there is a value model that has learned anything, so the values stored with them are as
//! random as its head. Advantages are then returns without a baseline: tokens with more sentences to come look good, the
//! end of a text looks bad, and texts grow. A value model that was fitted to the round's own returns takes that away
//! (value pretraining, as in Yuan et al., 2025, for long texts).

use super::loss::value_loss;
use super::part::Part;
use super::passes::Plan;
use super::ppo::Learner;
use super::scored::ScoredRollout;
use super::statistics::Statistics;
use crate::batch;
use crate::error::Result;
use crate::memory::in_batches;
use crate::metrics::MetricLog;
use crate::resume::StepCheckpoint;
use crate::student::Mode;
use crate::training::Training;
use crate::vision::ImageFeatures;
use tch::{Kind, Tensor, no_grad};

/// Fits the value model to the returns of `rollouts`; continues from `saved` if it was interrupted. A value head that
/// shares the policy's network is trained alone, so the policy does not change.
///
/// # Errors
/// If the loss is not finite, the run is interrupted, or the write fails.
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
    let schedule = plan.schedule("rl values", settings.value_passes);
    let sets = [("value", weights)];
    let mut training = Training::begin(schedule, rollouts, &sets, saved, log)?;
    let mode = Mode { train: false, kind: plan.kind };
    let total = training.total();
    for step in training.steps()..total {
        let chosen = training.rows(step);
        let tokens: usize = chosen.iter().map(|rollout| rollout.tokens.len()).sum();
        let statistics = training
            .gradients(&chosen, |budget| gradients(learner, &chosen, features, plan, mode, budget))?;
        let (loss, explained) = statistics.of_values(tokens);
        training.step(&chosen, ("value loss", loss), settings.value_learning_rate)?;
        let numbers = [("warmup_value_loss", loss), ("warmup_explained_variance", explained)];
        // Equal returns have no variance to explain.
        training.push(step + 1, numbers.into_iter().filter(|(_, value)| value.is_finite()));
        training.show(step + 1, format!("value loss {loss:.3}, explained variance {explained:.2}"));
        // The last position is kept until the stage is complete: the policy's passes start from it however often they
        // are interrupted.
        training.save(step + 1 == total)?;
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
        for part in batch::parts(&batch::lengths(rollouts), budget, batch::part_tokens(device, plan.kind)) {
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
/// If not even one rollout fits into memory.
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
