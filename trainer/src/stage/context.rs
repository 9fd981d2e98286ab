//! What every stage works with: dataset, settings, folders of checkpoints, device.

use crate::backend;
use crate::collective::Group;
use crate::error::{Error, Result};
use crate::libtorch;
use crate::student::checkpoint::{self, Loaded, WEIGHTS_FILE};
use crate::student::{Student, Weights};
use crate::tokenizer::Tokenizer;
use schemas::settings::{Dtype, Resolved};
use schemas::{Answer, Dataset, Metric, Provenance, Settings, Table, rounds};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{Device, Kind};

/// Metric of stage rl in a round that ends with it.
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
    /// Where tensors live.
    pub device: Device,
    /// The ranks that run the command together.
    pub group: Group,
    checkpoints: PathBuf,
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
}

/// The beginning of a fingerprint, for messages.
pub(super) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

impl Context {
    /// The context of a dataset, which rank 0 has locked, and settings. Folders of rounds in the checkpoints get their
    /// present names.
    ///
    /// # Errors
    /// If the device is not there, or a folder cannot be renamed.
    pub fn new(dataset: Dataset, resolved: &Resolved, group: Group) -> Result<Self> {
        let mut settings = resolved.settings.clone();
        if !group.is_first() {
            settings.student.tensorboard.clear(); // rank 0 writes events
        }
        let checkpoints = PathBuf::from(settings.student.checkpoints.replace("<name>", &dataset.name()));
        let device = libtorch::device(settings.student.device)?;
        if device != Device::Cpu && !group.is_alone() {
            return Err(Error::input(
                format!(
                    "expected one process on a GPU, found {} ranks: gradients are summed on CPUs only",
                    group.world()
                ),
                "next: --device cpu, or start train by itself, without RANK and WORLD_SIZE",
            ));
        }
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
                schemas::warn!("warning: this libtorch does not take student.tf32");
            }
            schemas::warn!("running in {} on {}", settings.student.dtype, libtorch::described(device));
        }
        if settings.student.dtype == Dtype::Bfloat16 && !libtorch::multiplies_bfloat16(device) {
            schemas::warn!(
                "student.dtype is bfloat16, which this processor has no instructions for: matrix products run in float32"
            );
        }
        Ok(Self {
            provenance: Provenance::new("train", &resolved.show()),
            device,
            dataset,
            settings,
            group,
            checkpoints,
        })
    }

    /// Has rank 0 write a part of a table, in place of any older one.
    ///
    /// # Errors
    /// As [`Dataset::write_part`], on every rank.
    pub fn write_part<T: Table>(&self, round: u32, name: &str, rows: Vec<T>) -> Result<()> {
        let write = || Ok(self.dataset.write_part(round, name, rows, &self.provenance)?);
        self.group.on_first(write).map(|_| ())
    }

    /// Has rank 0 remove a part of a table, if it exists.
    ///
    /// # Errors
    /// As [`Dataset::remove_part`], on every rank.
    pub fn remove_part<T: Table>(&self, round: u32, name: &str) -> Result<()> {
        self.group.on_first(|| Ok(self.dataset.remove_part::<T>(round, name)?)).map(|_| ())
    }

    /// Number format of matrix products in training.
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
    /// If it is not there, or broken.
    pub fn starting_policy(&self, round: u32) -> Result<Policy> {
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
        self.read_policy(&folder)
    }

    /// The command that makes image features, where the dataset has pictures and no features yet: a student is made for
    /// features of one width.
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

    /// Reads a policy with its tokenizer.
    ///
    /// # Errors
    /// If it is not there, or broken.
    pub fn read_policy(&self, folder: &Path) -> Result<Policy> {
        let Loaded { config, weights } = checkpoint::read_student(folder)?;
        self.choose_threads(&weights);
        let fingerprint = weights.fingerprint();
        let tokenizer = Tokenizer::read(folder, &config)?;
        let weights = weights.into_device(self.device);
        let student = Student::new(&weights, &config);
        Ok(Policy { student, weights, tokenizer, fingerprint, folder: folder.to_path_buf() })
    }

    /// Small matrices are finished before a second thread has woken up; on a busy machine, waiting for it takes ten
    /// times longer. Ranks of one machine share its cores, unless OMP_NUM_THREADS says how many each may use.
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

    /// Whether a checkpoint folder is there; it appears by renaming, so it is whole.
    pub fn has(&self, folder: &Path) -> bool {
        folder.join(WEIGHTS_FILE).is_file()
    }

    /// Whether the answers of a round after `stage` are there.
    pub fn has_answers(&self, round: u32, stage: &str) -> bool {
        self.dataset.part_path::<Answer>(round, stage).is_file()
    }
}
