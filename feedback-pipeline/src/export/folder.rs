//! The folder of an export: written beside its destination, and renamed to it when complete.

use crate::error::{Error, Result};
use schemas::file;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Marks a folder as an export.
pub(super) const MANIFEST: &str = "manifest.json";

/// Files of an export that are not listed in its manifest.
const OWN: [&str; 3] = [MANIFEST, "README.md", "dataset_info.json"];
/// Folder of an export's pictures.
const IMAGES: &str = "images";

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
    /// If something already exists there; with `replace`, if it is not an export.
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
                if !is_empty && let Some(why) = not_replaced(target)? {
                    return Err(Error::bad_input(place, why));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(Error::bad_input(place, "expected a folder, found a file"));
            }
            Err(error) => return Err(Error::io("read", target)(error)),
        }
        let staged = file::beside(target)?;
        remove(&staged)?; // left by a killed run
        fs::create_dir_all(&staged).map_err(Error::io("create", &staged))?;
        Ok(Self { target: target.to_path_buf(), staged, is_put: false })
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.staged
    }

    /// Moves the folder to its destination.
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
            let _ = remove(&self.staged); // the original error matters more
        }
    }
}

/// The absolute path of a folder that may not exist yet, with links resolved: it is compared with the
/// dataset's folders.
pub(super) fn resolved(target: &Path) -> Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = std::path::absolute(target).map_err(Error::io("find", target))?;
    loop {
        match fs::canonicalize(&at) {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let Some(name) = at.file_name() else { return Ok(target.to_path_buf()) };
                missing.push(name.to_owned());
                at.pop();
            }
            Err(error) => return Err(Error::io("find", target)(error)),
        }
    }
}

/// Why the folder at `target` may not be replaced, if so: it is not an export, or contains other files than
/// the export's own.
fn not_replaced(target: &Path) -> Result<Option<String>> {
    let manifest = fs::read(target.join(MANIFEST)).ok();
    let manifest = manifest.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let Some(manifest) = manifest.filter(|manifest| manifest["ares_export"].is_u64()) else {
        return Ok(Some(format!("expected an export to replace, found files without the {MANIFEST} of one")));
    };
    let listed = manifest["files"].as_array().into_iter().flatten();
    let listed: Vec<&Path> = listed.filter_map(|file| file["file"].as_str().map(Path::new)).collect();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = target.join(&folder);
        for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
            let entry = entry.map_err(Error::io("read", &path))?;
            let name = folder.join(entry.file_name());
            let is_own = listed.contains(&name.as_path())
                || OWN.iter().any(|own| name == Path::new(own))
                || name.starts_with(IMAGES);
            if is_own {
                continue;
            }
            let is_folder = entry.file_type().map_err(Error::io("read", &path))?.is_dir();
            if is_folder && listed.iter().any(|file| file.starts_with(&name)) {
                folders.push(name);
                continue;
            }
            let name = name.display();
            return Ok(Some(format!(
                "expected nothing but the files of the export to replace, found `{name}`"
            )));
        }
    }
    Ok(None)
}

/// Puts `staged` in place of `target`; afterwards the old folder is at one of the other two paths.
fn exchange(staged: &Path, target: &Path, old: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE).is_err() {
        // This file system cannot exchange two folders: for a moment neither is there.
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

/// Syncs all files and folders below one; where the system allows it, with a single call for thousands of
/// pictures.
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
        fs::write(folder.path().join(MANIFEST), r#"{"ares_export":1,"files":[{"file":"a/train.parquet"}]}"#)
            .unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/train.parquet"), text).unwrap();
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
        assert_eq!(fs::read_to_string(target.join("a/train.parquet")).unwrap(), "second");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        for (name, text) in [("a/notes.md", "mine"), ("thesis.tex", "mine")] {
            fs::write(target.join(name), text).unwrap();
            let error = write(&target, true, "third").unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(name), "{error}");
            fs::remove_file(target.join(name)).unwrap();
        }
        fs::write(target.join("thesis.tex"), "mine").unwrap();
        for manifest in ["{}", "no JSON"] {
            fs::write(target.join(MANIFEST), manifest).unwrap();
            assert_eq!(write(&target, true, "third").unwrap_err().exit_code(), 2);
        }
        assert_eq!(fs::read_to_string(target.join("thesis.tex")).unwrap(), "mine");
        assert_eq!(write(&target.join("thesis.tex"), true, "").unwrap_err().exit_code(), 2);
    }
}
