//! Step checkpoints: weights, optimizer state and position in the data in one file, and the metrics so far in another. An
//! interrupted stage continues from them.

mod saved_metrics;

use super::metrics::MetricLog;
use super::optimizer::{AdamW, Moments, Shards, check_state};
use crate::backend::libtorch;
use crate::checkpoint::hf::{TensorFile, write_safetensors, write_tensors};
use crate::collective::Group;
use crate::data::batch::Row;
use crate::error::{Error, Result};
use crate::nn::weights::Weights;
use saved_metrics::SavedMetrics;
use schemas::file::unfinished;
use schemas::provenance::sha256_hex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor, no_grad};

/// Position of an interrupted stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    /// Identity of the stage's inputs; a stage with another identity must not continue from here.
    identity: String,
    /// Optimizer steps done.
    steps: u64,
    /// Device and threads, which affect the last digits; unknown in files of older versions, and unset with several ranks,
    /// whose number may change.
    #[serde(default)]
    machine: Option<String>,
}

/// The step checkpoint of one stage, in a hidden file next to the checkpoint that the stage will write.
#[derive(Debug)]
pub struct StepCheckpoint {
    path: PathBuf,
    identity: String,
    interval: Duration,
    /// The ranks that train together; the first writes the file.
    group: Group,
    /// Whether the optimizer's state is sharded over them.
    shards_optimizer: bool,
    last: Instant,
    /// Duration of the last save.
    cost: Duration,
}

/// Training lasts at least this many times as long as the previous save: on a slow disk, a large student would
/// otherwise spend more time saving than training.
const TRAINING_PER_SAVE: u32 = 20;

impl StepCheckpoint {
    /// The step checkpoint for the stage that writes `folder`. `identity` identifies starting weights, data and
    /// settings.
    pub fn new(folder: &Path, identity: String, interval: Duration) -> Self {
        Self {
            path: path_beside(folder),
            identity,
            interval,
            group: Group::alone(),
            shards_optimizer: false,
            last: Instant::now(),
            cost: Duration::ZERO,
        }
    }

    /// As [`StepCheckpoint::new`], for a stage that these ranks run together.
    #[must_use]
    pub fn shared_by(mut self, group: &Group) -> Self {
        self.group = group.clone();
        self
    }

    /// Sets whether the optimizer's state is sharded over the ranks.
    #[must_use]
    pub fn sharding_optimizer(mut self, shards: bool) -> Self {
        self.shards_optimizer = shards;
        self
    }

    /// An optimizer with an empty state for these weights, which may be sharded over the ranks.
    pub fn optimizer(&self, weights: &[(&str, &Weights)], weight_decay: f64) -> AdamW {
        let optimizer = AdamW::new(weight_decay);
        if self.shards_optimizer && !self.group.is_alone() {
            optimizer.sharded(Shards::new(weights, &self.group))
        } else {
            optimizer
        }
    }

    /// The ranks that run the stage.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Restores weights, optimizer and metrics of the last saved step; returns the number of steps done, 0 for a fresh start.
    /// All ranks then have the state of rank 0; if moments are sharded, each has its part.
    ///
    /// # Errors
    /// If the file exists but is broken, or other ranks run another stage.
    pub fn restore(
        &self,
        weights: &[(&str, &Weights)],
        optimizer: &mut AdamW,
        log: &mut MetricLog,
    ) -> Result<u64> {
        let mut stored = if self.group.is_alone() {
            self.read(weights, log)?
        } else {
            self.compare(weights)?;
            self.group.on_first(|| self.read(weights, log))?.flatten()
        };
        let (steps, mut moments) = match &stored {
            Some((steps, file)) => (*steps, file.lengths()),
            None => (0, BTreeMap::new()),
        };
        moments.retain(|key, _| key.starts_with("adam."));
        let (steps, moments) = self.group.of_first((steps, moments))?;
        if !self.group.is_alone() {
            let metrics = self.group.of_first(SavedMetrics::new(log))?;
            if !self.group.is_first() {
                metrics.restore(log);
            }
            for (_, weight) in trained(weights) {
                self.group.broadcast(&mut weight.shallow_clone())?;
            }
            weights.iter().for_each(|(_, weights)| weights.copies().refresh());
        }
        let mut tensors = BTreeMap::new();
        for (key, length) in moments {
            let whole = match &mut stored {
                Some((_, file)) => file.read(&key)?,
                None => None,
            };
            let own = match optimizer.deal(&key, whole.as_ref()) {
                Some(dealt) => dealt?,
                None => {
                    let zeros = || Tensor::zeros([length as i64], (Kind::Float, Device::Cpu));
                    let mut own = whole.unwrap_or_else(zeros);
                    self.group.broadcast(&mut own)?;
                    own
                }
            };
            tensors.insert(key, own);
        }
        let wrong = |message: String| Error::Checkpoint { path: self.path.clone(), message };
        optimizer.restore(&mut tensors, steps, weights, device_of(weights)).map_err(wrong)?;
        Ok(steps)
    }

