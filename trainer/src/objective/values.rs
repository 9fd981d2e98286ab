//! Passes that train only the value model, before the policy.
//!
//! Rollouts are sampled before any value model is trained, so the values stored with them are as random as its head. Advantages
//! are then returns without a baseline: tokens with more sentences to come look good, the end of a text looks bad, and texts
//! grow. A value model fitted to the round's own returns removes this effect (value pretraining, as in Yuan et al., 2025, for
//! long texts).

use super::advantage::{gae, gae_by_sentence};
use super::experience::{Experience, groups};
use super::loss::value_loss;
use super::plan::Plan;
use super::rows::{Part, ScoredRollout, split_rows};
use super::statistics::Statistics;
use super::value_model::ValueModel;
use crate::backend;
use crate::backend::memory::in_batches;
use crate::data::batch;
use crate::data::batch::Portion;
use crate::data::vision::ImageFeatures;
use crate::error::Result;
use crate::model::Student;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::seed;
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use crate::train::steps::Training;
use schemas::settings::{GaeUnit, RlSettings};
use tch::{Kind, Tensor, no_grad};

/// A value model in training, with the policy whose network it may share.
#[derive(Debug, Clone, Copy)]
pub struct Fitted<'a> {
    /// The policy, whose weights are not changed.
    pub policy: &'a Student,
    /// The value model.
    pub model: &'a ValueModel,
    /// Its own weights.
    pub weights: &'a Weights,
    /// Image features of the problems.
    pub features: &'a ImageFeatures,
}

/// The fold of each rollout, below `folds`: rollouts of a problem share one, and folds have about equal numbers of problems,
/// drawn by `seed`. There are at most as many folds as problems.
///
/// A value model fitted to a rollout's own return recognizes the rollout by its prefix, and cancels its advantage. With folds,
/// values come from a model that never saw the problem (cross-fitting).
pub fn folds(experience: &[Experience], folds: u32, seed: u64) -> Vec<usize> {
    let groups = groups(experience);
    let mut problems: Vec<(u64, &str)> =
        groups.keys().map(|problem| (seed::derive(seed, "value fold", problem), *problem)).collect();
    problems.sort_unstable();
    let folds = (folds as usize).clamp(1, problems.len().max(1));
    let mut of_rollouts = vec![0; experience.len()];
    for (place, (_, problem)) in problems.into_iter().enumerate() {
        for &row in &groups[problem] {
            of_rollouts[row] = place % folds;
        }
    }
    of_rollouts
}

/// Experience as training rows of a value model: returns without a baseline, discounted by `rl.gamma`.
pub fn rows_to_fit<'a>(
    rl: &RlSettings,
    experience: impl Iterator<Item = &'a Experience>,
) -> Vec<ScoredRollout> {
    experience
        .map(|row| {
            let zeros = vec![0.0; row.rewards.len()];
            let (_, returns) = match rl.gae_unit {
                GaeUnit::Token => gae(&row.rewards, &zeros, rl.gamma, 1.0),
                GaeUnit::Sentence => gae_by_sentence(&row.rewards, &zeros, &row.end_tokens(), rl.gamma, 1.0),
            };
            ScoredRollout {
                problem_id: row.problem_id.clone(),
                source: row.source.clone(),
                tokens: row.tokens.clone(),
                old_logprobs: Vec::new(),
                advantages: Vec::new(),
                returns,
                values: Vec::new(),
            }
        })
        .collect()
}

/// Fits the value model to the returns of `rollouts`; continues from `saved` if it was interrupted. A value head that
/// shares the policy's network is trained alone, so the policy does not change.
///
/// # Errors
/// If the loss is not finite, the run is interrupted, or the write fails.
pub fn fit_values(
    fitted: Fitted<'_>,
    rollouts: &[ScoredRollout],
    plan: &Plan<'_>,
    saved: &mut StepCheckpoint,
    log: &mut MetricLog,
) -> Result<()> {
    let settings = plan.settings;
    let schedule = plan.schedule("rl values", settings.value_passes);
    let sets = [("value", fitted.weights)];
    let mut training = Training::begin(schedule, rollouts, &sets, saved, log)?;
    let mode = Mode { train: false, kind: plan.kind };
    let total = training.total();
    for step in training.steps()..total {
        let chosen = training.rows(step);
        let tokens: usize = chosen.iter().map(|rollout| rollout.tokens.len()).sum();
        let statistics =
            training.gradients(&chosen, |portion| gradients(fitted, &chosen, plan, mode, portion))?;
        let (loss, explained) = statistics.of_values(tokens);
        let rate = plan.rate(settings.value_learning_rate, step, total);
        training.step(&chosen, ("value loss", loss), rate)?;
        let numbers = [("warmup_value_loss", loss), ("warmup_explained_variance", explained)];
        // Constant returns have no variance to explain.
        training.push(step + 1, numbers.into_iter().filter(|(_, value)| value.is_finite()));
        training.show(step + 1, format!("value loss {loss:.3}, explained variance {explained:.2}"));
        training.save(step + 1 == total)?;
    }
    Ok(())
}

