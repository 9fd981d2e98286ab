//! Pictures: found in the source's folder, copied into the dataset under the problem's name.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What a picture must be.
pub(super) const EXPECTED: &str = "a PNG, JPEG, GIF or WebP picture";

/// The first path that is a file.
pub(super) fn first_file(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|path| path.is_file())
}

/// Extension by the contents of a file; the file's own if they are unknown.
pub(super) fn extension(file: &Path) -> Result<String> {
    Ok(known_extension(&start(file)?).map_or_else(|| own_extension(file), str::to_owned))
}

/// What a file is, if it is not a picture of a known format.
pub(super) fn unknown(file: &Path) -> Result<Option<&'static str>> {
    let start = start(file)?;
    Ok(match known_extension(&start) {
        Some(_) => None,
        None if schemas::file::is_pointer(&start) => Some(schemas::file::POINTER),
        None => Some("something else"),
    })
}

/// As many bytes as are needed to identify a file's type.
fn start(file: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let handle = fs::File::open(file).map_err(Error::io("open", file))?;
    let mut start = Vec::with_capacity(64);
    handle.take(64).read_to_end(&mut start).map_err(Error::io("read", file))?;
    Ok(start)
}

fn known_extension(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        _ => None,
    }
}

/// The extension of a path in lower case; `png` if it has none.
pub(super) fn own_extension(file: &Path) -> String {
    file.extension().map_or_else(|| "png".to_owned(), |extension| extension.to_string_lossy().to_lowercase())
}

/// Copies a file atomically; true if that changed anything. The caller syncs the folder.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool> {
    let bytes = fs::read(from).map_err(Error::io("read", from))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    schemas::file::write_unsynced(to, &bytes)?;
    Ok(true)
}
