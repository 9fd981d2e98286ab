//! The folder of an export: written beside its place, and moved there when it is complete.

use crate::error::{Error, Result};
use schemas::file;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Marks a folder as an export.
pub(super) const MANIFEST: &str = "manifest.json";

/// A folder that is being written.
pub(super) struct Folder {
    target: PathBuf,
    staged: PathBuf,
    is_put: bool,
}

impl Folder {
    /// Starts a folder that will appear at `target`.
    ///
    /// # Errors
    /// If something is there already; with `replace`, if that is no export.
    pub(super) fn create(target: &Path, replace: bool) -> Result<Self> {
        let place = target.display().to_string();
        if target.file_name().is_none() {
            return Err(Error::bad_input("--to", format!("expected a folder to create, found `{place}`")));
        }
        match fs::read_dir(target) {
            Ok(mut entries) => {
                let is_empty = entries.next().is_none();
                let is_export = target.join(MANIFEST).is_file();
                if !is_empty && !replace {
                    let hint = if is_export { "; --replace replaces the export there" } else { "" };
                    let message = format!("expected no such folder or an empty one, found files{hint}");
                    return Err(Error::bad_input(place, message));
                }
                if !is_empty && !is_export {
                    let message = format!("expected an export to replace, found files without {MANIFEST}");
                    return Err(Error::bad_input(place, message));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(Error::bad_input(place, "expected a folder, found a file"));
            }
            Err(error) => return Err(Error::io("read", target)(error)),
        }
        let staged = file::beside(target)?;
        remove(&staged)?; // of a run that was killed
        fs::create_dir_all(&staged).map_err(Error::io("create", &staged))?;
        Ok(Self { target: target.to_path_buf(), staged, is_put: false })
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.staged
    }

    /// Makes the folder appear at its place.
    pub(super) fn put(mut self) -> Result<()> {
        sync(&self.staged)?;
        let old = self.staged.with_extension("replaced");
        remove(&old)?;
        if self.target.is_dir()
            && fs::read_dir(&self.target).is_ok_and(|mut entries| entries.next().is_some())
        {
            exchange(&self.staged, &self.target, &old)?;
        } else {
            file::put(&self.staged, &self.target)?;
        }
        self.is_put = true;
        remove(&self.staged)?;
        remove(&old)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_put {
            let _ = remove(&self.staged); // the error that led here matters more
        }
    }
}

/// Puts `staged` in the place of `target`; the old folder is at one of the other two paths afterwards.
fn exchange(staged: &Path, target: &Path, old: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE).is_err() {
        // No exchange on this file system: for a moment there is neither.
        fs::rename(target, old).map_err(Error::io("rename", target))?;
        file::put(staged, target)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Syncs all files and folders below one: with one call for thousands of pictures where the system has it.
#[cfg(target_os = "linux")]
fn sync(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(Error::io("open", path))?;
    rustix::fs::syncfs(folder).map_err(|error| Error::io("sync", path)(error.into()))
}

/// Syncs all files and folders below one.
#[cfg(not(target_os = "linux"))]
fn sync(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
            sync(&entry.map_err(Error::io("read", path))?.path())?;
        }
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(target: &Path, replace: bool, text: &str) -> Result<()> {
        let folder = Folder::create(target, replace)?;
        fs::write(folder.path().join(MANIFEST), text).unwrap();
        folder.put()
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_only_exports() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        drop(Folder::create(&target, false).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left of one that failed");
        fs::create_dir(&target).unwrap();
        write(&target, false, "first").unwrap();
        let error = write(&target, false, "second").unwrap_err();
        assert!(error.to_string().contains("--replace"), "{error}");
        assert_eq!(error.exit_code(), 2);
        write(&target, true, "second").unwrap();
        assert_eq!(fs::read_to_string(target.join(MANIFEST)).unwrap(), "second");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        fs::remove_file(target.join(MANIFEST)).unwrap();
        fs::write(target.join("thesis.tex"), "mine").unwrap();
        assert_eq!(write(&target, true, "third").unwrap_err().exit_code(), 2);
        assert_eq!(fs::read_to_string(target.join("thesis.tex")).unwrap(), "mine");
        assert_eq!(write(&target.join("thesis.tex"), true, "").unwrap_err().exit_code(), 2);
    }
}
