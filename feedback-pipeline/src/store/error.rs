//! Errors of SQLite, with the file that they are about.

use crate::error::Error;
use std::path::Path;

/// Adds the file to an SQLite error, and distinguishes damage.
pub(crate) fn error(path: &Path) -> impl Fn(rusqlite::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let message = source.to_string();
        match source.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Error::CacheDamaged { path: path.clone(), message },
            _ => Error::Cache { path: path.clone(), message },
        }
    }
}
