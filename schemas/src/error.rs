//! Errors of dataset folders, Parquet files and settings.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was wrong, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message names its fields
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{} is not a readable Parquet file: {message}", path.display())]
    NotParquet { path: PathBuf, message: String },

    #[error(
        "{}: expected the file itself, found a pointer of Git LFS to {bytes} bytes: it was cloned without its content",
        path.display()
    )]
    LfsPointer { path: PathBuf, bytes: String },

    #[error("{}: compression: expected zstd, snappy or none, found {found}", path.display())]
    Compression { path: PathBuf, found: &'static str },

    #[error("{}: table: expected `{expected}`, found `{found}`", path.display())]
    WrongTable { path: PathBuf, expected: &'static str, found: String },

    #[error(
        "{}: written with schema version {found}, this program reads up to {supported}: use a newer version of it",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: String, supported: String },

    #[error("{}: column `{column}`: expected {expected}, found none", path.display())]
    MissingColumn { path: PathBuf, column: String, expected: String },

    #[error("{}: column `{column}`: expected {expected}, found {found}", path.display())]
    ColumnType { path: PathBuf, column: String, expected: String, found: String },

    #[error("{}: column `{column}`, row {row}: expected {expected}, found {found}", path.display())]
    Value { path: PathBuf, column: String, row: usize, expected: String, found: String },

    #[error("{}: rows cannot be converted: {message}", path.display())]
    Convert { path: PathBuf, message: String },

    #[error("{}: {column} `{value}` appears twice", path.display())]
    Duplicate { path: PathBuf, column: &'static str, value: String },

    #[error("{} and {} are the same file of a round, but differ; remove the outdated one", old.display(), new.display())]
    TwoNames { old: PathBuf, new: PathBuf },

    #[error("{} is not a dataset folder: {missing} is missing", path.display())]
    NotADataset { path: PathBuf, missing: String },

    #[error("{} is in use by another {program} (its lock file is {})", path.display(), lock.display())]
    Locked { path: PathBuf, program: String, lock: PathBuf },

    #[error("{origin}: {message}")]
    Settings { origin: String, message: String },
}

impl Error {
    /// An input/output error on `path` while doing `action` ("read", "write", "create").
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// What to do next, if the error alone determines it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::LfsPointer { .. } => {
                Some("next: git lfs pull in the folder that was cloned, or download the file from its page")
            }
            Self::Compression { .. } => {
                Some("next: write it again, for instance with polars: read_parquet(…).write_parquet(…)")
            }
            _ => None,
        }
    }

    /// True if the user's input or usage is at fault (exit status 2), false for failures of the machine (1).
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData)
            }
            _ => true,
        }
    }
}
