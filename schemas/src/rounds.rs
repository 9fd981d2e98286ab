//! Names of the folders of rounds: `round-1`.
//!
//! Earlier versions wrote `round=1`. pandas and pyarrow interpret that as a second column `round` and refuse
//! the files, so the name changed. Folders of both names are read as one; a program that holds the dataset's
//! lock renames the old ones. Folders and files are moved atomically, so at any time each exists under
//! exactly one of the two names.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The name of a round's folder.
pub fn name(round: u32) -> String {
    format!("round-{round}")
}

/// The name of a round's folder in earlier versions.
fn old_name(round: u32) -> String {
    format!("round={round}")
}

/// The round in a folder's name, old or new.
pub fn parse(folder: &str) -> Option<u32> {
    let round = folder.strip_prefix("round-").or_else(|| folder.strip_prefix("round="))?.parse().ok()?;
    (folder == name(round) || folder == old_name(round)).then_some(round)
}

/// A round's folder in `parent`: the existing one, else the one to create.
pub fn folder(parent: &Path, round: u32) -> PathBuf {
    let (new, old) = (parent.join(name(round)), parent.join(old_name(round)));
    if !new.exists() && old.exists() { old } else { new }
}

/// Where a round's file or folder is: in the folder that has it, else in [`folder`].
pub fn child(parent: &Path, round: u32, child: &str) -> PathBuf {
    let new = parent.join(name(round)).join(child);
    if new.exists() {
        return new;
    }
    let old = parent.join(old_name(round)).join(child);
    // Checked again, since it may just have been moved.
    if old.exists() {
        return old;
    }
    if new.exists() { new } else { folder(parent, round).join(child) }
}

/// The new path of a file in a folder with the old name.
pub(crate) fn moved(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let new = new_name(folder.file_name()?.to_str()?)?;
    Some(folder.with_file_name(new).join(path.file_name()?))
}

/// The files of a round that `is_wanted` by their names, in the order of their names, from both folders.
///
/// # Errors
/// If a folder cannot be read, or two different files have the same name.
pub(crate) fn files(parent: &Path, round: u32, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let folders = [old_name(round), name(round)].map(|name| parent.join(name));
    loop {
        // If a folder is exchanged or renamed while it is listed, the list may be incomplete, so it is read
        // again.
        let before = folders.each_ref().map(|folder| identity(folder));
        let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        let mut twice = Vec::new();
        // The old folder first: a file moved in the meantime is then seen in both rather than in neither.
        for folder in &folders {
            for path in list(folder)? {
                let name = path.file_name().unwrap_or_default().to_owned();
                if is_wanted(&name.to_string_lossy())
                    && let Some(old) = found.insert(name, path.clone())
                {
                    twice.push((old, path));
                }
            }
        }
        if folders.each_ref().map(|folder| identity(folder)) == before {
            for (old, new) in twice {
                if !is_same(&old, &new)? {
                    return Err(Error::TwoNames { old, new });
                }
            }
            return Ok(found.into_values().collect());
        }
    }
}

/// Identity of a folder, to detect that another took its place.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).ok().map(|about| (about.dev(), about.ino()))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", folder))).collect()
}

/// Whether two files have the same bytes, or one of them is gone: it was moved to the other.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let open = |path: &Path| match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path)(error)),
    };
    let (Some(a), Some(b)) = (open(one)?, open(other)?) else { return Ok(true) };
    let length = |file: &File, path: &Path| file.metadata().map(|m| m.len()).map_err(Error::io("read", path));
    if length(&a, one)? != length(&b, other)? {
        return Ok(false);
    }
    let (mut a, mut b) = (io::BufReader::new(a).bytes(), io::BufReader::new(b).bytes());
    loop {
        match (a.next().transpose(), b.next().transpose()) {
            (Ok(None), Ok(None)) => return Ok(true),
            (Ok(x), Ok(y)) if x == y => {}
            (Ok(_), Ok(_)) => return Ok(false),
            (Err(error), _) => return Err(Error::io("read", one)(error)),
            (_, Err(error)) => return Err(Error::io("read", other)(error)),
        }
    }
}

