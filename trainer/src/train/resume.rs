//! Step checkpoints: weights, optimizer state and position in the data in one file, and the metrics so far in another,
//! from which an interrupted stage continues.

use super::metrics::{MetricLog, SavedRow};
use super::optimizer::{AdamW, Moments, Shards, check_state};
use crate::backend::libtorch;
use crate::checkpoint::hf::{TensorFile, write_safetensors, write_tensors};
use crate::collective::Group;
use crate::data::batch::Row;
use crate::error::{Error, Result};
use crate::nn::weights::Weights;
use schemas::TimestampMs;
use schemas::provenance::sha256_hex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor, no_grad};

/// Position of an interrupted stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    /// Identity of the stage's inputs; a stage with other inputs must not continue from here.
    identity: String,
    /// Optimizer steps done.
    steps: u64,
    /// Device and threads, on which the last digits depend; unknown in files of older versions, and left open by several
    /// ranks, whose number may change.
    #[serde(default)]
    machine: Option<String>,
}

/// Rows of one log, small enough for hundreds of thousands of steps.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedMetrics {
    names: Vec<String>,
    /// Index of the name, step, bits of epoch and value, milliseconds. As decimals, epoch and value would come back in
    /// other last digits, or not at all (NaN).
    rows: Vec<(usize, u64, u64, u64, i64)>,
}

impl SavedMetrics {
    fn new(log: &MetricLog) -> Self {
        let mut saved = Self::default();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for row in log.rows() {
            let name = *places.entry(&row.name).or_insert_with(|| {
                saved.names.push(row.name.clone());
                saved.names.len() - 1
            });
            saved.rows.push((name, row.step, row.epoch.to_bits(), row.value.to_bits(), row.at.0));
        }
        saved
    }

    /// Puts the rows into `log`; false if a row has no name.
    fn restore(self, log: &mut MetricLog) -> bool {
        let Self { names, rows } = self;
        let rows: Option<Vec<SavedRow<'_>>> = rows
            .iter()
            .map(|&(name, step, epoch, value, at)| {
                let name = names.get(name)?.as_str();
                Some((name, step, f64::from_bits(epoch), f64::from_bits(value), TimestampMs(at)))
            })
            .collect();
        rows.map(|rows| log.restore(rows)).is_some()
    }
}

/// The step checkpoint of one stage, in a hidden file next to the checkpoint that the stage will write.
#[derive(Debug)]
pub struct StepCheckpoint {
    path: PathBuf,
    identity: String,
    interval: Duration,
    /// The ranks that train together, of which the first keeps the file.
    group: Group,
    /// Whether each of them keeps a part of the optimizer's state.
    shards_optimizer: bool,
    last: Instant,
    /// How long the last save took.
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

    /// As [`StepCheckpoint::new`], of a stage that these ranks run together.
    #[must_use]
    pub fn shared_by(mut self, group: &Group) -> Self {
        self.group = group.clone();
        self
    }

    /// Whether the ranks share out the optimizer's state.
    #[must_use]
    pub fn sharding_optimizer(mut self, shards: bool) -> Self {
        self.shards_optimizer = shards;
        self
    }

    /// An optimizer without history for these weights, of which several ranks may each keep a part.
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

    /// Brings weights, optimizer and metrics to the last saved step; returns the number of steps done, 0 for a fresh
    /// start. All ranks then have what rank 0 has; of moments that are shared out, each its part.
    ///
    /// # Errors
    /// If the file is there but broken, or other ranks run another stage.
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

    /// Fails where another rank starts from something else: sums of gradients would be nonsense, or tensors of other sizes
    /// would meet.
    fn compare(&self, weights: &[(&str, &Weights)]) -> Result<()> {
        let shapes = trained(weights).map(|(name, weight)| format!("{name} {:?}", weight.size()));
        let shapes = sha256_hex(shapes.collect::<Vec<_>>().join("\n").as_bytes());
        let all = self.group.gather([self.identity.clone(), shapes])?;
        let differs = |rank: &usize| all[*rank] != all[0];
        let Some(other) = (0..all.len()).find(differs) else { return Ok(()) };
        Err(Error::input(
            format!(
                "ranks differ: rank {other} trains from other weights, data or settings than rank 0 ({})",
                self.path.display()
            ),
            "all ranks must read the same dataset and checkpoints, for instance from a shared disk",
        ))
    }

    /// Brings weights and metrics to the last saved step, on the rank that keeps the file; returns the steps done, and the
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