/// Adds the gradients of one step's value loss, a mean over the tokens of `chosen`.
fn gradients(
    fitted: Fitted<'_>,
    chosen: &[&ScoredRollout],
    plan: &Plan<'_>,
    mode: Mode,
    portion: Portion<'_>,
) -> Statistics {
    let device = fitted.policy.device();
    let tokens: usize = chosen.iter().map(|rollout| rollout.tokens.len()).sum();
    let mut statistics = Statistics::new(device);
    let minibatches = chosen.chunks(plan.settings.minibatch as usize);
    for (number, rollouts) in minibatches.clone().enumerate() {
        let portion = portion.of_minibatch(number + 1 == minibatches.len());
        let part_tokens = backend::of(device).part_tokens(plan.kind);
        let parts = batch::parts(&batch::shared_lengths(rollouts), portion, part_tokens);
        for (part, last) in portion.each(&parts) {
            let part: Vec<&ScoredRollout> = part.iter().map(|&row| rollouts[row]).collect();
            let values = values(fitted, &part, mode);
            let returns: Vec<f32> = part.iter().flat_map(|rollout| rollout.returns.iter().copied()).collect();
            let returns = Tensor::from_slice(&returns).to_device(device);
            let loss = value_loss(&values, &returns, None);
            statistics.add_values(&values, &returns, &loss);
            last.backward(&(loss * (returns.size()[0] as f64 / tokens as f64)));
            fitted.model.flush_gradients();
        }
    }
    fitted.model.flush_all_gradients();
    statistics
}

/// Values of each rollout's tokens.
///
/// # Errors
/// If not even one rollout fits into memory.
pub fn values_of(
    fitted: Fitted<'_>,
    rollouts: &[ScoredRollout],
    together: usize,
    kind: Kind,
) -> Result<Vec<Vec<f32>>> {
    let mode = Mode { train: false, kind };
    let mut all = Vec::with_capacity(rollouts.len());
    in_batches("values", rollouts, together, |part| {
        let part: Vec<&ScoredRollout> = part.iter().collect();
        let values = no_grad(|| values(fitted, &part, mode));
        all.extend(split_rows(&values, part.iter().map(|rollout| rollout.tokens.len())));
        Ok(())
    })?;
    Ok(all)
}

/// Values of the real tokens of some rollouts, a vector in row order.
fn values(fitted: Fitted<'_>, rollouts: &[&ScoredRollout], mode: Mode) -> Tensor {
    let Fitted { policy, model, features, .. } = fitted;
    let part = Part::new(rollouts.to_vec(), features, policy);
    let states = if model.student.reads_same_weights(policy) {
        no_grad(|| part.states(policy, mode))
    } else {
        part.states(&model.student, mode)
    };
    model.values(&states, mode)
}

#[cfg(test)]
mod tests {
    use super::super::experience::tests::experience;
    use super::*;

    #[test]
    fn problems_are_cut_into_folds_of_one_size() {
        let rows: Vec<Experience> = (0..30).map(|row| experience(&format!("p{}", row / 3), 1, &[])).collect();
        let found = folds(&rows, 3, 7);
        let mut problems = [0; 3];
        for samples in found.chunks(3) {
            assert!(samples.iter().all(|fold| *fold == samples[0]), "a problem is in one fold: {found:?}");
            problems[samples[0]] += 1;
        }
        assert!(problems.iter().all(|count| (3..=4).contains(count)), "{problems:?}");
        assert_eq!(folds(&rows, 3, 7), found);
        assert_ne!(folds(&rows, 3, 8), found);
        assert_eq!(folds(&rows, 1, 7), [0; 30]);
        assert_eq!(folds(&rows[..3], 4, 7), [0; 3], "one problem cannot be held out of itself");
    }
}
