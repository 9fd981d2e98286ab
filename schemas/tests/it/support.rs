//! Files as other programs write them.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use schemas::Table;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

/// The rows as an Arrow batch of the table's own types.
pub(crate) fn batch<T: Table>(rows: &[T]) -> RecordBatch {
    serde_arrow::to_record_batch(&T::fields(), &rows).unwrap()
}

/// The batch with one column's values replaced, whatever their type.
pub(crate) fn with_column(batch: &RecordBatch, name: &str, array: ArrayRef) -> RecordBatch {
    let schema = batch.schema();
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            if field.name() == name {
                (Field::new(name, array.data_type().clone(), true), array.clone())
            } else {
                (field.as_ref().clone(), column.clone())
            }
        })
        .unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// The batch without one column.
pub(crate) fn without_column(batch: &RecordBatch, name: &str) -> RecordBatch {
    let mut batch = batch.clone();
    batch.remove_column(batch.schema().index_of(name).unwrap());
    batch
}

/// Writes a batch with Arrow's own writer and these keys in the metadata.
pub(crate) fn write_foreign(path: &Path, batch: &RecordBatch, keys: &[(&str, &str)]) {
    let keys =
        keys.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(keys)).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// The names in a folder, hidden ones too, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The error message that a user sees.
pub(crate) fn message<T>(result: schemas::Result<T>) -> String {
    match result {
        Ok(_) => panic!("this should go wrong"),
        Err(error) => error.to_string(),
    }
}
