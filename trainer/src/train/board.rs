//! TensorBoard event files with the metrics of a running stage.
//!
//! An event is a protocol buffer of `tensorflow/core/util/event.proto`, with three fields used here, framed as a TFRecord:
//! length, checksum of the length, bytes, checksum of the bytes.

use crate::error::Result;
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;
use schemas::Metric;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The event file of one run of a stage.
#[derive(Debug)]
pub struct Board {
    file: File,
    path: PathBuf,
}

impl Board {
    /// Starts a file under `folder/round-N/stage`; a continued stage starts another next to it, as TensorBoard expects.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(folder: &Path, round: u32, stage: &str) -> Result<Self> {
        let folder = folder.join(format!("round-{round}")).join(stage);
        std::fs::create_dir_all(&folder).map_err(schemas::Error::io("make", &folder))?;
        let seconds = schemas::TimestampMs::now().0 / 1000;
        let (file, path) =
            new_file(&folder, &format!("events.out.tfevents.{seconds}.{}", std::process::id()))?;
        let mut board = Self { file, path };
        let version = Some("brain.Event:2".to_owned());
        let first = Event { wall_time: seconds as f64, step: 0, file_version: version, summary: None };
        let written = board.write(&first);
        written.map_err(schemas::Error::io("write", &board.path))?;
        Ok(board)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds rows of one step.
    ///
    /// # Errors
    /// If the write fails.
    pub fn add(&mut self, rows: &[Metric]) -> std::io::Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let scalar = |row: &Metric| Scalar { tag: row.name.clone(), simple_value: Some(row.value as f32) };
        self.write(&Event {
            wall_time: first.at.0 as f64 / 1000.0,
            step: i64::try_from(first.step).unwrap_or(i64::MAX),
            file_version: None,
            summary: Some(Summary { value: rows.iter().map(scalar).collect() }),
        })
    }

    fn write(&mut self, event: &Event) -> std::io::Result<()> {
        let bytes = event.encode_to_vec();
        let length = (bytes.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(bytes.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(&bytes);
        record.extend(masked(&bytes).to_le_bytes());
        self.file.write_all(&record) // one write, so that readers rarely see a partial record
    }
}

/// A separate file for each board, since one stage may start several within a second.
fn new_file(folder: &Path, name: &str) -> Result<(File, PathBuf)> {
    let mut number = 0u32;
    loop {
        let path = folder.join(format!("{name}.{number}"));
        match File::create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(schemas::Error::io("write", &path)(error).into()),
        }
    }
}

/// TFRecord's masked checksum: CRC-32C, rotated and offset, so that a CRC of data containing CRCs does not degenerate.
fn masked(bytes: &[u8]) -> u32 {
    CHECKSUM.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::TimestampMs;

    #[test]
    fn a_file_reads_as_it_was_written() {
        // The check value of CRC-32C, rotated and offset as in TFRecord.
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let folder = tempfile::tempdir().expect("folder");
        let mut board = Board::create(folder.path(), 2, "rl").expect("file");
        let row = |name: &str, value| Metric {
            round: 2,
            stage: "rl".into(),
            step: 7,
            epoch: 0.5,
            name: name.into(),
            value,
            at: TimestampMs(1_500),
        };
        board.add(&[row("loss", 0.25), row("kl_to_sampler", 0.0)]).expect("written");
        assert!(board.path().starts_with(folder.path().join("round-2/rl")));
        let other = Board::create(folder.path(), 2, "rl").expect("file");
        assert_ne!(other.path(), board.path(), "a board begun in the same second does not write over it");
        let bytes = std::fs::read(board.path()).expect("bytes");
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            assert_eq!(after[..4], masked(length).to_le_bytes());
            let count = u64::from_le_bytes(length.try_into().expect("eight")) as usize;
            let (data, after) = after[4..].split_at(count);
            assert_eq!(after[..4], masked(data).to_le_bytes());
            events.push(Event::decode(data).expect("event"));
            rest = &after[4..];
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let scalars = &events[1].summary.as_ref().expect("summary").value;
        assert_eq!((events[1].step, events[1].wall_time, scalars.len()), (7, 1.5, 2));
        assert_eq!((scalars[1].tag.as_str(), scalars[1].simple_value), ("kl_to_sampler", Some(0.0)));
    }
}
