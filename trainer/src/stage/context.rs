//! The context of every stage: dataset, settings, checkpoint folders, device.

use crate::backend;
use crate::backend::libtorch;
use crate::checkpoint::folder;
use crate::checkpoint::folder::{Stored, Trunk, is_student};
use crate::collective::Group;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::Student;
use crate::model::lora::LoraConfig;
use crate::nn::weights::Weights;
use crate::seed;
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

/// A student with its tokenizer, on the device.
#[derive(Debug)]
pub struct Policy {
    /// The student.
    pub student: Student,
    /// Its weights.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Fingerprint of the weights: the `policy` column.
    pub fingerprint: String,
    /// Folder it was read from.
    pub folder: PathBuf,
    /// Folder of its tokenizer: the same, or its trunk's.
    pub companions: PathBuf,
    /// The trained adapter and its frozen trunk; `None` if all weights are trained.
    pub adapter: Option<(LoraConfig, Trunk)>,
}

impl Policy {
    /// Writes its checkpoint: an adapter if one was trained, else all weights. `made_by` is the metadata text on what produced
    /// it.
    ///
    /// # Errors
    /// If the write fails; then the folder does not appear.
    pub fn write(&self, folder: &Path, made_by: &str) -> Result<()> {
        let student = (&*self.student.config, &self.weights);
        folder::write(folder, student, self.adapter.as_ref(), &self.companions, made_by)
    }

    /// The policy's part of a training's identity, besides the fingerprint of its weights: its configuration, which has the
    /// rate of dropout, and its adapter, if not all weights are trained.
    pub(crate) fn identity(&self) -> String {
        let adapter = self.adapter.as_ref().map(|(lora, trunk)| {
            format!(" {} {} {:?} {}", lora.r, lora.scale(), lora.target_modules, trunk.fingerprint)
        });
        format!(" {:?}{}", self.student.config, adapter.unwrap_or_default())
    }
}

