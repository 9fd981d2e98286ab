//! Values for `rl.baseline = model`: a value model for each fold of the problems, trained on the other folds before policy
//! training.

use super::context::Context;
use super::policy::Policy;
use crate::checkpoint::hf::{read_safetensors, write_safetensors};
use crate::data::corpus::Corpus;
use crate::error::{Error, Result};
use crate::objective::ScoredRollout;
use crate::objective::baseline::explained;
use crate::objective::experience::Experience;
use crate::objective::plan::Plan;
use crate::objective::value_model;
use crate::objective::values::{Fitted, fit_values, folds, rows_to_fit, values_of};
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use safetensors::tensor::SafeTensors;
use schemas::Metric;
use std::path::PathBuf;
use tch::Tensor;

/// Names of the folds' metrics and hidden files: `rl-values-0`.
const VALUES: &str = "rl-values";

/// Inputs of value training.
pub(super) struct LearnedValues<'a> {
    pub(super) context: &'a Context,
    pub(super) round: u32,
    /// The round's starting policy.
    pub(super) policy: &'a Policy,
    pub(super) corpus: &'a Corpus,
    pub(super) plan: &'a Plan<'a>,
    /// Identity of the training's inputs.
    pub(super) identity: &'a str,
}

impl LearnedValues<'_> {
    /// Values of each rollout's tokens. For folds completed by an interrupted run, they are read from their files.
    ///
    /// # Errors
    /// If the loss is not finite, the run is interrupted, or a file cannot be read or written.
    pub(super) fn of(&self, experience: &[Experience]) -> Result<Vec<Vec<f32>>> {
        let rl = self.plan.settings;
        let folds = folds(experience, rl.value_folds, self.plan.seed);
        let count = folds.iter().max().map_or(0, |last| last + 1);
        forget_metrics(self.context, self.round, count)?;
        let mut all = vec![Vec::new(); experience.len()];
        for fold in 0..count {
            let held_out: Vec<usize> = (0..experience.len()).filter(|&row| folds[row] == fold).collect();
            let values = match self.kept(fold, experience, &held_out)? {
                Some(values) => values,
                None => self.learn(fold, experience, &folds, &held_out)?,
            };
            for (&row, values) in held_out.iter().zip(values) {
                all[row] = values;
            }
        }
        Ok(all)
    }

    /// Trains the value model of a fold on the rollouts of all others, and saves its values for the fold's rollouts. A single
    /// fold is trained on itself.
    fn learn(
        &self,
        fold: usize,
        experience: &[Experience],
        folds: &[usize],
        held_out: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let (context, round, rl) = (self.context, self.round, self.plan.settings);
        let alone = folds.iter().all(|of| *of == fold);
        let seen = experience.iter().zip(folds).filter(|(_, of)| alone || **of != fold).map(|(row, _)| row);
        let rows = rows_to_fit(rl, seen);
        let own = rows_to_fit(rl, held_out.iter().map(|&row| &experience[row]));
        let models = (&self.policy.student, &self.policy.weights);
        let (model, weights) = value_model::initial(models, rl, context.settings.rollout.seed, round);
        let fitted = Fitted {
            policy: &self.policy.student,
            model: &model,
            weights: &weights,
            features: &self.corpus.features,
        };
        let name = format!("{VALUES}-{fold}");
        let folder = context.checkpoint(round, &name);
        let mut saved = context.step_checkpoint(&folder, self.identity.to_owned());
        let mut log = MetricLog::new(round, "rl").on_board(&context.settings.student.tensorboard)?;
        fit_values(fitted, &rows, self.plan, &mut saved, &mut log)?;
        let together = context.settings.student.decode_batch as usize;
        let of_some = |rows: &[ScoredRollout]| values_of(fitted, rows, together, self.plan.kind);
        let values = context.group.numbers_of(&own, together, of_some)?;
        let of_fold: Vec<Experience> = held_out.iter().map(|&row| experience[row].clone()).collect();
        let share = explained(&of_fold, &values, rl.gamma);
        let passes = f64::from(rl.value_passes);
        let steps = rows.len().div_ceil((rl.minibatch * rl.accumulation) as usize) as u64;
        let steps = steps * u64::from(rl.value_passes);
        log.push(steps, passes, share.map(|share| ("held_out_explained_variance", share)));
        context.write_part::<Metric>(round, &name, log.into_rows())?;
        context.group.on_first(|| self.keep(fold, &values))?;
        StepCheckpoint::forget(&folder, &context.group);
        Ok(values)
    }

    fn keep(&self, fold: usize, values: &[Vec<f32>]) -> Result<()> {
        let path = path(self.context, self.round, fold);
        let flat = Tensor::from_slice(&values.concat());
        let tensors = [("values".to_owned(), &flat)];
        write_safetensors(&path, tensors, &[("identity", self.identity.to_owned())])
    }

    /// Values learned by an earlier run from the same inputs.
    fn kept(&self, fold: usize, experience: &[Experience], rows: &[usize]) -> Result<Option<Vec<Vec<f32>>>> {
        let path = path(self.context, self.round, fold);
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |message: String| Error::Checkpoint { path: path.clone(), message };
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let identity = header.metadata().as_ref().and_then(|metadata| metadata.get("identity"));
        if identity.map(String::as_str) != Some(self.identity) {
            return Ok(None);
        }
        let tensors = read_safetensors(&path)?;
        let values = tensors.get("values").ok_or_else(|| wrong("expected `values`, found none".into()))?;
        let flat = Vec::<f32>::try_from(values).map_err(|e| wrong(e.to_string()))?;
        let lengths = rows.iter().map(|&row| experience[row].tokens.len());
        let expected: usize = lengths.clone().sum();
        if flat.len() != expected {
            return Err(wrong(format!("expected {expected} values, found {}", flat.len())));
        }
        let mut rest = flat.as_slice();
        let cut = lengths.map(|length| {
            let (own, others) = rest.split_at(length);
            rest = others;
            own.to_vec()
        });
        Ok(Some(cut.collect()))
    }
}

fn path(context: &Context, round: u32, fold: usize) -> PathBuf {
    context.checkpoint(round, &format!(".{VALUES}-{fold}.safetensors"))
}

/// Removes the files of an interrupted run.
pub(super) fn forget(context: &Context, round: u32) {
    if !context.group.is_first() {
        return;
    }
    let folder = context.checkpoint(round, VALUES);
    let Some(Ok(entries)) = folder.parent().map(std::fs::read_dir) else { return };
    let own = format!(".{VALUES}");
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.strip_prefix(schemas::file::PREFIX).unwrap_or(&name).starts_with(&own) {
            let _ = std::fs::remove_file(entry.path()); // only disk space is lost
        }
    }
}

/// Removes value metrics beyond the first `folds` folds, left by a run with other inputs.
///
/// # Errors
/// If a file cannot be removed.
pub(super) fn forget_metrics(context: &Context, round: u32, folds: usize) -> Result<()> {
    let kept: Vec<String> = (0..folds).map(|fold| format!("{VALUES}-{fold}")).collect();
    let is_stale = |name: &str| name.starts_with(VALUES) && !kept.iter().any(|kept| kept == name);
    context.remove_parts::<Metric>(round, is_stale)
}
