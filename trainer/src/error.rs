//! Errors of the trainer, with hints for the user.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was wrong, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message names its fields
pub enum Error {
    #[error(transparent)]
    Data(#[from] schemas::Error),

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{}: {message}", path.display())]
    Checkpoint { path: PathBuf, message: String },

    #[error("{}: weights do not fit the student:\n  {}", path.display(), problems.join("\n  "))]
    Weights { path: PathBuf, problems: Vec<String> },

    #[error("{}: {message}", path.display())]
    Tokenizer { path: PathBuf, message: String },

    #[error("{}: {message}", path.display())]
    Features { path: PathBuf, message: String },

    #[error("{message}")]
    BadInput { message: String, hint: Option<String> },

    #[error(
        "{stage}, step {step}: the {what} is {value} on the problems {problems}; the batch was saved as {}",
        batch.display()
    )]
    NotFinite {
        stage: &'static str,
        step: u64,
        what: &'static str,
        value: f64,
        problems: String,
        batch: PathBuf,
    },

    #[error("cannot start threads: {0}")]
    Threads(String),

    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),

    #[error("{message}")]
    Group { message: String, hint: String },

    #[error("rank {rank}: {message}")]
    OnRank { rank: usize, message: String, hint: Option<String>, code: u8 },

    #[error("interrupted; the same command continues from here")]
    Interrupted,
}

impl Error {
    /// An input/output error on `path` while doing `action` ("read", "write", "create").
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Bad input with the next command to type.
    pub fn input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::BadInput { message: message.into(), hint: Some(hint.into()) }
    }

    /// Ranks that read different files.
    pub(crate) fn ranks_differ(message: impl Into<String>) -> Self {
        Self::input(
            message,
            "all ranks must read the same dataset and checkpoints, for instance from a shared disk",
        )
    }

    /// The next command to type, if known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::BadInput { hint, .. } | Self::OnRank { hint, .. } => hint.as_deref(),
            Self::Group { hint, .. } => Some(hint),
            Self::Data(schemas::Error::NotADataset { .. }) => Some("next: collect-feedback import --help"),
            Self::NotFinite { .. } => Some(
                "no weights were changed; lower the learning rate, or exclude these problems, and run again",
            ),
            Self::Io { source, .. } | Self::Data(schemas::Error::Io { source, .. }) if is_full(source) => {
                Some("free space on that disk; the same command then continues")
            }
            Self::Data(error) => error.hint(),
            _ => None,
        }
    }

    /// Exit status: 1 failed, 2 bad usage or bad input, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Data(error) => 1 + u8::from(error.is_bad_input()),
            Self::Io { source, .. } => 1 + u8::from(source.kind() == std::io::ErrorKind::NotFound),
            Self::NotFinite { .. } | Self::Torch(_) | Self::Threads(_) | Self::Group { .. } => 1,
            Self::OnRank { code, .. } => *code,
            Self::Interrupted => 130,
            _ => 2,
        }
    }
}

/// Whether a write failed because the disk is full. Parquet's writer keeps the cause only as text.
fn is_full(source: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(source.kind(), StorageFull | QuotaExceeded)
        || source.to_string().contains("No space left on device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_a_hint() {
        let hint = |source| Error::io("write", "a")(source).hint().map(ToOwned::to_owned);
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let wrapped = std::io::Error::other(format!("Parquet error: {full}"));
        let expected = Some("free space on that disk; the same command then continues".to_owned());
        assert_eq!(hint(full), expected);
        assert_eq!(hint(wrapped), expected);
        assert_eq!(hint(std::io::Error::from_raw_os_error(libc::EACCES)), None);
    }
}