/// The present name for an old one; also for the hidden folders and files beside it, `.writing-round=1`.
fn new_name(old: &str) -> Option<String> {
    let at = old.find("round=")?;
    let (prefix, folder) = old.split_at(at);
    let is_prefix = prefix.is_empty() || (prefix.starts_with('.') && prefix.ends_with('-'));
    parse(folder).filter(|_| is_prefix).map(|round| format!("{prefix}{}", name(round)))
}

/// Entries of `parent` with an old name, each with the new one.
fn outdated(parent: &Path) -> Vec<(PathBuf, PathBuf)> {
    // An unreadable folder is reported when its files are needed.
    let paths = list(parent).unwrap_or_default().into_iter();
    let mut found: Vec<_> = paths
        .filter_map(|old| Some((old.clone(), old.with_file_name(new_name(old.file_name()?.to_str()?)?))))
        .collect();
    found.sort();
    found
}

/// Whether [`rename`] has anything to do.
pub(crate) fn is_outdated(parent: &Path) -> bool {
    !outdated(parent).is_empty()
}

/// Renames the round folders in `parent` that have old names; returns how many. If both names exist, their
/// contents are merged. Folders that may not be changed (a read-only disk, another owner) are left unchanged.
///
/// # Errors
/// If a file of both folders differs, or the file system fails.
pub fn rename(parent: &Path) -> Result<usize> {
    let mut count = 0;
    for (old, new) in outdated(parent) {
        let done = if new.exists() { merge(&old, &new) } else { move_to(&old, &new) };
        match done {
            Ok(()) => count += usize::from(!old.exists()),
            Err(Error::Io { source, .. }) if is_forbidden(&source) => {}
            Err(error) => return Err(error),
        }
    }
    if count > 0 {
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", parent))?;
    }
    Ok(count)
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::CrossesDevices
    )
}

/// Renames a file or folder; if it is gone, the other program has moved it.
fn move_to(old: &Path, new: &Path) -> Result<()> {
    match fs::rename(old, new) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(Error::io("rename", old)),
    }
}

/// Moves the contents of `old` into `new`, one by one, and removes `old`.
fn merge(old: &Path, new: &Path) -> Result<()> {
    if !old.is_dir() || !new.is_dir() {
        return drop_copy(old, new);
    }
    for path in list(old)? {
        let to = new.join(path.file_name().unwrap_or_default());
        if to.exists() { drop_copy(&path, &to)? } else { move_to(&path, &to)? }
    }
    // The new names are synced before the old folder is removed.
    File::open(new).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", new))?;
    fs::remove_dir(old).map_err(Error::io("remove", old))
}

