//! Rows by key, in memory that does not grow with their texts: the rows are in a temporary file, with 16
//! bytes per record in memory.

use crate::error::{Error, Result};
use schemas::ids;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of records that are kept in memory; more go to a file that the operating system removes.
const IN_MEMORY: usize = 2 << 20;

/// Records by key; several may have the same key.
pub(super) struct Lookup {
    file: tempfile::SpooledTempFile,
    /// First half of a key's digest, and the offset of its record.
    at: Vec<(u64, u64)>,
    end: u64,
    is_sorted: bool,
}

impl Lookup {
    pub(super) fn new() -> Self {
        Self { file: tempfile::spooled_tempfile(IN_MEMORY), at: Vec::new(), end: 0, is_sorted: true }
    }

    /// Number of records.
    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub(super) fn push<R: Serialize>(&mut self, key: &str, record: &R) -> Result<()> {
        let json = serde_json::to_vec(&(key, record)).map_err(|e| failed(e.into()))?;
        let length = u32::try_from(json.len()).map_err(|e| failed(std::io::Error::other(e)))?.to_le_bytes();
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&length))
            .and_then(|()| self.file.write_all(&json));
        written.map_err(failed)?;
        self.at.push((half(key), self.end));
        self.end += (length.len() + json.len()) as u64;
        self.is_sorted = false;
        Ok(())
    }

    /// The records of a key, in the order in which they were added.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub(super) fn get<R: DeserializeOwned>(&mut self, key: &str) -> Result<Vec<R>> {
        if !self.is_sorted {
            self.at.sort_unstable();
            self.is_sorted = true;
        }
        let half = half(key);
        let first = self.at.partition_point(|(other, _)| *other < half);
        let mut records = Vec::new();
        for (_, offset) in self.at.iter().skip(first).take_while(|(other, _)| *other == half) {
            let (own, record) = read::<R>(&mut self.file, *offset).map_err(failed)?;
            if own == key {
                records.push(record);
            }
        }
        Ok(records)
    }
}

fn read<R: DeserializeOwned>(
    file: &mut tempfile::SpooledTempFile,
    offset: u64,
) -> std::io::Result<(String, R)> {
    file.seek(SeekFrom::Start(offset))?;
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    file.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

fn half(key: &str) -> u64 {
    (ids::digest(key) >> 64) as u64
}

fn failed(source: std::io::Error) -> Error {
    Error::io("use a temporary file in", Path::new(&std::env::temp_dir()))(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_key_come_back_in_their_order() {
        let mut lookup = Lookup::new();
        for number in 0..2_000 {
            lookup.push(&format!("key {}", number % 1_000), &(number, "x".repeat(2_000))).unwrap();
        }
        let found: Vec<(u32, String)> = lookup.get("key 7").unwrap();
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [7, 1_007]);
        assert_eq!(lookup.get::<(u32, String)>("none").unwrap(), []);
        lookup.push("key 7", &(3_000, "late")).unwrap();
        assert_eq!(lookup.get::<(u32, String)>("key 7").unwrap().len(), 3);
        assert_eq!(lookup.len(), 2_001);
    }
}
