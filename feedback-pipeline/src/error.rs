//! Every error that can end the command, with its exit status and a hint about the next command.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message names its fields
pub enum Error {
    #[error(transparent)]
    Dataset(#[from] schemas::Error),

    #[error("{location}: {message}")]
    BadInput { location: String, message: String },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{}: {message}", path.display())]
    Cache { path: PathBuf, message: String },

    #[error("{} is damaged: {message}", path.display())]
    CacheDamaged { path: PathBuf, message: String },

    #[error("{variable} is not set, and {provider} needs a key")]
    MissingKey { variable: String, provider: &'static str },

    #[error(
        "the budget of ${max_usd} is reached: ${spent_usd:.4} spent, the next request may cost ${next_usd:.4}"
    )]
    Budget { max_usd: f64, spent_usd: f64, next_usd: f64 },

    #[error("the Teacher service failed: {why}")]
    Service { why: String, hint: Option<&'static str> },

    #[error("interrupted; every paid reply is kept")]
    Interrupted,

    #[error("{message}")]
    OtherTeacher { message: String, hint: String },

    #[error("{message}")]
    NothingToExport { message: String, hint: String },

    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// An input/output error on `path` while doing `action` ("read", "write", "create").
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Bad input at a place, for instance `problems.json, problem 17`.
    pub fn bad_input(location: impl Into<String>, message: impl Into<String>) -> Self {
        Self::BadInput { location: location.into(), message: message.into() }
    }

    /// Exit status: 1 failed, 2 bad usage or input, 3 stopped by the budget, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Dataset(error) if error.is_bad_input() => 2,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 2,
            Self::BadInput { .. }
            | Self::MissingKey { .. }
            | Self::CacheDamaged { .. }
            | Self::OtherTeacher { .. }
            | Self::NothingToExport { .. } => 2,
            Self::Budget { .. } => 3,
            Self::Interrupted => 130,
            Self::Dataset(_)
            | Self::Io { .. }
            | Self::Cache { .. }
            | Self::Service { .. }
            | Self::Failed(_) => 1,
        }
    }

    /// What to do next, or which command to run, if known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Dataset(schemas::Error::NotADataset { .. }) => {
                "create a dataset first: collect-feedback import scienceqa --from DIR --data datasets/NAME"
                    .to_owned()
            }
            Self::Dataset(schemas::Error::Locked { .. }) => {
                "wait for the other process to finish, or stop it; nothing was changed".to_owned()
            }
            Self::Dataset(error) => error.hint()?.to_owned(),
            Self::MissingKey { variable, .. } => {
                format!("export {variable}=…, or try without a key: --teacher reference")
            }
            Self::Budget { .. } => {
                "to continue, run the same command with a higher --max-usd; nothing is paid for twice"
                    .to_owned()
            }
            Self::Interrupted => {
                "run the same command again to continue; nothing is paid for twice".to_owned()
            }
            Self::CacheDamaged { path, .. } => format!(
                "restore {0} from a backup, or recover it: sqlite3 {0} .recover | sqlite3 recovered.sqlite; \
                 without it, complete tables are unaffected, but other replies must be paid for again",
                path.display()
            ),
            Self::Cache { path, .. } => format!(
                "check free disk space and write access to {}, then run the same command again; only replies that were in flight are paid for again",
                path.display()
            ),
            Self::OtherTeacher { hint, .. } | Self::NothingToExport { hint, .. } => hint.clone(),
            Self::Service { hint, .. } => (*hint)?.to_owned(),
            _ => return None,
        })
    }
}
