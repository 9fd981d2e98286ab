//! The context of every stage: dataset, settings, checkpoint folders, device.

use crate::backend;
use crate::backend::libtorch;
use crate::checkpoint::folder::is_student;
use crate::collective::Group;
use crate::error::{Error, Result};
use crate::train::resume::StepCheckpoint;
use schemas::settings::{Dtype, Resolved};
use schemas::{Answer, Dataset, Metric, Provenance, Settings, Table, rounds};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{Device, Kind};

/// Metric of stage rl that marks a round ending with it.
pub(super) const ENDS_ROUND: &str = "ends_round";

/// Dataset, settings and device of one command.
#[derive(Debug)]
pub struct Context {
    /// The dataset folder.
    pub dataset: Dataset,
    /// The settings.
    pub settings: Settings,
    /// Provenance of the files to write.
    pub provenance: Provenance,
    /// Device of the tensors.
    pub device: Device,
    /// The ranks that run the command together.
    pub group: Group,
    /// Flags to pass to `collect-feedback` as well, so that it selects the same problems; each with a leading space.
    pub share_flags: String,
    pub(super) checkpoints: PathBuf,
}

impl Context {
    /// The context for a dataset, which rank 0 has locked, and settings. Round folders among the checkpoints that have old
    /// names are renamed.
    ///
    /// # Errors
    /// If the device is not available, or a folder cannot be renamed.
    pub fn new(dataset: Dataset, resolved: &Resolved, group: Group) -> Result<Self> {
        let mut settings = resolved.settings.clone();
        if !group.is_first() {
            settings.student.tensorboard.clear(); // rank 0 writes events
        }
        let checkpoints = PathBuf::from(settings.student.checkpoints.replace("<name>", &dataset.name()));
        let device = group.agree(libtorch::device(settings.student.device))?;
        connect_devices(&group, device)?;
        let count = group.on_first(|| Ok(rounds::rename(&checkpoints)?))?;
        if count.is_some_and(|count| count > 0) {
            schemas::warn!(
                "{}: folders of rounds renamed from `round=N` to `round-N`",
                checkpoints.display()
            );
        }
        backend::resolve(&mut settings.student, &mut settings.rollout.sampling_dtype, device);
        if let Device::Cuda(_) = device {
            if !libtorch::set_tf32(settings.student.tf32) {
                schemas::warn!("warning: this libtorch does not support student.tf32");
            }
            schemas::warn!("running in {} on {}", settings.student.dtype, libtorch::described(device));
        }
        if settings.student.dtype == Dtype::Bfloat16 && !libtorch::multiplies_bfloat16(device) {
            schemas::warn!(
                "student.dtype is bfloat16, but this processor has no bfloat16 instructions: matrix products run in float32"
            );
        }
        Ok(Self {
            provenance: Provenance::new("train", &resolved.show()),
            device,
            dataset,
            settings,
            group,
            share_flags: resolved.given_flags(&["sft.corrections_share", "rollout.seed"]),
            checkpoints,
        })
    }

    /// Writes a part of a table on rank 0, replacing any older one.
    ///
    /// # Errors
    /// As [`Dataset::write_part`], on every rank.
    pub fn write_part<T: Table>(&self, round: u32, name: &str, rows: Vec<T>) -> Result<()> {
        let write = || Ok(self.dataset.write_part(round, name, rows, &self.provenance)?);
        self.group.on_first(write).map(|_| ())
    }

    /// Removes the parts of a table whose names are stale. Rank 0 also lists them: on a network disk, other machines may still
    /// see other files.
    ///
    /// # Errors
    /// If the folder cannot be listed or a file cannot be removed, on every rank.
    pub fn remove_parts<T: Table>(&self, round: u32, is_stale: impl Fn(&str) -> bool) -> Result<()> {
        let remove = || -> Result<()> {
            for path in self.dataset.parts::<T>(round)? {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                if let Some(name) = name.strip_prefix("part-").filter(|name| is_stale(name)) {
                    self.dataset.remove_part::<T>(round, name)?;
                }
            }
            Ok(())
        };
        self.group.on_first(remove).map(|_| ())
    }

    /// Compute dtype of matrix products in training.
    pub fn kind(&self) -> Kind {
        libtorch::product_kind(self.settings.student.dtype, self.device)
    }

    /// Number format of the weights in decoding.
    pub fn sampling_kind(&self) -> Kind {
        match self.settings.rollout.sampling_dtype.unwrap_or(self.settings.student.dtype) {
            Dtype::Float32 | Dtype::Auto => Kind::Float,
            Dtype::Bfloat16 => Kind::BFloat16,
        }
    }

    /// Time between step checkpoints.
    pub fn save_interval(&self) -> Duration {
        Duration::from_secs(self.settings.student.save_every_secs)
    }

    /// The step checkpoint, shared by all ranks, of a stage that writes `folder` from the inputs identified by `identity`.
    pub fn step_checkpoint(&self, folder: &Path, identity: String) -> StepCheckpoint {
        StepCheckpoint::new(folder, identity, self.save_interval())
            .shared_by(&self.group)
            .sharding_optimizer(self.settings.student.shard_optimizer)
    }

