//! Opening Parquet files, and saying in words why one cannot be read.

use crate::error::{Error, Result};
use crate::file;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use std::fs::File;
use std::path::Path;

/// Opens a Parquet file of any kind, with nothing read but its footer.
///
/// # Errors
/// If it cannot be opened, is no Parquet file, or is compressed in a way that cannot be read.
pub fn open_file(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let start = read_start(&mut file).map_err(Error::io("read", path))?;
    if file::is_pointer(&start) {
        return Err(Error::NotParquet {
            path: path.to_path_buf(),
            message: format!("it is {}", file::POINTER),
        });
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| not_parquet(path, &e))?;
    let chunks = builder.metadata().row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks {
        let name = match chunk.compression() {
            Compression::GZIP(_) => "gzip",
            Compression::BROTLI(_) => "brotli",
            Compression::LZ4 | Compression::LZ4_RAW => "lz4",
            Compression::LZO => "lzo",
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) => continue,
        };
        let message = format!(
            "column `{}` is compressed with {name}: expected zstd, snappy or none; rewrite the file, in Python: \
             pq.write_table(pq.read_table(\"{}\"), \"NEW\", compression=\"zstd\")",
            chunk.column_path().string(),
            path.display()
        );
        return Err(Error::NotParquet { path: path.to_path_buf(), message });
    }
    Ok(builder)
}

/// As many bytes as tell what a file is.
fn read_start(file: &mut File) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut start = Vec::with_capacity(64);
    Read::by_ref(file).take(64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}

/// The error of a file that cannot be read as Parquet.
pub(crate) fn not_parquet(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::NotParquet { path: path.to_path_buf(), message: error.to_string().replace("Parquet error: ", "") }
}
