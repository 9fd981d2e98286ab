//! Step checkpoints: one file with weights, optimizer state and place in the data, from which a stopped stage goes on.

use crate::error::{Error, Result};
use crate::metrics::MetricLog;
use crate::optimizer::AdamW;
use crate::student::Weights;
use crate::student::checkpoint::{map_file, read_safetensors, write_safetensors};
use safetensors::tensor::SafeTensors;
use schemas::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Device, Tensor, no_grad};

/// Where a stopped stage stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    /// What the stage was started with; another start must not go on from here.
    identity: String,
    /// Optimizer steps done.
    steps: u64,
    /// Rows of the metrics table, their numbers left out.
    metrics: Vec<Metric>,
    /// Bits of each row's epoch and value: as decimals they would come back in other last digits, or not at all (NaN).
    numbers: Vec<[u64; 2]>,
}

impl Place {
    fn new(identity: &str, steps: u64, metrics: &[Metric]) -> Self {
        let bare = |row: &Metric| Metric { epoch: 0.0, value: 0.0, ..row.clone() };
        Self {
            identity: identity.to_owned(),
            steps,
            metrics: metrics.iter().map(bare).collect(),
            numbers: metrics.iter().map(|row| [row.epoch.to_bits(), row.value.to_bits()]).collect(),
        }
    }

    fn metrics(self) -> Vec<Metric> {
        let numbers = self.numbers.into_iter().map(|numbers| numbers.map(f64::from_bits));
        let rows = self.metrics.into_iter().zip(numbers);
        rows.map(|(row, [epoch, value])| Metric { epoch, value, ..row }).collect()
    }
}

/// The step checkpoint of one stage, in a hidden file beside the checkpoint that the stage will write.
#[derive(Debug)]
pub struct StepCheckpoint {
    path: PathBuf,
    identity: String,
    interval: Duration,
    last: Instant,
}

impl StepCheckpoint {
    /// The step checkpoint for the stage that writes `folder`. `identity` tells starting weights, data and settings.
    pub fn new(folder: &Path, identity: String, interval: Duration) -> Self {
        Self { path: path_beside(folder), identity, interval, last: Instant::now() }
    }