    /// Folder of a round's checkpoint: `round-1/rl`.
    pub fn checkpoint(&self, round: u32, stage: &str) -> PathBuf {
        rounds::child(&self.checkpoints, round, stage)
    }

    /// Folder of the base student.
    pub fn base(&self) -> PathBuf {
        self.checkpoints.join("base")
    }

    /// Folder of the policy that a round starts from: the base student, or the last round's final one.
    pub fn start_of(&self, round: u32) -> PathBuf {
        if round <= 1 {
            return self.base();
        }
        let stage = if self.ended_with_rl(round - 1) { "rl" } else { "sft" };
        self.checkpoint(round - 1, stage)
    }

    /// Whether a round was run with `round.stages = rl`, and not fine-tuned since.
    pub(super) fn ended_with_rl(&self, round: u32) -> bool {
        #[derive(serde::Deserialize)]
        struct Named {
            name: String,
        }
        let rows = || self.dataset.project::<Metric, Named>(round, &["name"]);
        !self.has(&self.checkpoint(round, "sft"))
            && self.has(&self.checkpoint(round, "rl"))
            && rows().is_ok_and(|rows| rows.iter().any(|row| row.name == ENDS_ROUND))
    }

    /// Whether a checkpoint folder exists, whole or as an adapter; it appears by renaming.
    pub fn has(&self, folder: &Path) -> bool {
        is_student(folder)
    }

    /// Whether the answers of a round after `stage` exist.
    pub fn has_answers(&self, round: u32, stage: &str) -> bool {
        self.dataset.part_path::<Answer>(round, stage).is_file()
    }
}

/// Lets ranks exchange tensors on their devices, which must be of one kind.
fn connect_devices(group: &Group, device: Device) -> Result<()> {
    if group.is_alone() {
        return Ok(());
    }
    let backend = backend::of(device);
    let names = group.gather(backend.name().to_owned())?;
    if let Some((rank, (first, other))) =
        names.iter().map(|name| (&names[0], name)).enumerate().find(|(_, (first, other))| first != other)
    {
        return Err(Error::input(
            format!("ranks differ: rank 0 runs on {first}, rank {rank} on {other}"),
            "next: --device cpu, or --device cuda to see why a rank has no GPU",
        ));
    }
    match group.agree(backend.collective_libraries())? {
        Some(libraries) => group.connect_gpus(&libraries, device),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;
    use crate::nn::weights::Weights;
    use crate::stage::{decode, learned_values};
    use crate::train::metrics::MetricLog;
    use std::collections::BTreeMap;

    /// The context of one rank, with a dataset and checkpoints under `folder`.
    fn context(folder: &Path, flags: &[(&str, &str)], group: Group) -> Context {
        let checkpoints = folder.join("checkpoints").display().to_string();
        let own = [("student.device", "cpu"), ("student.checkpoints", checkpoints.as_str())];
        let flags = own.iter().chain(flags).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let resolved = Resolved::from_parts(None, &flags.collect::<BTreeMap<_, _>>()).expect("settings");
        Context::new(Dataset::at(folder), &resolved, group).expect("context")
    }

    #[test]
    fn the_optimizers_state_is_shared_out_where_the_setting_says_so() {
        let folder = tempfile::tempdir().expect("folder");
        let is_shared_out = |value: &str, group: Group| {
            let context = context(folder.path(), &[("student.shard_optimizer", value)], group);
            let saved = context.step_checkpoint(&folder.path().join("sft"), "id".to_owned());
            let weights = Weights::new(BTreeMap::new());
            saved.optimizer(&[("student", &weights)], 0.0).shards().is_some()
        };
        assert_eq!(on_ranks(2, |group| is_shared_out("true", group)), [true, true]);
        assert_eq!(on_ranks(2, |group| is_shared_out("false", group)), [false, false]);
        assert!(!is_shared_out("true", Group::alone()), "there is nobody to share with");
    }

    /// Each rank has a dataset of its own here, and that of rank 1 has no files.
    #[test]
    fn ranks_need_not_see_the_same_files_to_remove_stale_ones() {
        let folder = tempfile::tempdir().expect("folder");
        let left = on_ranks(2, |group| {
            let context = context(&folder.path().join(group.rank().to_string()), &[], group);
            let parts =
                ["rl", "rl-values-0", "rl-values-1", "sft", "rationales-rl-val", "rationales-sft-val"];
            for name in parts.iter().filter(|_| context.group.is_first()) {
                let mut log = MetricLog::new(1, "rl");
                log.push(1, 1.0, [("loss", 1.0)]);
                context.dataset.write_part(1, name, log.into_rows(), &context.provenance).expect("written");
            }
            learned_values::forget_metrics(&context, 1, 1).expect("removed");
            decode::forget_metrics(&context, 1, "rl").expect("removed");
            context.group.finish().expect("all are still together");
            let left = context.dataset.parts::<Metric>(1).expect("parts");
            let name = |path: &PathBuf| path.file_name().expect("name").to_string_lossy().into_owned();
            left.iter().map(name).collect::<Vec<String>>()
        });
        assert_eq!(left[0], ["part-rl-values-0.parquet", "part-rl.parquet"]);
        assert!(left[1].is_empty(), "{left:?}");
    }
}
