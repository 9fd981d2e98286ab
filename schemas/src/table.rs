//! Typed reading and atomic writing of one Parquet file.
//!
//! A file appears atomically (see [`crate::file`]). Every cell that is read or written is checked against its
//! column's declaration.

use crate::column::{Column, Table};
use crate::error::{Error, Result};
use crate::file;
use crate::open::{not_parquet, open_file};
use crate::provenance::{Provenance, SCHEMA_VERSION};
use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows converted at a time.
const BATCH_ROWS: usize = 1024;
/// Maximum rows of a row group.
const GROUP_ROWS: usize = 64 * 1024;
/// Maximum memory of the open row group. Together with the next two limits, it keeps a writer's memory small
/// and constant.
const GROUP_BYTES: usize = 4 << 20;
/// Maximum bytes of a column's dictionary; larger ones are replaced by plain values.
const DICTIONARY_BYTES: usize = 256 << 10;
/// Maximum bytes of an uncompressed page.
const PAGE_BYTES: usize = 256 << 10;

/// Writes one Parquet file of table `T`; nothing is visible at its path before [`TableWriter::finish`].
pub struct TableWriter<T: Table> {
    path: PathBuf,
    writer: ArrowWriter<File>,
    temporary: file::Temporary,
    fields: Vec<Arc<Field>>,
    columns: Vec<Column>,
    rows: Vec<T>,
    written: usize,
}

impl<T: Table> TableWriter<T> {
    /// Starts a file that will appear at `path`. Missing folders are made.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(path: &Path, provenance: &Provenance) -> Result<Self> {
        let (file, temporary) = file::create_beside(path)?;
        let fields = T::fields();
        let schema =
            Arc::new(Schema::new(fields.iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_created_by(provenance.created_by.clone())
            .set_key_value_metadata(Some(provenance.key_values(T::NAME)))
            .build();
        let writer =
            ArrowWriter::try_new(file, schema, Some(properties)).map_err(|e| write_error(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            writer,
            temporary,
            fields,
            columns: T::columns(),
            rows: Vec::new(),
            written: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If a cell breaks its column's declaration, or the write fails.
    pub fn push(&mut self, row: T) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() >= BATCH_ROWS { self.flush_rows() } else { Ok(()) }
    }

    /// Number of rows added so far.
    pub fn len(&self) -> usize {
        self.written + self.rows.len()
    }

    /// True if no row was added yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn flush_rows(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = serde_arrow::to_record_batch(&self.fields, &self.rows)
            .map_err(|e| Error::Convert { path: self.path.clone(), message: e.to_string() })?;
        check_values(&self.path, &batch, &self.columns, self.written)?;
        self.writer.write(&batch).map_err(|e| write_error(&self.path, e))?;
        self.written += self.rows.len();
        self.rows.clear();
        if self.writer.in_progress_rows() >= GROUP_ROWS || self.writer.memory_size() > GROUP_BYTES {
            self.writer.flush().map_err(|e| write_error(&self.path, e))?;
        }
        Ok(())
    }

    /// Makes the file appear at its path, synced to disk; returns its number of rows.
    ///
    /// # Errors
    /// If the write fails; then nothing appears.
    pub fn finish(mut self) -> Result<usize> {
        self.flush_rows()?;
        let file = self.writer.into_inner().map_err(|e| write_error(&self.path, e))?;
        file.sync_all().map_err(Error::io("sync", &self.path))?;
        self.temporary.put()?;
        Ok(self.written)
    }
}

/// Writes all rows as one file; see [`TableWriter`].
///
/// # Errors
/// If a cell breaks its column's declaration, or the write fails.
pub fn write<T: Table>(
    path: &Path,
    rows: impl IntoIterator<Item = T>,
    provenance: &Provenance,
) -> Result<usize> {
    let mut writer = TableWriter::create(path, provenance)?;
    rows.into_iter().try_for_each(|row| writer.push(row))?;
    writer.finish()
}

fn write_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    use std::error::Error as _;
    // The operating system's error (no space left, read-only) is more useful than Parquet's wrapper around
    // it.
    let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    Error::Io { action: "write", path: path.to_path_buf(), source: std::io::Error::other(message) }
}

/// Reads all rows of one file.
///
/// # Errors
/// If the file is missing, is not a Parquet file, contains another table or a newer schema, lacks a column,
/// or a cell violates its column's declaration; the error names file, column, expected and found.
pub fn read<T: Table>(path: &Path) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for batch in Batches::<T, T>::open(path)? {
        rows.extend(batch?);
    }
    Ok(rows)
}