/// The first digits of a fingerprint, for messages.
pub(super) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
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

    /// Reads the policy that a round starts from.
    ///
    /// # Errors
    /// If it does not exist, or is broken.
    pub fn starting_policy(&self, round: u32) -> Result<Policy> {
        self.read_policy(&self.starting_folder(round)?)
    }

    /// The folder of the policy that a round starts from.
    ///
    /// # Errors
    /// If it does not exist; the hint names the command that creates it.
    pub(super) fn starting_folder(&self, round: u32) -> Result<PathBuf> {
        let folder = self.start_of(round);
        if !folder.join("config.json").is_file() {
            let flag = self.dataset.flag();
            return Err(if round <= 1 {
                Error::input(
                    format!("{}: expected the base student, found none", folder.display()),
                    format!(
                        "next: {}train init --tokenizer DIR --shape tiny --out {}{flag} (or --from HF_FOLDER)",
                        self.features_first()?,
                        schemas::dataset::quoted(&folder)
                    ),
                )
            } else {
                Error::input(
                    format!("{}: expected the policy of round {}, found none", folder.display(), round - 1),
                    format!("next: train --round {}{flag}", round - 1),
                )
            });
        }
        Ok(folder)
    }

    /// The command that computes image features, if the dataset has pictures but no features yet: a student is created for a
    /// fixed feature width.
    fn features_first(&self) -> Result<String> {
        let has_pictures = self.dataset.problems()?.iter().any(|problem| problem.image.is_some())
            && self.dataset.images_dir().is_dir();
        let vision = &self.settings.student.vision;
        let are_there = self.dataset.vision_path(vision).is_file();
        Ok(if has_pictures && !are_there {
            format!("train features{}, then ", self.dataset.flag())
        } else {
            String::new()
        })
    }

    /// Reads a policy with its tokenizer, for inference: an adapter is merged into its trunk.
    ///
    /// # Errors
    /// If it does not exist or is broken, or is another on another rank.
    pub fn read_policy(&self, folder: &Path) -> Result<Policy> {
        self.agreed(folder::read(folder).and_then(|stored| self.policy(folder, stored, true)))
    }

    /// A policy that each rank has read, the same on all of them.
    fn agreed(&self, read: Result<Policy>) -> Result<Policy> {
        let policy = self.group.agree(read)?;
        if self.group.is_alone() {
            return Ok(policy);
        }
        let all = self.group.gather(format!("{}{}", policy.fingerprint, policy.identity()))?;
        let Some(other) = all.iter().position(|found| *found != all[0]) else { return Ok(policy) };
        Err(Error::input(
            format!(
                "ranks differ: rank {other} read a different student from {} than rank 0",
                policy.folder.display()
            ),
            "all ranks must read the same dataset and checkpoints, for instance from a shared disk",
        ))
    }

    /// Reads a policy with its tokenizer, for training. With `student.lora_rank`, training continues its adapter or a new one,
    /// which initially has no effect; the other weights are frozen. Otherwise all weights are trained.
    ///
    /// # Errors
    /// If it does not exist or is broken, its adapter has other settings, or it is another on another rank.
    pub fn read_policy_to_train(&self, folder: &Path) -> Result<Policy> {
        self.agreed(self.policy_to_train(folder))
    }

    fn policy_to_train(&self, folder: &Path) -> Result<Policy> {
        let stored = folder::read(folder)?;
        let asked = self.asked_adapter(&*stored.config)?;
        if let (Some(asked), Some((found, _))) = (&asked, &stored.adapter)
            && !asked.fits(found, &*stored.config)
        {
            return Err(Error::input(
                format!(
                    "{}: student.lora_rank, lora_alpha and lora_targets: expected those of its adapter (rank {}, alpha {}, \
                     {}), found rank {}, alpha {}, {}",
                    folder.display(),
                    found.r,
                    found.lora_alpha,
                    found.target_modules.join(","),
                    asked.r,
                    asked.lora_alpha,
                    asked.target_modules.join(",")
                ),
                format!(
                    "use the adapter's settings; or, for a new adapter, replace it with the output of `train merge {} --out \
                     FOLDER`",
                    schemas::dataset::quoted(folder)
                ),
            ));
        }
        let mut policy = self.policy(folder, stored, asked.is_none())?;
        if let Some(lora) = asked.filter(|_| policy.adapter.is_none()) {
            let seed = seed::for_torch(self.settings.rollout.seed, "student lora", "");
            let config = policy.student.config.clone();
            lora.add_to(&mut policy.weights, &*config, seed, self.device);
            policy.student = Student::new(&policy.weights, &*config);
            let trunk = Trunk { folder: folder.to_path_buf(), fingerprint: policy.fingerprint.clone() };
            policy.adapter = Some((lora, trunk));
        }
        policy.weights.train();
        Ok(policy)
    }

    /// The adapter of the settings for a student of this shape.
    fn asked_adapter(&self, config: &dyn ModelConfig) -> Result<Option<LoraConfig>> {
        LoraConfig::of(&self.settings.student, config).map_err(|message| Error::BadInput {
            message: format!("student.lora_targets: {message}"),
            hint: None,
        })
    }

    /// The policy stored in a folder; with `merges`, an adapter is merged into its trunk.
    fn policy(&self, folder: &Path, mut stored: Stored, merges: bool) -> Result<Policy> {
        // Merging forgets the trunk, and only the trunk may have a tokenizer.
        let trunk = stored.adapter.as_ref().map(|(_, trunk)| trunk);
        let companions = folder::with_tokenizer(folder, trunk).to_path_buf();
        if merges {
            stored.merge();
        }
        let Stored { config, weights, fingerprint, adapter } = stored;
        self.choose_threads(&weights);
        let tokenizer = Tokenizer::read(&companions, &*config)?;
        let weights = weights.into_device(self.device);
        let student = Student::new(&weights, &*config);
        let folder = folder.to_path_buf();
        Ok(Policy { student, weights, tokenizer, fingerprint, folder, companions, adapter })
    }

    /// Products of small matrices finish before a second thread has woken up; on a busy machine, waiting for it takes ten times
    /// as long. Ranks on one machine share its cores, unless OMP_NUM_THREADS sets the number per rank.
    fn choose_threads(&self, weights: &Weights) {
        let threads = match self.settings.student.threads {
            0 if weights.count() < 10_000_000 => 1,
            0 if !self.group.is_alone() && std::env::var_os("OMP_NUM_THREADS").is_none() => {
                let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                i32::try_from(cores / self.group.local_world()).unwrap_or(i32::MAX).max(1)
            }
            0 => return,
            threads => i32::try_from(threads).unwrap_or(i32::MAX),
        };
        tch::set_num_threads(threads);
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