/// Removes `old`: a copy of `new`, or an unfinished file of a killed process.
fn drop_copy(old: &Path, new: &Path) -> Result<()> {
    let is_file = old.is_file() && new.is_file();
    let is_unfinished = old.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".writing-"));
    if is_file && (is_unfinished || is_same(old, new)?) {
        return fs::remove_file(old).map_err(Error::io("remove", old));
    }
    Err(Error::TwoNames { old: old.to_path_buf(), new: new.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn contents(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut waiting = vec![folder.to_path_buf()];
        while let Some(next) = waiting.pop() {
            for path in list(&next).unwrap() {
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.push(format!("{name} {}", fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn parquet(folder: &Path, round: u32) -> Vec<String> {
        let files =
            files(folder, round, |name| !name.starts_with('.') && name.ends_with(".parquet")).unwrap();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    #[test]
    fn names() {
        assert_eq!(["round-1", "round=12"].map(parse), [Some(1), Some(12)]);
        let others =
            ["round-01", "round=x", "round", "round--1", "round-+1", "round-1/rl", "Round-1", "round_1"];
        assert_eq!(others.map(parse), [None; 8]);
        assert_eq!(new_name("round=1").as_deref(), Some("round-1"));
        assert_eq!(new_name(".writing-round=3").as_deref(), Some(".writing-round-3"));
        assert_eq!(
            ["round-1", "background=1", "x-round=1", ".round=1", "round=01"].map(new_name),
            [const { None }; 5]
        );
    }

    #[test]
    fn old_names_are_read_and_renamed() {
        let folder = place(&[
            ("round=1/b.parquet", "1b"),
            ("round=1/a.parquet", "1a"),
            ("round=10/a.parquet", "10a"),
            ("round-2/a.parquet", "2a"),
            (".writing-round=1/b.parquet", "half"),
            (".replacing-round=1", "7"),
            ("round=x/a.parquet", "x"),
            ("notes=1/a.parquet", "mine"),
        ]);
        let root = folder.path();
        assert_eq!([1, 2, 10, 3].map(|round| parquet(root, round).len()), [2, 1, 1, 0]);
        assert_eq!(child(root, 1, "a.parquet"), root.join("round=1/a.parquet"));
        assert_eq!(child(root, 1, "new"), root.join("round=1/new"), "a set stays together");
        assert_eq!(child(root, 3, "new"), root.join("round-3/new"));
        assert_eq!(rename(root).unwrap(), 4);
        assert_eq!(
            contents(root),
            [
                ".replacing-round-1 7",
                ".writing-round-1/b.parquet half",
                "notes=1/a.parquet mine",
                "round-1/a.parquet 1a",
                "round-1/b.parquet 1b",
                "round-10/a.parquet 10a",
                "round-2/a.parquet 2a",
                "round=x/a.parquet x",
            ]
        );
        assert_eq!(child(root, 1, "a.parquet"), root.join("round-1/a.parquet"));
        assert_eq!(rename(root).unwrap(), 0);
        assert_eq!(rename(&root.join("absent")).unwrap(), 0);
    }

    /// The state after a kill in the middle, or after an older program ran in between.
    #[test]
    fn a_round_under_both_names_is_read_once() {
        let folder = place(&[
            ("round-1/a.parquet", "a"),
            ("round=1/b.parquet", "b"),
            ("round-1/c.parquet", "c"),
            ("round=1/c.parquet", "c"),
            ("round=1/.writing-d.parquet", "half"),
            ("round-1/.writing-d.parquet", "quarter"),
        ]);
        let root = folder.path();
        assert_eq!(parquet(root, 1), ["a", "b", "c"]);
        assert_eq!(child(root, 1, "b.parquet"), root.join("round=1/b.parquet"));
        assert_eq!(child(root, 1, "new"), root.join("round-1/new"));
        assert_eq!(rename(root).unwrap(), 1);
        assert_eq!(parquet(root, 1), ["a", "b", "c"]);
        assert!(!root.join("round=1").exists());
    }

    #[test]
    fn files_that_differ_are_neither_read_nor_lost() {
        let files_before =
            [("round-1/a.parquet", "new"), ("round=1/a.parquet", "old"), ("round=1/b.parquet", "b")];
        let folder = place(&files_before);
        let root = folder.path();
        let found =
            [files(root, 1, |_| true).unwrap_err().to_string(), rename(root).unwrap_err().to_string()];
        let told = format!(
            "{0}/round=1/a.parquet and {0}/round-1/a.parquet are the same file of a round, but differ; remove the outdated one",
            root.display()
        );
        assert_eq!(found, [told.clone(), told]);
        assert_eq!(contents(root).len(), 3);
        // Checkpoint folders cannot be merged.
        let folder =
            place(&[("round-1/rl/model", "new"), ("round=1/rl/model", "old"), ("round=1/sft/model", "sft")]);
        assert!(matches!(rename(folder.path()), Err(Error::TwoNames { .. })));
        assert_eq!(contents(folder.path()).len(), 3);
    }

    #[test]
    fn a_reader_misses_nothing_while_folders_are_renamed() {
        let rounds = 300;
        let names: Vec<String> = (0..rounds)
            .flat_map(|round| (0..4).map(move |file| format!("round={round}/{file}.parquet")))
            .collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "text")).collect();
        let folder = place(&files);
        // Every other round is moved file by file, as if both folders existed.
        (0..rounds).step_by(2).for_each(|round| fs::create_dir(folder.path().join(name(round))).unwrap());
        let root = folder.path().to_path_buf();
        let renaming = std::thread::spawn(move || rename(&root).unwrap());
        while !renaming.is_finished() {
            for round in 0..rounds {
                let found = super::files(folder.path(), round, |name| name.ends_with(".parquet")).unwrap();
                assert_eq!(found.len(), 4, "round {round}");
            }
        }
        assert_eq!(renaming.join().unwrap(), rounds as usize);
    }
}