/// Reads one file batch by batch, only the columns that the fields of `P` name; memory stays flat.
pub struct Batches<T: Table, P: DeserializeOwned> {
    path: PathBuf,
    reader: parquet::arrow::arrow_reader::ParquetRecordBatchReader,
    columns: Vec<Column>,
    row: usize,
    round: Option<u32>,
    marker: PhantomData<fn() -> (T, P)>,
}

impl<T: Table> Batches<T, T> {
    /// Opens a file to read whole rows.
    ///
    /// # Errors
    /// As [`read`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::with_columns(path, T::columns())
    }
}

impl<T: Table, P: DeserializeOwned> Batches<T, P> {
    /// Opens a file to read only the named columns, into a row type `P` with fields of those names.
    ///
    /// # Errors
    /// As [`read`].
    pub fn project(path: &Path, names: &[&str]) -> Result<Self> {
        Self::with_columns(
            path,
            T::columns().into_iter().filter(|column| names.contains(&column.name)).collect(),
        )
    }

    fn with_columns(path: &Path, columns: Vec<Column>) -> Result<Self> {
        let builder = open_file(path)?;
        let minor = check_header::<T>(path, builder.metadata())?;
        for column in &columns {
            let Ok(field) = builder.schema().field_with_name(column.name) else {
                if column.nullable && column.since > minor {
                    continue; // read as null
                }
                return Err(Error::MissingColumn {
                    path: path.to_path_buf(),
                    column: column.name.to_owned(),
                    expected: column.data_type.to_string(),
                });
            };
            check_type(path, column, field.data_type())?;
        }
        let names = columns.iter().map(|column| column.name);
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|e| not_parquet(path, &e))?;
        Ok(Self { path: path.to_path_buf(), reader, columns, row: 0, round: None, marker: PhantomData })
    }

    /// The same, refusing rows of another round than that of their folder, which show that the part was copied there.
    pub fn of_round(mut self, round: u32) -> Self {
        self.round = Some(round);
        self
    }

    fn check_round(&self, batch: &RecordBatch) -> Result<()> {
        let Some(round) = self.round else { return Ok(()) };
        let Some(column) = self.columns.iter().find(|column| column.name == "round") else { return Ok(()) };
        let rounds = batch.column_by_name("round").and_then(|array| array.as_primitive_opt::<UInt32Type>());
        let found = rounds.and_then(|rounds| {
            rounds
                .iter()
                .enumerate()
                .find_map(|(row, found)| Some((row, found?)).filter(|(_, found)| *found != round))
        });
        found.map_or(Ok(()), |(row, found)| {
            Err(self.value_error(column, self.row + row, &round.to_string(), &found.to_string()))
        })
    }

    /// The columns of a batch, checked and in the declared types.
    fn check(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields = Vec::with_capacity(self.columns.len());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let Some(array) = batch.column_by_name(column.name) else {
                // Only columns that older files lack can be missing here.
                arrays.push(new_null_array(&column.data_type, batch.num_rows()));
                fields.push(column.field());
                continue;
            };
            if !column.nullable && array.null_count() > 0 {
                let row = (0..array.len()).find(|&row| array.is_null(row)).unwrap_or_default();
                return Err(self.value_error(column, self.row + row, "a value", "null"));
            }
            // Other writers use LargeUtf8, Utf8View or LargeList for the same data.
            let array = cast_with_options(
                array,
                &column.data_type,
                &CastOptions { safe: false, ..Default::default() },
            )
            .map_err(|e| Error::ColumnType {
                path: self.path.clone(),
                column: column.name.to_owned(),
                expected: column.data_type.to_string(),
                found: e.to_string(),
            })?;
            fields.push(column.field());
            arrays.push(array);
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|e| self.conversion(e.to_string()))?;
        check_values(&self.path, &batch, &self.columns, self.row)?;
        self.check_round(&batch)?;
        self.row += batch.num_rows();
        Ok(batch)
    }

    fn conversion(&self, message: String) -> Error {
        Error::Convert { path: self.path.clone(), message }
    }

    fn next_checked(&mut self) -> Option<Result<RecordBatch>> {
        let batch = self.reader.next()?.map_err(|error| not_parquet(&self.path, &error));
        Some(batch.and_then(|batch| self.check(&batch)))
    }

    /// The batches as Arrow columns instead of rows.
    pub fn columns(mut self) -> impl Iterator<Item = Result<RecordBatch>> {
        std::iter::from_fn(move || self.next_checked())
    }

    fn value_error(&self, column: &Column, row: usize, expected: &str, found: &str) -> Error {
        Error::Value {
            path: self.path.clone(),
            column: column.name.to_owned(),
            row,
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}

impl<T: Table, P: DeserializeOwned> Iterator for Batches<T, P> {
    type Item = Result<Vec<P>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_checked()?;
        Some(batch.and_then(|batch| {
            serde_arrow::from_record_batch(&batch).map_err(|e| self.conversion(e.to_string()))
        }))
    }
}