    /// Saves if the interval has passed (and, unless it is zero, 20 times the duration of the last save), or if `now`;
    /// returns whether it did. If the write fails, the older step checkpoint is kept, a warning is printed, and
    /// training continues. Of several ranks the first decides and writes.
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
            // When it is time for the first, all send their moments.
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
            let _ = std::fs::remove_file(&metrics); // no place knows of them, and the disk may be full
        }
        written
    }

    /// `.sft-step.safetensors` → `.sft-step.metrics-0a1b2c3d-700.json`: another start at the same step has another file.
    fn metrics_path(&self, steps: u64) -> PathBuf {
        let start = self.identity.get(..8).unwrap_or(&self.identity);
        self.path.with_extension(format!("metrics-{start}-{steps}.json"))
    }

    /// Keeps the trained weights of a pass.
    ///
    /// # Errors
    /// If the write fails.
    pub fn save_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let write = || write_safetensors(&best_path(&self.path, pass), trained(weights), &[]);
        self.group.on_first(write).map(|_| ())
    }

    /// Brings weights to what [`StepCheckpoint::save_best`] kept.
    ///
    /// # Errors
    /// If the file is missing or broken.
    pub fn restore_best(&self, pass: u64, weights: &[(&str, &Weights)]) -> Result<()> {
        let path = best_path(&self.path, pass);
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

    /// Removes saved weights, except for those of one pass.
    pub fn forget_best(&self, but: Option<u64>) {
        if !self.group.is_first() {
            return;
        }
        let kept = but.map(|pass| best_path(&self.path, pass));
        forget(&self.path, "best", kept.as_deref());
    }

    /// Saves a batch whose loss is not finite next to the step checkpoint, and returns an error with its path.
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

    /// Removes the file next to `folder`, whose checkpoint exists; a killed run may have left it. Of several ranks the first
    /// does.
    pub fn forget(folder: &Path, group: &Group) {
        if !group.is_first() {
            return;
        }
        let path = path_beside(folder);
        let _ = std::fs::remove_file(&path); // it may never have been written
        forget(&path, "best", None);
        forget(&path, "metrics", None);
    }
}

/// The device of the first of these weights.
fn device_of(weights: &[(&str, &Weights)]) -> Device {
    let mut all = weights.iter().flat_map(|(_, weights)| weights.iter());
    all.next().map_or(Device::Cpu, |(_, weight)| weight.device())
}

/// The weights that are trained, by the name of their set and their own.
fn trained<'a>(weights: &[(&'a str, &'a Weights)]) -> impl Iterator<Item = (String, &'a Tensor)> {
    weights.iter().flat_map(|&(set, weights)| {
        let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
        trained.map(move |(name, weight)| (format!("{set}.{name}"), weight))
    })
}

/// Brings the weights that are trained to what `read` finds by name.
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

/// `.sft-step.safetensors` → `.sft-step.best-3.safetensors`.
fn best_path(path: &Path, pass: u64) -> PathBuf {
    path.with_extension(format!("best-{pass}.safetensors"))
}

/// Removes the files `.sft-step.<kind>-…` next to a step checkpoint, including partial ones, except for one.
fn forget(path: &Path, kind: &str, kept: Option<&Path>) {
    let stem = format!("{}.{kind}-", path.file_stem().unwrap_or_default().to_string_lossy());
    let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().contains(&stem) && Some(entry.path().as_path()) != kept {
            let _ = std::fs::remove_file(entry.path()); // only disk space is lost
        }
    }
}

