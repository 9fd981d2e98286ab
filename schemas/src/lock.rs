//! The lock of a dataset. Once it is held, round folders with old names are renamed.

use crate::answer::Answer;
use crate::column::Table;
use crate::correction::Correction;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::judgement::Judgement;
use crate::metric::Metric;
use crate::rationale::Rationale;
use crate::reject::Reject;
use crate::request::Request;
use crate::rollout::Rollout;
use crate::rounds;
use crate::score::Score;
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;

/// The programs, with the tables that each writes.
const WRITERS: [(&str, &[&str]); 2] = [
    ("train", &[Rollout::NAME, Rationale::NAME, Answer::NAME, Metric::NAME]),
    ("collect-feedback", &[Score::NAME, Correction::NAME, Judgement::NAME, Request::NAME, Reject::NAME]),
];

/// Held while a command works on a dataset; the operating system frees it when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Dataset {
    /// Locks the dataset for one `program`; a second process of that program is refused. Round folders with
    /// the names of earlier versions are renamed.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds the lock; also if a folder cannot be renamed.
    pub fn lock(&self, program: &str) -> Result<Lock> {
        fs::create_dir_all(self.root()).map_err(Error::io("create", self.root()))?;
        let lock = self.lock_only(program)?;
        self.rename_rounds(program)?;
        Ok(lock)
    }

    fn lock_only(&self, program: &str) -> Result<Lock> {
        let path = self.root().join(format!(".{program}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked {
                path: self.root().to_path_buf(),
                program: program.to_owned(),
                lock: path,
            }),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    /// Renames folders of rounds with old names. Tables of the other program are renamed only while it is not
    /// running: it may be an older version, which would not find them again.
    fn rename_rounds(&self, program: &str) -> Result<()> {
        let mut count = 0;
        for (owner, tables) in WRITERS {
            let folders: Vec<PathBuf> = tables.iter().map(|table| self.root().join(table)).collect();
            if !folders.iter().any(|folder| rounds::is_outdated(folder)) {
                continue;
            }
            let _held = match (owner != program).then(|| self.lock_only(owner)).transpose() {
                Ok(held) => held,
                Err(_) => continue,
            };
            for folder in folders {
                count += rounds::rename(&folder)?;
            }
        }
        if count > 0 {
            crate::warn!("{}: folders of rounds renamed from `round=N` to `round-N`", self.root().display());
        }
        Ok(())
    }
}