/// Number of rows of a file, from its footer alone.
///
/// # Errors
/// As [`read`].
pub fn count_rows<T: Table>(path: &Path) -> Result<u64> {
    let builder = open_file(path)?;
    check_header::<T>(path, builder.metadata())?;
    Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default())
}

/// Checks that a file is of the table and not of a newer major version; returns its minor version. Files
/// written by notebooks have no `ares.` keys: they are checked by their columns alone, and may lack those
/// added since minor version 0.
fn check_header<T: Table>(path: &Path, metadata: &ParquetMetaData) -> Result<u32> {
    let find = |key: &str| {
        let pairs = metadata.file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.clone()
    };
    if let Some(table) = find("ares.table")
        && table != T::NAME
    {
        return Err(Error::WrongTable { path: path.to_path_buf(), expected: T::NAME, found: table });
    }
    let mut minor = 0;
    if let Some(version) = find("ares.schema_version") {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        let major = numbers.next().flatten();
        minor = numbers.next().flatten().unwrap_or_default();
        if major.is_none_or(|major| major > SCHEMA_VERSION.0) {
            return Err(Error::NewerSchema {
                path: path.to_path_buf(),
                found: version,
                supported: format!("{}.{}", SCHEMA_VERSION.0, SCHEMA_VERSION.1),
            });
        }
    }
    Ok(minor)
}

fn check_type(path: &Path, column: &Column, found: &DataType) -> Result<()> {
    if same_kind(&column.data_type, found) {
        return Ok(());
    }
    Err(Error::ColumnType {
        path: path.to_path_buf(),
        column: column.name.to_owned(),
        expected: column.data_type.to_string(),
        found: found.to_string(),
    })
}

/// Whether two types hold the same data: equal up to large and view variants and the names of list items.
fn same_kind(expected: &DataType, found: &DataType) -> bool {
    use DataType as D;
    match (expected, found) {
        (D::Utf8, D::Utf8 | D::LargeUtf8 | D::Utf8View) => true,
        (D::List(a), D::List(b) | D::LargeList(b) | D::ListView(b) | D::LargeListView(b)) => {
            same_kind(a.data_type(), b.data_type())
        }
        (D::Struct(a), D::Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && same_kind(a.data_type(), b.data_type()))
        }
        (D::Timestamp(unit_a, zone_a), D::Timestamp(unit_b, zone_b)) => {
            unit_a == unit_b && zone_a.is_some() == zone_b.is_some()
        }
        _ => expected == found,
    }
}

fn check_values(path: &Path, batch: &RecordBatch, columns: &[Column], first_row: usize) -> Result<()> {
    for column in columns {
        let Some(array) = batch.column_by_name(column.name) else { continue };
        let problem = |row: usize, expected: String, found: String| Error::Value {
            path: path.to_path_buf(),
            column: column.name.to_owned(),
            row: first_row + row,
            expected,
            found,
        };
        if let DataType::List(_) = array.data_type()
            && let Some(list) = array.as_any().downcast_ref::<ListArray>()
            && list.values().null_count() > 0
        {
            let row = (0..list.len()).find(|&row| list.value(row).null_count() > 0).unwrap_or_default();
            return Err(problem(row, "a list without nulls".into(), "null".into()));
        }
        if !column.one_of.is_empty()
            && let Some(texts) = array.as_any().downcast_ref::<StringArray>()
        {
            for (row, text) in texts.iter().enumerate() {
                if let Some(text) = text
                    && !column.one_of.contains(&text)
                {
                    return Err(problem(
                        row,
                        format!("one of {}", column.one_of.join(", ")),
                        format!("`{text}`"),
                    ));
                }
            }
        }
        if let Some((low, high)) = column.range {
            let numbers: Box<dyn Iterator<Item = Option<f64>>> =
                if let Some(array) = array.as_any().downcast_ref::<Float32Array>() {
                    Box::new(array.iter().map(|number| number.map(f64::from)))
                } else if let Some(array) = array.as_any().downcast_ref::<Float64Array>() {
                    Box::new(array.iter())
                } else {
                    continue;
                };
            for (row, number) in numbers.enumerate() {
                if let Some(number) = number
                    && !(low..=high).contains(&number)
                {
                    return Err(problem(row, format!("a number from {low} to {high}"), number.to_string()));
                }
            }
        }
    }
    Ok(())
}