fn path_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}-step.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_come_back_to_the_last_bit() {
        let mut log = MetricLog::new(1, "rl");
        log.push(0, 0.0, [("rollouts", 7.0)]);
        for (step, value) in (1..).zip([0.1 + 0.2, f64::NAN, -0.0, 1e-320, f64::INFINITY]) {
            log.push(step, step as f64 / 13.0, [("loss", value), ("kl", -value)]);
        }
        let json = serde_json::to_vec(&SavedMetrics::new(&log)).expect("json");
        let mut again = MetricLog::new(1, "rl");
        assert!(serde_json::from_slice::<SavedMetrics>(&json).expect("json").restore(&mut again));
        let rows = |log: &MetricLog| -> Vec<String> {
            let bits = |row: &schemas::Metric| (row.epoch.to_bits(), row.value.to_bits());
            let row =
                |row: &schemas::Metric| format!("{} {} {:?} {:?}", row.stage, row.name, bits(row), row.at);
            log.rows().iter().map(row).collect()
        };
        assert_eq!(rows(&again), rows(&log));
        let nameless = SavedMetrics { names: Vec::new(), rows: vec![(0, 1, 0, 0, 0)] };
        assert!(!nameless.restore(&mut again));
    }

    #[test]
    fn saving_costs_at_most_a_twentieth_of_the_time() {
        let folder = tempfile::tempdir().expect("folder");
        let (log, optimizer) = (MetricLog::new(1, "sft"), AdamW::new(0.0));
        let mut saved = StepCheckpoint::new(&folder.path().join("sft"), "id".into(), Duration::from_nanos(1));
        let files = || std::fs::read_dir(folder.path()).expect("folder").count();
        saved.cost = Duration::from_secs(60);
        assert!(!saved.save(&[], &optimizer, &log, false).expect("alone"), "not yet");
        assert_eq!(files(), 0, "20 minutes have not passed");
        saved.cost = Duration::ZERO;
        assert!(saved.save(&[], &optimizer, &log, false).expect("alone"));
        assert_eq!(files(), 2);
        saved.cost = Duration::from_secs(60);
        assert!(saved.save(&[], &optimizer, &log, true).expect("alone"), "at once");
        assert!(saved.cost < Duration::from_secs(60), "it was measured again");
    }

    #[test]
    fn moments_of_other_weights_are_refused() {
        let weights =
            Weights::new([("a".to_owned(), Tensor::zeros([2, 3], (tch::Kind::Float, Device::Cpu)))].into());
        let refused = |moments: &[(&str, i64)]| {
            let zeros = |size: i64| Tensor::zeros([size], (tch::Kind::Float, Device::Cpu));
            let mut tensors: BTreeMap<String, Tensor> =
                moments.iter().map(|(name, size)| ((*name).to_owned(), zeros(*size))).collect();
            AdamW::new(0.0).restore(&mut tensors, 1, &[("student", &weights)], Device::Cpu)
        };
        assert_eq!(refused(&[("adam.m.student.a", 6), ("adam.v.student.a", 6)]), Ok(()));
        for (moments, message) in [
            (
                &[("adam.m.student.a", 5), ("adam.v.student.a", 6)][..],
                "adam.m.student.a: expected 6 float32 numbers, found 5",
            ),
            (&[("adam.m.student.a", 6)][..], "adam.v.student.a: expected 6 float32 numbers, found 0"),
            (&[("adam.m.student.b", 6)][..], "adam.m.student.b: no such weight is trained"),
        ] {
            assert_eq!(refused(moments), Err(message.to_owned()));
        }
    }

    #[test]
    fn a_long_run_goes_on() {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = MetricLog::new(1, "sft");
        for step in 0..400_000 {
            log.push(step, 1.0, [("loss", 0.5)]);
        }
        let mut saved = StepCheckpoint::new(&folder.path().join("sft"), "id".into(), Duration::ZERO);
        let mut optimizer = AdamW::new(0.0);
        assert!(saved.save(&[], &optimizer, &log, true).expect("alone"));
        let mut again = MetricLog::new(1, "sft");
        saved.restore(&[], &mut optimizer, &mut again).expect("restored");
        assert_eq!(again.rows().len(), 400_000);
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 2);
        StepCheckpoint::forget(&folder.path().join("sft"), &Group::alone());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    /// Weights of 17 · 9 + 40 + 1 numbers, of which the last has no gradient, and an optimizer for them.
    fn shared_out(group: &Group, saved: &StepCheckpoint) -> (Weights, AdamW) {
        // Ranks are threads here, and share libtorch's random numbers.
        let numbers = |shape: &[i64]| {
            Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().view(shape)
        };
        let named = [("a", numbers(&[17, 9])), ("b", numbers(&[40])), ("c", numbers(&[1]))];
        let weights = Weights::new(named.map(|(name, tensor)| (name.to_owned(), tensor)).into());
        weights.train_only(|_| true);
        let optimizer = saved.optimizer(&[("student", &weights)], 0.1);
        assert_eq!(optimizer.shards().is_some(), saved.shards_optimizer && !group.is_alone());
        (weights, optimizer)
    }

    /// Two ranks that share out an optimizer's state write what two that do not write; one, two or three go on from it.
    #[test]
    fn a_step_checkpoint_does_not_know_how_moments_were_shared_out() {
        let folder = tempfile::tempdir().expect("folder");
        let saved = |group: &Group, name: &str, shards: bool| {
            let saved = StepCheckpoint::new(&folder.path().join(name), "id".into(), Duration::ZERO);
            saved.shared_by(group).sharding_optimizer(shards)
        };
        let steps = |weights: &Weights, optimizer: &mut AdamW, steps: std::ops::Range<i64>| {
            for step in steps {
                for name in ["a", "b"] {
                    (weights.get(name) * (step as f64 * 0.3)).square().sum(Kind::Float).backward();
                }
                optimizer.step(&[("student", weights)], 0.01, 0.7);
                optimizer.spread(&[("student", weights)]).expect("spread");
            }
        };
        for (name, shards) in [("whole", false), ("shards", true)] {
            crate::collective::tests::on_ranks(2, |group| {
                let mut saved = saved(&group, name, shards);
                let (weights, mut optimizer) = shared_out(&group, &saved);
                steps(&weights, &mut optimizer, 1..4);
                let log = MetricLog::new(1, "sft");
                let written = saved.save(&[("student", &weights)], &optimizer, &log, true);
                assert!(written.expect("all are there"));
            });
        }
        let bytes = |name: &str| std::fs::read(path_beside(&folder.path().join(name))).expect("saved");
        assert!(bytes("whole") == bytes("shards"));
        let go_on = |group: Group, shards: bool| {
            let saved = saved(&group, "shards", shards);
            let (weights, mut optimizer) = shared_out(&group, &saved);
            let sets = [("student", &weights)];
            let done = saved.restore(&sets, &mut optimizer, &mut MetricLog::new(1, "sft"));
            assert_eq!(done.expect("restored"), 3);
            steps(&weights, &mut optimizer, 4..6);
            (weights.fingerprint(), optimizer.state().iter().map(|(_, moment)| moment.numel()).sum::<usize>())
        };
        let (expected, all) = go_on(Group::alone(), true);
        assert_eq!(all, 2 * (17 * 9 + 40), "the moments of what has a gradient");
        for (world, shards) in [(2, true), (3, true), (2, false)] {
            let found = crate::collective::tests::on_ranks(world, |group| go_on(group, shards));
            assert!(found.iter().all(|(weights, _)| *weights == expected), "{world} ranks, {shards}");
            let kept: usize = found.iter().map(|(_, numbers)| numbers).sum();
            assert_eq!(kept, if shards { all } else { world * all });
        }
    }

    /// Where rank 0 cannot write, the others' moments are taken all the same, and training goes on.
    #[test]
    fn moments_of_a_file_that_cannot_be_written_do_not_hold_up_the_ranks() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        crate::collective::tests::on_ranks(2, |group| {
            let target = folder.path().join("file/sft");
            let mut saved = StepCheckpoint::new(&target, "id".into(), Duration::ZERO)
                .shared_by(&group)
                .sharding_optimizer(true);
            let (weights, mut optimizer) = shared_out(&group, &saved);
            weights.get("a").sum(Kind::Float).backward();
            let sets = [("student", &weights)];
            optimizer.step(&sets, 0.01, 1.0);
            for now in [false, true] {
                let log = MetricLog::new(1, "sft");
                assert!(!saved.save(&sets, &optimizer, &log, now).expect("no rank has ended"));
            }
            group.finish().expect("all are there");
        });
    }

    /// Their sums would be nonsense, and tensors of other sizes would end the process in a library.
    #[test]
    fn ranks_that_start_from_something_else_are_refused() {
        let found = crate::collective::tests::on_ranks(2, |group| {
            let refused = |identity: &str, size: i64| {
                let folder = tempfile::tempdir().expect("folder");
                let tensor = Tensor::zeros([size], (Kind::Float, Device::Cpu));
                let weights = Weights::new([("a".to_owned(), tensor)].into());
                weights.train_only(|_| true);
                let saved = StepCheckpoint::new(&folder.path().join("sft"), identity.into(), Duration::MAX);
                let mut log = MetricLog::new(1, "sft");
                let sets = [("student", &weights)];
                let restored = saved.shared_by(&group).restore(&sets, &mut AdamW::new(0.0), &mut log);
                restored.map_err(|error| (error.to_string(), error.exit_code()))
            };
            let own = group.rank() as i64;
            (refused("same", 3), refused(&own.to_string(), 3), refused("same", 3 + own))
        });
        for (same, identity, shapes) in found {
            assert_eq!(same, Ok(0));
            for refused in [identity, shapes] {
                let (said, code) = refused.expect_err("they differ");
                assert!(
                    said.contains("rank 1 trains from other weights, data or settings than rank 0"),
                    "{said}"
                );
                assert_eq!(code, 2);
            }
        }
    }
}
