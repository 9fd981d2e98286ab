//! JSONL and Parquet files, one for each split, written line by line.

use super::left_out::Split;
use crate::error::{Error, Result};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows converted at a time.
const BATCH_ROWS: usize = 1024;
/// Bytes of pictures converted at a time.
const BATCH_BYTES: usize = 2 << 20;
/// Maximum memory of the open row group.
const GROUP_BYTES: usize = 4 << 20;
/// Maximum rows of a row group.
const GROUP_ROWS: usize = 64 * 1024;

/// A file of the export.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Path in the folder.
    pub(super) name: String,
    pub(super) split: Split,
    pub(super) lines: u64,
}

/// A file of rows of type `R`.
pub(super) trait Lines<R> {
    /// Adds a line.
    fn push(&mut self, row: R) -> Result<()>;
    /// Finishes the file; returns its number of lines.
    fn finish(self) -> Result<u64>;
}

/// A file for each split, created with its first line.
pub(super) struct BySplit<L> {
    open: BTreeMap<Split, (String, L)>,
}

impl<L> Default for BySplit<L> {
    fn default() -> Self {
        Self { open: BTreeMap::new() }
    }
}

impl<L> BySplit<L> {
    /// Adds a line to the file of a split, `name` with the split's name in place of `*`.
    pub(super) fn push<R>(
        &mut self,
        folder: &Path,
        name: &str,
        split: Split,
        row: R,
        create: impl FnOnce(&Path) -> Result<L>,
    ) -> Result<()>
    where
        L: Lines<R>,
    {
        let (_, lines) = match self.open.entry(split) {
            Entry::Occupied(lines) => lines.into_mut(),
            Entry::Vacant(empty) => {
                let name = name.replace('*', split.hub_name());
                let lines = create(&folder.join(&name))?;
                empty.insert((name, lines))
            }
        };
        lines.push(row)
    }

    /// Finishes all files.
    pub(super) fn finish<R>(self) -> Result<Vec<Written>>
    where
        L: Lines<R>,
    {
        let finish = |(split, (name, lines)): (Split, (String, L))| {
            Ok(Written { name, split, lines: lines.finish()? })
        };
        self.open.into_iter().map(finish).collect()
    }
}

/// One JSON object per line.
pub(super) struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
    lines: u64,
}

impl JsonLines {
    /// Starts a file.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::new(create(path)?);
        Ok(Self { path: path.to_path_buf(), file, lines: 0 })
    }
}

impl<R: Serialize> Lines<R> for JsonLines {
    fn push(&mut self, row: R) -> Result<()> {
        self.lines += 1;
        let written = serde_json::to_writer(&mut self.file, &row).map_err(std::io::Error::from);
        written.and_then(|()| self.file.write_all(b"\n")).map_err(Error::io("write", &self.path))
    }

    fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        Ok(self.lines)
    }
}

/// A row of a Parquet file.
pub(super) trait Row: Serialize {
    /// Bytes of its picture.
    fn picture_bytes(&self) -> usize;
}

/// A Parquet file whose metadata tells `datasets` what its columns are.
pub(super) struct ParquetLines<R> {
    path: PathBuf,
    fields: Vec<Arc<Field>>,
    writer: ArrowWriter<File>,
    rows: Vec<R>,
    bytes: usize,
    lines: u64,
    marker: PhantomData<R>,
}

