//! The second pass: pictures are written from the source's rows to files, one at a time.

use super::cell::Held;
use super::columns::{Field, Table};
use crate::error::{Error, Result};
use crate::import::incoming::{Embedded, PictureSource};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The files that pictures are read from.
pub(super) struct Files {
    pub(super) files: Vec<PathBuf>,
    /// The field `image`.
    pub(super) field: Field,
}

impl PictureSource for Files {
    fn write(&self, wanted: &[(&Embedded, PathBuf)]) -> Result<()> {
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