    /// Brings weights, optimizer and metrics to the last saved step; returns the number of steps done, 0 for a fresh
    /// start.
    ///
    /// # Errors
    /// Where the file is there but broken.
    pub fn restore(
        &self,
        weights: &[(&str, &Weights)],
        optimizer: &mut AdamW,
        log: &mut MetricLog,
    ) -> Result<u64> {
        if !self.path.is_file() {
            return Ok(0);
        }
        let wrong = |message: String| Error::Checkpoint { path: self.path.clone(), message };
        let map = map_file(&self.path)?;
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|e| wrong(e.to_string()))?;
        let place = header.metadata().as_ref().and_then(|metadata| metadata.get("place"));
        let place = place.ok_or_else(|| wrong("expected a step checkpoint, found no `place`".into()))?;
        let place: Place = serde_json::from_str(place).map_err(|e| wrong(e.to_string()))?;
        if place.identity != self.identity {
            eprintln!("{} belongs to other settings or data: starting anew", self.path.display());
            return Ok(0);
        }
        let mut tensors = read_safetensors(&self.path)?;
        put(&mut tensors, weights, &self.path)?;
        let device =
            weights.iter().flat_map(|(_, weights)| weights.iter()).map(|(_, weight)| weight.device()).next();
        optimizer.restore(&mut tensors, place.steps, device.unwrap_or(Device::Cpu));
        let steps = place.steps;
        log.restore(place.metrics());
        eprintln!("going on after step {steps}");
        Ok(steps)
    }

    /// Saves where the interval has passed, or where `now`.
    ///
    /// # Errors
    /// Where the disk refuses; the older step checkpoint then stays.
    pub fn save(
        &mut self,
        weights: &[(&str, &Weights)],
        optimizer: &AdamW,
        log: &MetricLog,
        now: bool,
    ) -> Result<()> {
        if !now && self.last.elapsed() < self.interval {
            return Ok(());
        }
        let place = Place::new(&self.identity, optimizer.steps(), log.rows());
        let place = serde_json::to_string(&place)
            .map_err(|e| Error::Checkpoint { path: self.path.clone(), message: e.to_string() })?;
        let trained = weights.iter().flat_map(|(set, weights)| {
            let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
            trained.map(move |(name, weight)| (format!("{set}.{name}"), weight))
        });
        write_safetensors(&self.path, trained.chain(optimizer.state()), &[("place", place)])?;
        self.last = Instant::now();
        Ok(())
    }

    /// Keeps the trained weights of a pass.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn save_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let trained = weights.iter().flat_map(|(set, weights)| {
            let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
            trained.map(move |(name, weight)| (format!("{set}.{name}"), weight))
        });
        write_safetensors(&best_path(&self.path, pass), trained, &[])
    }

    /// Brings weights to what [`StepCheckpoint::save_best`] kept.
    ///
    /// # Errors
    /// Where the file is missing or broken.
    pub fn restore_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let path = best_path(&self.path, pass);
        put(&mut read_safetensors(&path)?, weights, &path)
    }

    /// Removes kept weights, but for those of one pass.
    pub fn forget_best(&self, but: Option<u64>) {
        forget_best(&self.path, but);
    }

    /// Saves a batch whose loss is not finite beside the step checkpoint, and returns the error that names it.
    ///
    /// `rows` holds each problem's id, source tokens and target tokens.
    pub fn not_finite(
        &self,
        (stage, step): (&'static str, u64),
        (what, value): (&'static str, f64),
        rows: &[(&str, &[i64], &[i64])],
    ) -> Error {
        let batch = self.path.with_extension("batch.json");
        let text: Vec<_> = rows
            .iter()
            .map(|(id, source, target)| {
                serde_json::json!({"problem_id": id, "source": source, "target": target, "step": step})
            })
            .collect();
        let text = serde_json::Value::from(text).to_string();
        if let Err(error) = schemas::table::write_bytes(&batch, text.as_bytes()) {
            return error.into();
        }
        let problems: Vec<&str> = rows.iter().map(|(id, ..)| *id).collect();
        Error::NotFinite { stage, step, what, value, problems: problems.join(", "), batch }
    }

    /// Removes the file beside `folder`, whose checkpoint is there; a killed run may have left it.
    pub fn forget(folder: &Path) {
        let path = path_beside(folder);
        let _ = std::fs::remove_file(&path); // it may never have been written
        forget_best(&path, None);
    }
}

/// Takes the weights that are trained out of `tensors`.
fn put(tensors: &mut BTreeMap<String, Tensor>, weights: &[(&str, &Weights)], path: &Path) -> Result<()> {
    for (set, weights) in weights {
        for (name, weight) in weights.iter().filter(|(_, weight)| weight.requires_grad()) {
            let saved = tensors.remove(&format!("{set}.{name}"));
            let saved = saved.filter(|saved| saved.size() == weight.size());
            let saved = saved.ok_or_else(|| Error::Checkpoint {
                path: path.to_path_buf(),
                message: format!("{set}.{name}: expected shape {:?}", weight.size()),
            })?;
            no_grad(|| weight.detach().copy_(&saved));
        }
        weights.copies().refresh();
    }
    Ok(())
}

/// `.sft-step.safetensors` → `.sft-step.best-3.safetensors`.
fn best_path(path: &Path, pass: u64) -> PathBuf {
    path.with_extension(format!("best-{pass}.safetensors"))
}

fn forget_best(path: &Path, but: Option<u64>) {
    let kept = but.map(|pass| best_path(path, pass));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned() + ".best-";
    let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&stem) && Some(entry.path()) != kept {
            let _ = std::fs::remove_file(entry.path()); // only room is lost
        }
    }
}

fn path_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}-step.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::Place;
    use schemas::{Metric, TimestampMs};

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let row = |value: f64| Metric {
            round: 1,
            stage: "rl".into(),
            step: 1,
            epoch: 1.0 / 13.0,
            name: "loss".into(),
            value,
            at: TimestampMs(5),
        };
        let rows: Vec<Metric> = [0.1 + 0.2, f64::NAN, -0.0, 1e-320, f64::INFINITY].map(row).into();
        let place = serde_json::to_string(&Place::new("x", 3, &rows)).expect("json");
        let again = serde_json::from_str::<Place>(&place).expect("json").metrics();
        let bits = |rows: &[Metric]| -> Vec<[u64; 2]> {
            rows.iter().map(|row| [row.epoch.to_bits(), row.value.to_bits()]).collect()
        };
        assert_eq!(bits(&again), bits(&rows));
        assert_eq!(again[0], rows[0]);
    }
}
