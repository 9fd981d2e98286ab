//! A body too large for memory: written to a temporary file, and sent from there.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

/// Bytes read at a time.
const PIECE: usize = 32 << 10;

/// A body that is being written.
pub(super) struct Spool {
    file: BufWriter<File>,
    length: u64,
}

impl Spool {
    /// An empty body, in an anonymous temporary file.
    ///
    /// # Errors
    /// If the folder for temporary files cannot be written to.
    pub(super) fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(Error::io("write to", std::env::temp_dir()))?;
        Ok(Self { file: BufWriter::new(file), length: 0 })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Appends to the body.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write to", std::env::temp_dir()))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The whole body.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn finish(self) -> Result<Spooled> {
        let file = self.file.into_inner().map_err(|error| error.into_error());
        let file = file.map_err(Error::io("write to", std::env::temp_dir()))?;
        Ok(Spooled { file: Arc::new(file), length: self.length })
    }
}

/// A body in a temporary file, which may be sent several times, one after the other.
#[derive(Debug, Clone)]
pub struct Spooled {
    file: Arc<File>,
    length: u64,
}

impl Spooled {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Reads the body from its beginning.
    pub(super) fn read(&self) -> SpoolReader {
        SpoolReader { file: Arc::clone(&self.file), left: self.length, at: 0 }
    }
}

/// Hands out a body in pieces.
#[derive(Debug)]
pub(super) struct SpoolReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl SpoolReader {
    /// Appends the next piece.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let length = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        let start = out.len();
        out.resize(start + length, 0);
        let mut file = self.file.as_ref();
        file.seek(SeekFrom::Start(self.at))?;
        file.read_exact(out.get_mut(start..).unwrap_or_default())?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(())
    }
}
