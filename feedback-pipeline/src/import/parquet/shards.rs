//! The Parquet files of a folder: the split of each, and whether all shards exist.

use crate::error::{Error, Result};
use crate::import::split::SPLITS;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names of splits in files and folders, each with this program's name.
const NAMES: [(&str, &str); 6] = [
    ("train", "train"),
    ("validation", "val"),
    ("valid", "val"),
    ("val", "val"),
    ("dev", "val"),
    ("test", "test"),
];

/// Maximum depth of files: `default/train/0000.parquet`.
const DEPTH: usize = 3;

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    /// The split in its name or its folder's name.
    pub(super) split: Option<&'static str>,
}

/// Whether a path is a Parquet file by its name, or a folder with such files.
pub(in crate::import) fn is_parquet(from: &Path) -> bool {
    if from.is_dir() { list(from).is_ok_and(|files| !files.is_empty()) } else { has_ending(from) }
}

fn has_ending(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

/// The files of some paths, in the order of splits and shards. If any file of a folder names a split, those
/// that do not are ignored, and returned.
///
/// # Errors
/// If a folder has no Parquet files, a shard is missing, or a split is in several folders.
pub(super) fn find(from: &[PathBuf]) -> Result<(Vec<Shard>, Vec<PathBuf>)> {
    let mut shards = Vec::new();
    let mut left_out = Vec::new();
    for path in from {
        if !path.is_dir() {
            shards.push(Shard { split: split_of(path), path: path.clone() });
            continue;
        }
        let files = list(path)?;
        if files.is_empty() {
            let message = "expected Parquet files, such as data/train-*.parquet, found none";
            return Err(Error::bad_input(path.display().to_string(), message));
        }
        let found: Vec<Shard> =
            files.into_iter().map(|path| Shard { split: split_of(&path), path }).collect();
        let names_splits = found.iter().any(|shard| shard.split.is_some());
        let (with, without): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|shard| shard.split.is_some() || !names_splits);
        left_out.extend(without.into_iter().map(|shard| shard.path));
        one_folder_each(path, &with)?;
        shards.extend(with);
    }
    all_there(&shards)?;
    let order = |shard: &Shard| SPLITS.iter().position(|split| Some(*split) == shard.split);
    shards.sort_by(|a, b| (order(a), &a.path).cmp(&(order(b), &b.path)));
    Ok((shards, left_out))
}

/// Parquet files in a folder and its subfolders; hidden ones belong to other programs.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![(folder.to_path_buf(), 0)];
    while let Some((next, depth)) = waiting.pop() {
        for entry in std::fs::read_dir(&next).map_err(Error::io("read", &next))? {
            let path = entry.map_err(Error::io("read", &next))?.path();
            if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() && depth + 1 < DEPTH {
                waiting.push((path, depth + 1));
            } else if path.is_file() && has_ending(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// From the file's name, such as `train-00000-of-00002.parquet`, else from its folder's.
fn split_of(path: &Path) -> Option<&'static str> {
    let stem = path.file_stem()?.to_string_lossy().to_lowercase();
    let first = stem.split(['-', '.', '_']).next().unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().to_lowercase());
    let named = |word: &str| NAMES.iter().find(|(name, _)| *name == word).map(|(_, split)| *split);
    named(first).or_else(|| named(&folder?))
}

/// Several configurations of a dataset contain the same problems.
fn one_folder_each(from: &Path, shards: &[Shard]) -> Result<()> {
    let mut folders: BTreeMap<Option<&str>, BTreeSet<&Path>> = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.split.is_some()) {
        folders.entry(shard.split).or_default().extend(shard.path.parent());
    }
    match folders.iter().find(|(_, folders)| folders.len() > 1) {
        Some((split, folders)) => {
            let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let message = format!(
                "expected the split {} in one folder, found it in {}; name one of them with --from",
                split.unwrap_or_default(),
                names.join(" and ")
            );
            Err(Error::bad_input(from.display().to_string(), message))
        }
        None => Ok(()),
    }
}

