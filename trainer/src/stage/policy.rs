//! The policies of a round: which folder one is read from, for inference or for training.

use super::context::Context;
use crate::checkpoint::folder;
use crate::checkpoint::folder::{Stored, Trunk};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::Student;
use crate::model::lora::LoraConfig;
use crate::nn::weights::Weights;
use crate::seed;
use schemas::provenance::sha256_hex;
use std::path::{Path, PathBuf};

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
        let path = policy.companions.join("tokenizer.json");
        let bytes = self.group.agree(std::fs::read(&path).map_err(Error::io("read", &path)))?;
        let own = [
            (&policy.folder, "student", format!("{}{}", policy.fingerprint, policy.identity())),
            (&policy.companions, "tokenizer", sha256_hex(&bytes)),
        ];
        for (folder, what, own) in own {
            if let Some(other) = self.group.differing(own)? {
                return Err(Error::ranks_differ(format!(
                    "ranks differ: rank {other} read a different {what} from {} than rank 0",
                    folder.display()
                )));
            }
        }
        Ok(policy)
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
}
