//! Atomic files: written next to their destination under a hidden name, synced, renamed.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Prefix of files being written. The leading dot hides them from globs such as `*.parquet`.
pub const PREFIX: &str = ".writing-";

/// Description of a Git LFS pointer, for messages.
pub const POINTER: &str = "a Git LFS pointer: the file itself was not downloaded; get it with `git lfs pull` in the folder of the clone";

/// Whether a file's bytes are a Git LFS pointer.
pub fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// Writes bytes as a file that appears atomically.
///
/// # Errors
/// If the write fails.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes a file that appears atomically, with the contents from `write`.
///
/// # Errors
/// If the write fails.
pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let (mut file, temporary) = create_beside(path)?;
    write(&mut file).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))?;
    temporary.put()
}

/// As [`write_bytes`], but the file and its name may not survive a crash of the machine until they are
/// synced.
///
/// # Errors
/// If the write fails.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let (mut file, mut temporary) = create_beside(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    fs::rename(&temporary.path, path).map_err(Error::io("rename", path))?;
    temporary.is_put = true;
    Ok(())
}

/// Where a file or folder is written until it is complete; its parent folder is created. The name is the same each
/// time, so that leftovers of a killed process are overwritten.
///
/// # Errors
/// If the folder cannot be made.
pub fn beside(target: &Path) -> Result<PathBuf> {
    let folder = folder_of(target);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    Ok(unfinished(target))
}

/// The name of a file or folder until it is complete; a killed process may have left it.
pub fn unfinished(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{PREFIX}{name}"))
}

/// Renames a synced temporary file to `target`, and ensures that the new name survives a crash.
///
/// # Errors
/// If the write fails.
pub fn put(temporary: &Path, target: &Path) -> Result<()> {
    fs::rename(temporary, target).map_err(Error::io("rename", target))?;
    let folder = folder_of(target);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

/// A temporary file next to its destination; removed unless it is moved there.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    target: PathBuf,
    is_put: bool,
}

impl Temporary {
    /// Moves the written and synced file to its destination.
    pub(crate) fn put(mut self) -> Result<()> {
        put(&self.path, &self.target)?;
        self.is_put = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_put {
            let _ = fs::remove_file(&self.path); // the original error matters more
        }
    }
}

pub(crate) fn create_beside(target: &Path) -> Result<(File, Temporary)> {
    let path = beside(target)?;
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    Ok((file, Temporary { path, target: target.to_path_buf(), is_put: false }))
}

/// Refuses a pointer of Git LFS in place of a file, as a clone without `git lfs` leaves it. A file that
/// cannot be read passes: opening it will report why.
///
/// # Errors
/// If it is one.
pub fn refuse_lfs_pointer(path: &Path) -> Result<()> {
    let mut start = Vec::with_capacity(512);
    let Ok(file) = File::open(path) else { return Ok(()) };
    if file.take(512).read_to_end(&mut start).is_err() || !is_pointer(&start) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&start);
    let size = text.lines().find_map(|line| line.strip_prefix("size "));
    Err(Error::LfsPointer {
        path: path.to_path_buf(),
        bytes: size.unwrap_or("an unknown number of").to_owned(),
    })
}

/// The folder that contains `target`; the working directory if it is only a name.
fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::{beside, refuse_lfs_pointer, write_bytes, write_unsynced, write_with};
    use std::fs;

    #[test]
    fn a_pointer_is_told_from_its_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.safetensors");
        assert!(refuse_lfs_pointer(&path).is_ok(), "not there");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4567\n";
        fs::write(&path, pointer).expect("written");
        let error = refuse_lfs_pointer(&path).expect_err("a pointer");
        assert!(error.to_string().contains("pointer of Git LFS to 4567 bytes"), "{error}");
        assert!(error.is_bad_input() && error.hint().is_some_and(|hint| hint.contains("lfs pull")));
        fs::write(&path, "version https").expect("written");
        assert!(refuse_lfs_pointer(&path).is_ok());
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("new/a.json");
        write_bytes(&path, b"old").expect("written");
        let failed = write_with(&path, |file| {
            file.write_all(b"ne")?;
            Err(std::io::Error::other("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert!(!beside(&path).expect("name").exists(), "nothing is left behind");

        // If the rename fails (a folder is in the way), no temporary file is left behind.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("inside")).expect("folder");
        assert!(write_bytes(&taken, b"new").is_err() && write_unsynced(&taken, b"new").is_err());
        assert!(!beside(&taken).expect("name").exists());
    }
}
