//! Pictures: found in the source's folder, copied into the dataset under the problem's name.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A problem's picture as the source has it.
pub(super) struct Picture {
    /// Index of the problem among those that are imported.
    pub(super) problem: usize,
    /// The file; `None` if the source names a picture that is not there.
    pub(super) file: Option<PathBuf>,
}

/// What a picture must be.
pub(super) const EXPECTED: &str = "a PNG, JPEG, GIF or WebP picture";

/// The first of some paths that is a file.
pub(super) fn first_file(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|path| path.is_file())
}

/// Extension by what the file holds; the file's own where that is unknown.
pub(super) fn extension(file: &Path) -> Result<String> {
    Ok(known_extension(file)?.map_or_else(|| own_extension(file), str::to_owned))
}

/// Whether a file is a picture of a known format.
pub(super) fn is_known(file: &Path) -> Result<bool> {
    Ok(known_extension(file)?.is_some())
}

fn known_extension(file: &Path) -> Result<Option<&'static str>> {
    use std::io::Read;
    let mut start = [0u8; 12];
    let mut handle = fs::File::open(file).map_err(Error::io("open", file))?;
    let mut filled = 0;
    while let Some(rest) = start.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match handle.read(rest).map_err(Error::io("read", file))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(match &start {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => Some("webp"),
        _ => None,
    })
}

/// The extension of a path in lower case; `png` where it has none.
pub(super) fn own_extension(file: &Path) -> String {
    file.extension().map_or_else(|| "png".to_owned(), |extension| extension.to_string_lossy().to_lowercase())
}

/// Copies a file atomically; true if that changed anything.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool> {
    let bytes = fs::read(from).map_err(Error::io("read", from))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    schemas::file::write_bytes(to, &bytes)?;
    Ok(true)
}
