//! Maps a file's columns to fields, and reads its rows, a few megabytes at a time.

use super::cell::{self, Held, type_name};
use crate::error::{Error, Result};
use crate::import::json::Node;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::file::metadata::ParquetMetaData;
use std::path::{Path, PathBuf};

/// Target memory of a batch of rows: rows with pictures are large.
const BATCH_BYTES: i64 = 8 << 20;
/// Maximum rows of a batch.
const BATCH_ROWS: i64 = 1024;

/// A field, and the possible names of its column.
#[derive(Debug, Clone)]
pub(in crate::import) struct Field {
    pub(in crate::import) name: &'static str,
    /// The first that the file has is used. `a.b` is field `b` of a struct `a`, `a+b` a list of two columns.
    pub(in crate::import) columns: Vec<String>,
    pub(in crate::import) is_required: bool,
}

/// A column, or a field within it.
#[derive(Debug, Clone, PartialEq)]
struct Source {
    root: usize,
    fields: Vec<String>,
}

/// Where a field is in a file.
#[derive(Debug)]
struct Found {
    name: &'static str,
    /// Name for the user.
    shown: String,
    sources: Vec<Source>,
}

/// A file with the columns of the fields.
#[derive(Debug)]
pub(in crate::import) struct Table {
    path: PathBuf,
    found: Vec<Found>,
    /// Columns of the file that are read.
    roots: Vec<usize>,
}

impl Table {
    /// Opens a file and looks for the fields.
    ///
    /// # Errors
    /// If it is not a Parquet file, or lacks columns; the error names all missing columns, and those that
    /// exist.
    pub(in crate::import) fn open(path: &Path, fields: &[Field]) -> Result<Self> {
        let builder = schemas::open::open_file(path)?;
        let schema = builder.schema();
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for field in fields {
            let sources = field.columns.iter().find_map(|name| Some((name, sources(schema, name)?)));
            match sources {
                Some((name, sources)) => found.push(Found { name: field.name, shown: name.clone(), sources }),
                None if field.is_required => missing.push(field),
                None => {}
            }
        }
        if !missing.is_empty() {
            return Err(lacking(path, &missing, schema));
        }
        let mut roots: Vec<usize> = found.iter().flat_map(|found| &found.sources).map(|s| s.root).collect();
        roots.sort_unstable();
        roots.dedup();
        Ok(Self { path: path.to_path_buf(), found, roots })
    }

    /// Whether the file has a field.
    pub(in crate::import) fn has(&self, name: &str) -> bool {
        self.found.iter().any(|found| found.name == name)
    }

    /// The column of a field, for messages; the field's own name if the file lacks it.
    pub(in crate::import) fn shown<'a>(&'a self, name: &'a str) -> &'a str {
        self.found.iter().find(|found| found.name == name).map_or(name, |found| &found.shown)
    }

    /// The rows, one by one, with only these fields; `None` for all.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(in crate::import) fn rows(
        &self,
        only: Option<&str>,
        mut each: impl FnMut(usize, Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let builder = schemas::open::open_file(&self.path)?;
        let is_read = |root: &&usize| {
            let of_field = |found: &&Found| only.is_none_or(|only| found.name == only);
            self.found.iter().filter(of_field).flat_map(|found| &found.sources).any(|s| s.root == **root)
        };
        let roots: Vec<usize> = self.roots.iter().filter(is_read).copied().collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
        let rows = batch_rows(builder.metadata(), &mask);
        let failed = |error: &dyn std::error::Error| {
            Error::bad_input(
                self.path.display().to_string(),
                error.to_string().replace("Parquet error: ", ""),
            )
        };
        let reader = builder.with_projection(mask).with_batch_size(rows).build().map_err(|e| failed(&e))?;
        let mut first = 0;
        for batch in reader {
            let batch = batch.map_err(|e| failed(&e))?;
            for row in 0..batch.num_rows() {
                each(first + row, Row { table: self, batch: &batch, roots: &roots, row })?;
            }
            first += batch.num_rows();
        }
        Ok(())
    }
}

