//! The second pass: pictures go from the source's rows into files, one at a time.

use super::cell::Held;
use super::columns::{Field, Table};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where a picture is in a source, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::import) struct Embedded {
    /// Number of the file.
    pub(super) file: usize,
    /// Row of the file, from 0.
    pub(super) row: usize,
    /// sha256 of the bytes.
    pub(super) digest: [u8; 32],
}

impl Embedded {
    /// Whether a file holds this picture.
    pub(in crate::import) fn is_in(&self, path: &Path) -> bool {
        // Read in one piece: no picture is larger than what was read to import it.
        std::fs::read(path).is_ok_and(|bytes| <[u8; 32]>::from(Sha256::digest(bytes)) == self.digest)
    }
}

/// The files that pictures are read from.
pub(in crate::import) struct Pictures {
    pub(super) files: Vec<PathBuf>,
    /// The field `image`.
    pub(super) field: Field,
}

impl Pictures {
    /// Writes pictures to their paths. Whoever calls syncs the folder.
    ///
    /// # Errors
    /// If the source was changed since it was checked, or a write fails.
    pub(in crate::import) fn write(&self, wanted: &[(&Embedded, PathBuf)]) -> Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            let mut of_file: HashMap<usize, (&Embedded, &Path)> = wanted
                .iter()
                .filter(|(picture, _)| picture.file == number)
                .map(|(picture, to)| (picture.row, (*picture, to.as_path())))
                .collect();
            if of_file.is_empty() {
                continue;
            }
            let changed = || Error::bad_input(file.display().to_string(), "it was changed during the import");
            Table::open(file, std::slice::from_ref(&self.field))?.rows(None, |number, row| {
                let Some((picture, to)) = of_file.remove(&number) else { return Ok(()) };
                match row.picture() {
                    Ok(Held::Bytes(bytes)) if <[u8; 32]>::from(Sha256::digest(&bytes)) == picture.digest => {
                        Ok(schemas::file::write_unsynced(to, &bytes)?)
                    }
                    _ => Err(changed()),
                }
            })?;
            if !of_file.is_empty() {
                return Err(changed());
            }
        }
        Ok(())
    }
}
