//! Opens Parquet files, with readable errors.

use crate::error::{Error, Result};
use crate::file;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use std::fs::File;
use std::path::Path;

/// Opens a Parquet file of any kind, reading only its footer.
///
/// # Errors
/// If it cannot be opened, is not a Parquet file, or uses an unsupported compression.
pub fn open_file(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    file::refuse_lfs_pointer(path)?;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| not_parquet(path, &e))?;
    check_compression(path, builder.metadata())?;
    Ok(builder)
}

/// Refuses unsupported compressions by name.
fn check_compression(path: &Path, metadata: &ParquetMetaData) -> Result<()> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    for column in columns {
        let name = match column.compression() {
            Compression::GZIP(_) => "gzip",
            Compression::BROTLI(_) => "brotli",
            Compression::LZ4 | Compression::LZ4_RAW => "lz4",
            Compression::LZO => "LZO",
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => continue,
        };
        return Err(Error::Compression { path: path.to_path_buf(), found: name });
    }
    Ok(())
}

/// The error of a file that cannot be read as Parquet.
pub(crate) fn not_parquet(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::NotParquet { path: path.to_path_buf(), message: error.to_string().replace("Parquet error: ", "") }
}