    /// Fails if another rank starts from different inputs: sums of gradients would be meaningless, or the sizes of tensors
    /// would differ.
    fn compare(&self, weights: &[(&str, &Weights)]) -> Result<()> {
        let shapes = trained(weights).map(|(name, weight)| format!("{name} {:?}", weight.size()));
        let shapes = sha256_hex(shapes.collect::<Vec<_>>().join("\n").as_bytes());
        match self.group.differing([self.identity.clone(), shapes])? {
            None => Ok(()),
            Some(other) => Err(Error::ranks_differ(format!(
                "ranks differ: rank {other} starts from different weights, data or settings than rank 0 ({})",
                self.path.display()
            ))),
        }
    }

    /// Restores weights and metrics of the last saved step, on the rank that has the file; returns the steps done, and the
    /// file, whose moments fit the weights. `None` for a fresh start.
    fn read(&self, weights: &[(&str, &Weights)], log: &mut MetricLog) -> Result<Option<(u64, TensorFile)>> {
        if !self.path.is_file() {
            return Ok(None);
        }
        let wrong = |message: String| Error::Checkpoint { path: self.path.clone(), message };
        let mut file = TensorFile::open(&self.path)?;
        let place = file.metadata("place");
        let place = place.ok_or_else(|| wrong("expected a step checkpoint, found no `place`".into()))?;
        let place: Place = serde_json::from_str(place).map_err(|e| wrong(e.to_string()))?;
        if place.identity != self.identity {
            schemas::warn!("{} belongs to other settings or data: starting over", self.path.display());
            return Ok(None);
        }
        let machine = libtorch::described(device_of(weights));
        if let Some(other) = place.machine.filter(|other| *other != machine && self.group.is_alone()) {
            schemas::warn!(
                "{} was written on {other}, and this is {machine}: starting over, as results differ in their last digits; \
                 to continue it instead, stop now and use student.device and student.threads as before",
                self.path.display()
            );
            return Ok(None);
        }
        check_state(&file.lengths(), weights).map_err(wrong)?;
        put(|name| file.read(name), weights, &self.path)?;
        let metrics = self.metrics_path(place.steps);
        let bytes = std::fs::read(&metrics).map_err(Error::io("read", &metrics))?;
        let saved: SavedMetrics = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Checkpoint { path: metrics.clone(), message: e.to_string() })?;
        if !saved.restore(log) {
            let message = "expected a name for each row, found none for some".into();
            return Err(Error::Checkpoint { path: metrics, message });
        }
        schemas::warn!("continuing after step {}", place.steps);
        Ok(Some((place.steps, file)))
    }

    /// Saves if the interval has passed (and, unless it is zero, 20 times the duration of the last save), or if `now`; returns
    /// whether it did. If the write fails, the older step checkpoint is kept, a warning is printed, and training continues.
    /// With several ranks, the first decides and writes.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn save(
        &mut self,
        weights: &[(&str, &Weights)],
        optimizer: &AdamW,
        log: &MetricLog,
        now: bool,
    ) -> Result<bool> {
        let least = if self.interval.is_zero() { Duration::ZERO } else { self.cost * TRAINING_PER_SAVE };
        let mut is_time = now || self.last.elapsed() >= self.interval.max(least);
        if optimizer.shards().is_some() {
            // When the first decides to save, all send their moments.
            is_time = self.group.number_of_first(f64::from(u8::from(is_time)))? > 0.0;
            if is_time && !self.group.is_first() {
                Moments::of(optimizer).finish()?;
            }
        }
        let saved = is_time && self.group.is_first() && {
            let started = Instant::now();
            let mut moments = Moments::of(optimizer);
            let saved = self.write(weights, optimizer.steps(), &mut moments, log);
            moments.finish()?;
            (self.last, self.cost) = (Instant::now(), started.elapsed());
            if let Err(error) = &saved {
                schemas::warn!("warning: cannot write a step checkpoint, keeping the older one: {error}");
            }
            saved.is_ok()
        };
        // The others need not wait, unless the outcome matters to all.
        if now { self.group.of_first(saved) } else { Ok(saved) }
    }

    fn write(
        &self,
        weights: &[(&str, &Weights)],
        steps: u64,
        moments: &mut Moments<'_>,
        log: &MetricLog,
    ) -> Result<()> {
        let wrong =
            |e: serde_json::Error| Error::Checkpoint { path: self.path.clone(), message: e.to_string() };
        let place = Place {
            identity: self.identity.clone(),
            steps,
            machine: self.group.is_alone().then(|| libtorch::described(device_of(weights))),
        };
        let place = serde_json::to_string(&place).map_err(wrong)?;
        // The metrics are on disk before the position that refers to them.
        let metrics = self.metrics_path(steps);
        let rows = serde_json::to_vec(&SavedMetrics::new(log)).map_err(wrong)?;
        let is_new = !metrics.exists();
        schemas::file::write_bytes(&metrics, &rows)?;
        let tensors: BTreeMap<String, &Tensor> = trained(weights).collect();
        let lengths = moments.lengths().into_iter().map(|(key, length)| (key, vec![length]));
        let shapes = tensors.iter().map(|(name, weight)| (name.clone(), weight.size())).chain(lengths);
        let tensor = |name: &str| match tensors.get(name) {
            Some(weight) => Ok(weight.shallow_clone()),
            None => moments.take().ok_or_else(|| std::io::Error::other("a rank has ended")),
        };
        let written = write_tensors(&self.path, &shapes.collect(), &[("place", place)], tensor);
        if written.is_ok() {
            forget(&self.path, "metrics", Some(&metrics));
        } else if is_new {
            let _ = std::fs::remove_file(&metrics); // no saved position refers to them, and the disk may be full
        }
        written
    }

    /// `.sft-step.safetensors` → `.sft-step.metrics-0a1b2c3d-700.json`: a run with other inputs has another file at the same
    /// step.
    fn metrics_path(&self, steps: u64) -> PathBuf {
        self.path.with_extension(format!("metrics-{}-{steps}.json", self.inputs()))
    }

    /// `.sft-step.best-0a1b2c3d-3.safetensors`: weights of a pass of a run with these inputs.
    fn best_path(&self, pass: u64) -> PathBuf {
        self.path.with_extension(format!("best-{}-{pass}.safetensors", self.inputs()))
    }

    /// The first digits of the inputs' hash.
    fn inputs(&self) -> &str {
        self.identity.get(..8).unwrap_or(&self.identity)
    }

    /// Saves the trained weights of a pass.
    ///
    /// # Errors
    /// If the write fails.
    pub fn save_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let write = || write_safetensors(&self.best_path(pass), trained(weights), &[]);
        self.group.on_first(write).map(|_| ())
    }

    /// Restores the weights saved by [`StepCheckpoint::save_best`].
    ///
    /// # Errors
    /// If the file is missing or broken.
    pub fn restore_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let path = self.best_path(pass);
        let read = || {
            let mut file = TensorFile::open(&path)?;
            put(|name| file.read(name), weights, &path)
        };
        self.group.on_first(read)?;
        for (_, weight) in trained(weights) {
            self.group.broadcast(&mut weight.shallow_clone())?;
        }
        weights.iter().for_each(|(_, weights)| weights.copies().refresh());
        Ok(())
    }

    /// Removes saved weights except for those of one pass, as the saved position refers to no others.
    pub fn forget_best_but(&self, pass: u64) {
        if self.group.is_first() {
            forget(&self.path, "best", Some(&self.best_path(pass)));
        }
    }

    /// Removes best weights of these inputs that no saved position refers to. Those of other inputs stay until this run saves a
    /// position, because the saved one may still refer to them; so do all of them where there is a saved position, which
    /// another number of threads may continue.
    pub fn forget_own_best(&self) {
        if self.group.is_first() && !self.path.is_file() {
            forget(&self.path, &format!("best-{}", self.inputs()), None);
        }
    }

    /// Saves a batch with a non-finite loss next to the step checkpoint, and returns an error with its path.
    pub fn not_finite<R: Row>(
        &self,
        (stage, step): (&'static str, u64),
        (what, value): (&'static str, f64),
        rows: &[&R],
    ) -> Error {
        let batch = self.path.with_extension("batch.json");
        let text: Vec<_> = rows
            .iter()
            .map(|row| {
                let (id, source, target) = (row.problem_id(), row.source(), row.target());
                serde_json::json!({"problem_id": id, "source": source, "target": target, "step": step})
            })
            .collect();
        let text = serde_json::Value::from(text).to_string();
        if let Err(error) = schemas::file::write_bytes(&batch, text.as_bytes()) {
            return error.into();
        }
        let problems: Vec<&str> = rows.iter().map(|row| row.problem_id()).collect();
        Error::NotFinite { stage, step, what, value, problems: problems.join(", "), batch }
    }

    /// Removes the file next to `folder`, whose checkpoint exists; a killed run may have left it. With several ranks, the first
    /// does.
    pub fn forget(folder: &Path, group: &Group) {
        if !group.is_first() {
            return;
        }
        let path = path_beside(folder);
        for path in [&path, &unfinished(&path)] {
            let _ = std::fs::remove_file(path); // it may never have been written
        }
        forget(&path, "best", None);
        forget(&path, "metrics", None);
    }
}

/// The device of the first of these weights.
fn device_of(weights: &[(&str, &Weights)]) -> Device {
    let mut all = weights.iter().flat_map(|(_, weights)| weights.iter());
    all.next().map_or(Device::Cpu, |(_, weight)| weight.device())
}

/// The trained weights, by set name and weight name.
fn trained<'a>(weights: &[(&'a str, &'a Weights)]) -> impl Iterator<Item = (String, &'a Tensor)> {
    weights.iter().flat_map(|&(set, weights)| {
        let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
        trained.map(move |(name, weight)| (format!("{set}.{name}"), weight))
    })
}