/// Rows of a batch of about [`BATCH_BYTES`].
fn batch_rows(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let bytes_a_row = metadata.row_groups().iter().map(|group| {
        let chunks = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        chunks.map(|(_, chunk)| chunk.uncompressed_size()).sum::<i64>() / group.num_rows().max(1)
    });
    let rows = BATCH_BYTES / bytes_a_row.max().unwrap_or(1).max(1);
    usize::try_from(rows.clamp(1, BATCH_ROWS)).unwrap_or(1)
}

/// One row of a file.
pub(in crate::import) struct Row<'a> {
    table: &'a Table,
    batch: &'a RecordBatch,
    roots: &'a [usize],
    row: usize,
}

impl Row<'_> {
    /// The value of a field; null if the file lacks it.
    ///
    /// # Errors
    /// If its type has no such form.
    pub(in crate::import) fn node(&self, name: &str) -> Result<Node, String> {
        let Some(found) = self.table.found.iter().find(|found| found.name == name) else {
            return Ok(Node::Null);
        };
        let mut nodes = found.sources.iter().map(|source| match self.column(source) {
            Some(column) => cell::node(column, self.row, &source.fields),
            None => Ok(Node::Null),
        });
        match found.sources.as_slice() {
            [_] => nodes.next().unwrap_or(Ok(Node::Null)),
            _ => Ok(Node::List(nodes.collect::<Result<_, _>>()?)),
        }
    }

    /// The picture of the row.
    ///
    /// # Errors
    /// What was found instead.
    pub(super) fn picture(&self) -> Result<Held, String> {
        let source =
            self.table.found.iter().find(|found| found.name == "image").and_then(|f| f.sources.first());
        match source.and_then(|source| Some((self.column(source)?, source))) {
            Some((column, source)) => cell::picture(column, self.row, &source.fields),
            None => Ok(Held::Nothing),
        }
    }

    fn column(&self, source: &Source) -> Option<&dyn arrow::array::Array> {
        let place = self.roots.iter().position(|root| *root == source.root)?;
        Some(self.batch.columns().get(place)?.as_ref())
    }
}

/// The columns that a name leads to.
fn sources(schema: &Schema, name: &str) -> Option<Vec<Source>> {
    if let Some(source) = source(schema, name) {
        return Some(vec![source]);
    }
    if !name.contains('+') {
        return None;
    }
    name.split('+').map(|name| source(schema, name.trim())).collect()
}

fn source(schema: &Schema, name: &str) -> Option<Source> {
    if let Some((root, _)) = schema.column_with_name(name) {
        return Some(Source { root, fields: Vec::new() });
    }
    // The longest column name that it begins with: column names may contain dots.
    for (at, _) in name.rmatch_indices('.') {
        if let Some((root, field)) = schema.column_with_name(&name[..at]) {
            let fields: Vec<String> = name[at + 1..].split('.').map(str::to_owned).collect();
            return leads_on(field.data_type(), &fields).then_some(Source { root, fields });
        }
    }
    None
}

/// Whether fields of a struct, or of the structs of a list, have these names.
fn leads_on(data_type: &DataType, names: &[String]) -> bool {
    let Some((first, rest)) = names.split_first() else { return true };
    match data_type {
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == first && leads_on(field.data_type(), rest))
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => leads_on(item.data_type(), names),
        DataType::Dictionary(_, values) => leads_on(values, names),
        _ => false,
    }
}

fn lacking(path: &Path, missing: &[&Field], schema: &Schema) -> Error {
    let columns = |field: &Field| {
        let names: Vec<String> = field.columns.iter().map(|name| format!("`{name}`")).collect();
        match field.columns.as_slice() {
            [only] if only == field.name => format!("`{only}`"),
            _ => format!("{} (for {})", names.join(" or "), field.name),
        }
    };
    let missing: Vec<String> = missing.iter().map(|field| columns(field)).collect();
    let there =
        schema.fields().iter().map(|field| format!("{} ({})", field.name(), type_name(field.data_type())));
    let plural = if missing.len() > 1 { "columns" } else { "a column" };
    let message = format!(
        "expected {plural} {}, found none; the file has {}",
        missing.join(", "),
        there.collect::<Vec<_>>().join(", ")
    );
    Error::bad_input(path.display().to_string(), message)
}