impl<R: Row> ParquetLines<R> {
    /// Starts a file.
    pub(super) fn create(path: &Path, fields: Vec<Field>, created_by: &str) -> Result<Self> {
        let features = json!({ "info": { "features": features(&fields) } }).to_string();
        let fields: Vec<Arc<Field>> = fields.into_iter().map(Arc::new).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(created_by.to_owned())
            .build();
        let metadata = HashMap::from([("huggingface".to_owned(), features)]);
        let schema = Arc::new(Schema::new_with_metadata(Fields::from(fields.clone()), metadata));
        let writer =
            ArrowWriter::try_new(create(path)?, schema, Some(properties)).map_err(|e| failed(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            fields,
            writer,
            rows: Vec::new(),
            bytes: 0,
            lines: 0,
            marker: PhantomData,
        })
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = serde_arrow::to_record_batch(&self.fields, &self.rows)
            .map_err(|e| Error::Failed(format!("{}: {e}", self.path.display())))?;
        self.writer.write(&batch).map_err(|e| failed(&self.path, e))?;
        self.rows.clear();
        self.bytes = 0;
        if self.writer.memory_size() > GROUP_BYTES || self.writer.in_progress_rows() >= GROUP_ROWS {
            self.writer.flush().map_err(|e| failed(&self.path, e))?;
        }
        Ok(())
    }
}

impl<R: Row> Lines<R> for ParquetLines<R> {
    fn push(&mut self, row: R) -> Result<()> {
        self.lines += 1;
        self.bytes += row.picture_bytes();
        self.rows.push(row);
        if self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn finish(mut self) -> Result<u64> {
        self.flush()?;
        self.writer.close().map_err(|e| failed(&self.path, e))?;
        Ok(self.lines)
    }
}

fn create(path: &Path) -> Result<File> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    File::create(path).map_err(Error::io("create", path))
}

fn failed(path: &Path, error: parquet::errors::ParquetError) -> Error {
    Error::io("write", path)(std::io::Error::other(error.to_string()))
}

/// An embedded picture, as `datasets` reads it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Embedded {
    bytes: Bytes,
    path: String,
}

#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl Embedded {
    /// A picture with the name of its file.
    pub(super) fn new(bytes: Vec<u8>, path: &str) -> Self {
        let path = path.rsplit('/').next().unwrap_or(path).to_owned();
        Self { bytes: Bytes(bytes), path }
    }

    /// Size of the picture.
    pub(super) fn len(&self) -> usize {
        self.bytes.0.len()
    }
}

/// Marks a column of embedded pictures, for [`features`].
const PICTURE: &str = "picture";

/// A text column. Columns are declared nullable, as `datasets` does: otherwise it does not recognize a column
/// of pictures.
pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

/// A list column.
pub(super) fn list(name: &str, item: Field) -> Field {
    Field::new(name, DataType::List(Arc::new(item.with_name("item"))), true)
}

/// A column of structs.
pub(super) fn structure(name: &str, fields: Vec<Field>) -> Field {
    Field::new(name, DataType::Struct(Fields::from(fields)), true)
}

/// A column of an embedded picture.
pub(super) fn picture(name: &str) -> Field {
    let fields = vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)];
    structure(name, fields).with_metadata(HashMap::from([(PICTURE.to_owned(), String::new())]))
}

/// The features that `datasets` reads the columns as. Lists are declared in a form that its versions 2 to 5
/// all read.
fn features(fields: &[Field]) -> Value {
    let pairs = fields.iter().map(|field| (field.name().clone(), feature(field)));
    Value::Object(pairs.collect())
}

fn feature(field: &Field) -> Value {
    if field.metadata().contains_key(PICTURE) {
        return json!({ "_type": "Image" });
    }
    let value = |dtype: &str| json!({ "dtype": dtype, "_type": "Value" });
    match field.data_type() {
        DataType::List(item) => json!([feature(item)]),
        DataType::Struct(fields) => {
            let pairs = fields.iter().map(|field| (field.name().clone(), feature(field)));
            Value::Object(pairs.collect())
        }
        DataType::Utf8 => value("string"),
        DataType::Boolean => value("bool"),
        DataType::Binary => value("binary"),
        DataType::UInt8 => value("uint8"),
        DataType::UInt32 => value("uint32"),
        DataType::UInt64 => value("uint64"),
        DataType::Float32 => value("float32"),
        other => value(&other.to_string()),
    }
}
