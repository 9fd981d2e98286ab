//! What wrote a file: program, version, git revision and settings.

use parquet::file::metadata::KeyValue;
use sha2::{Digest, Sha256};

/// Major and minor version of the tables that this build writes. Readers refuse a newer major version;
/// a minor version adds nullable columns, which are null in older files.
pub const SCHEMA_VERSION: (u32, u32) = (1, 3);

/// Git revision of this build, `unknown` outside a clone.
pub const GIT_REVISION: &str = env!("ARES_GIT_REVISION");

/// Stored in every file's key-value metadata.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Program, version and git revision.
    pub created_by: String,
    /// sha256 of the resolved settings.
    pub config_sha256: String,
}

impl Provenance {
    /// Provenance of `program` (for instance `train`) running with these resolved settings.
    pub fn new(program: &str, settings: &str) -> Self {
        Self {
            created_by: format!("{program} {} ({GIT_REVISION})", env!("CARGO_PKG_VERSION")),
            config_sha256: sha256_hex(settings.as_bytes()),
        }
    }

    pub(crate) fn key_values(&self, table: &str) -> Vec<KeyValue> {
        let (major, minor) = SCHEMA_VERSION;
        [
            ("ares.table", table.to_owned()),
            ("ares.schema_version", format!("{major}.{minor}")),
            ("ares.created_by", self.created_by.clone()),
            ("ares.config_sha256", self.config_sha256.clone()),
        ]
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect()
    }
}

/// Lower-case hexadecimal sha256 of some bytes.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal form of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}
