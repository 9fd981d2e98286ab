//! The contents of a source, read and checked before anything is written.

use crate::error::{Error, Result};
use schemas::number::grouped;
use schemas::{DatasetCard, Problem};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The contents of a source.
pub(super) struct Incoming {
    /// Problems in the order of their splits.
    pub(super) problems: Vec<Problem>,
    /// Their pictures.
    pub(super) pictures: Vec<Picture>,
    /// Location of each problem in its source.
    pub(super) places: Vec<String>,
    /// The files with pictures in their rows.
    pub(super) embedded: Option<Box<dyn PictureSource>>,
    /// File names that were tried for missing pictures.
    pub(super) looked_for: Option<String>,
    /// Problems that are in no split.
    pub(super) left_out: usize,
    pub(super) card: DatasetCard,
}

impl Incoming {
    /// Empty contents of a source with this card.
    pub(super) fn new(card: DatasetCard) -> Self {
        Self {
            problems: Vec::new(),
            pictures: Vec::new(),
            places: Vec::new(),
            embedded: None,
            looked_for: None,
            left_out: 0,
            card,
        }
    }

    /// The same, or an error if there is no problem.
    pub(super) fn not_empty(self, from: &Path) -> Result<Self> {
        if self.problems.is_empty() {
            let left_out = match self.left_out {
                0 => String::new(),
                count => format!("; {} belong to no split", grouped(count)),
            };
            return Err(Error::bad_input(
                from.display().to_string(),
                format!("expected problems, found none{left_out}"),
            ));
        }
        Ok(self)
    }

    /// Ids must be unique, and usable as file names of pictures.
    pub(super) fn check(&self) -> Result<()> {
        let mut seen = HashMap::with_capacity(self.problems.len());
        for (index, problem) in self.problems.iter().enumerate() {
            let id = problem.problem_id.as_str();
            let place = |index: usize| self.places.get(index).cloned().unwrap_or_default();
            if id.is_empty()
                || id.starts_with('.')
                || id.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
            {
                let message =
                    format!("`problem_id`: expected a name that can be part of a path, found `{id}`");
                return Err(Error::bad_input(place(index), message));
            }
            if let Some(first) = seen.insert(id, index) {
                let message = format!("problem_id `{id}` appears twice, first at {}", place(first));
                return Err(Error::bad_input(place(index), message));
            }
        }
        Ok(())
    }
}

/// A problem's picture as the source has it.
pub(super) struct Picture {
    /// Index of the problem among those imported.
    pub(super) problem: usize,
    /// Where its bytes are.
    pub(super) origin: Origin,
}

/// Where a picture's bytes are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// In a file of its own.
    File(PathBuf),
    /// In a row of a Parquet file.
    Embedded(Embedded),
    /// Nowhere: the source names a picture that does not exist.
    Missing,
}

impl From<Option<PathBuf>> for Origin {
    fn from(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Missing, Self::File)
    }
}

/// Location of a picture in a source, and its hash.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Embedded {
    /// Number of the file.
    pub(super) file: usize,
    /// Row of the file, from 0.
    pub(super) row: usize,
    /// sha256 of the bytes.
    pub(super) digest: [u8; 32],
}

impl Embedded {
    /// Whether a file contains this picture.
    pub(super) fn is_in(&self, path: &Path) -> bool {
        // Reading it whole is safe: the picture was in memory before, when it was imported.
        std::fs::read(path).is_ok_and(|bytes| <[u8; 32]>::from(Sha256::digest(bytes)) == self.digest)
    }
}

/// A source with pictures in its rows.
pub(super) trait PictureSource {
    /// Writes pictures to their paths. The caller syncs the folder.
    ///
    /// # Errors
    /// If the source was changed since it was checked, or a write fails.
    fn write(&self, wanted: &[(&Embedded, PathBuf)]) -> Result<()>;
}