/// The number of a shard and how many there are: `train-00000-of-00002-0123456789abcdef`.
fn numbers(path: &Path) -> Option<(String, usize, usize)> {
    let stem = path.file_stem()?.to_str()?;
    let (before, after) = stem.split_once("-of-")?;
    let (name, number) = before.rsplit_once('-')?;
    let all = after.split('-').next()?;
    Some((name.to_owned(), number.parse().ok()?, all.parse().ok()?))
}

fn all_there(shards: &[Shard]) -> Result<()> {
    let mut sets: BTreeMap<(PathBuf, String, usize), BTreeSet<usize>> = BTreeMap::new();
    for shard in shards {
        if let Some((name, number, all)) = numbers(&shard.path) {
            let folder = shard.path.parent().unwrap_or(Path::new("")).to_path_buf();
            sets.entry((folder, name, all)).or_default().insert(number);
        }
    }
    for ((folder, name, all), found) in sets {
        if let Some(missing) = (0..all).find(|number| !found.contains(number)) {
            let message = format!(
                "expected {all} files {name}-*-of-{all:05}, found {}: {name}-{missing:05}-of-{all:05} is missing",
                found.len()
            );
            return Err(Error::bad_input(folder.display().to_string(), message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn found(files: &[&str]) -> std::result::Result<(Vec<String>, usize), String> {
        let folder = folder(files);
        let root = folder.path().to_path_buf();
        let shown = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
        match find(std::slice::from_ref(&root)) {
            Ok((shards, left_out)) => {
                let shards = shards.iter().map(|s| format!("{} {}", s.split.unwrap_or("?"), shown(&s.path)));
                Ok((shards.collect(), left_out.len()))
            }
            Err(error) => Err(error.to_string().replace(&root.display().to_string(), "@")),
        }
    }

    #[test]
    fn layouts_of_the_hub() {
        let (shards, left_out) = found(&[
            "README.md",
            ".cache/train.parquet",
            "data/test-00000-of-00001-0123456789abcdef.parquet",
            "data/validation-00000-of-00001-0123456789abcdef.parquet",
            "data/train-00001-of-00002-0123456789abcdef.parquet",
            "data/train-00000-of-00002-0123456789abcdef.parquet",
            "data/minitest-00000-of-00001.parquet",
        ])
        .unwrap();
        assert_eq!(
            shards,
            [
                "train data/train-00000-of-00002-0123456789abcdef.parquet",
                "train data/train-00001-of-00002-0123456789abcdef.parquet",
                "val data/validation-00000-of-00001-0123456789abcdef.parquet",
                "test data/test-00000-of-00001-0123456789abcdef.parquet",
            ]
        );
        assert_eq!(left_out, 1);
        let converted =
            found(&["default/train/0000.parquet", "default/train/0001.parquet", "default/dev/0000.parquet"]);
        let files = [
            "train default/train/0000.parquet",
            "train default/train/0001.parquet",
            "val default/dev/0000.parquet",
        ];
        assert_eq!(converted.unwrap().0, files);
        assert_eq!(found(&["mine.parquet"]).unwrap().0, ["? mine.parquet"]);
    }

    #[test]
    fn what_is_missing_or_twice_is_refused() {
        assert_eq!(
            found(&["README.md"]).unwrap_err(),
            "@: expected Parquet files, such as data/train-*.parquet, found none"
        );
        assert_eq!(
            found(&["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"]).unwrap_err(),
            "@/data: expected 3 files train-*-of-00003, found 2: train-00001-of-00003 is missing"
        );
        assert_eq!(
            found(&["FULL/test-00000-of-00001.parquet", "IMG/test-00000-of-00001.parquet"]).unwrap_err(),
            "@: expected the split test in one folder, found it in @/FULL and @/IMG; name one of them with --from"
        );
    }
}