/// Restores the trained weights from `read`, by name.
fn put(
    mut read: impl FnMut(&str) -> Result<Option<Tensor>>,
    weights: &[(&str, &Weights)],
    path: &Path,
) -> Result<()> {
    for (set, weights) in weights {
        for (name, weight) in weights.iter().filter(|(_, weight)| weight.requires_grad()) {
            let saved = read(&format!("{set}.{name}"))?;
            let found = saved.as_ref().map_or("none".into(), |saved| format!("{:?}", saved.size()));
            let saved = saved.filter(|saved| saved.size() == weight.size());
            let saved = saved.ok_or_else(|| Error::Checkpoint {
                path: path.to_path_buf(),
                message: format!("{set}.{name}: expected shape {:?}, found {found}", weight.size()),
            })?;
            no_grad(|| weight.detach().copy_(&saved));
        }
        weights.copies().refresh();
    }
    Ok(())
}

/// Removes the files `.sft-step.<kind>-…` next to a step checkpoint, including partial ones, except for one.
fn forget(path: &Path, kind: &str, kept: Option<&Path>) {
    let stem = format!("{}.{kind}-", path.file_stem().unwrap_or_default().to_string_lossy());
    let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Not those of a checkpoint whose name ends like this one's.
        let is_own = name.starts_with(&stem)
            || name.strip_prefix(schemas::file::PREFIX).is_some_and(|name| name.starts_with(&stem));
        if is_own && Some(entry.path().as_path()) != kept {
            let _ = std::fs::remove_file(entry.path()); // only disk space is lost
        }
    }
}

fn path_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}-step.safetensors"))
}

#[cfg(test)]
mod tests;
