//! What ranks see: each decides by the files of the dataset and the checkpoints what is left to do, so all must see the same.

use super::context::Context;
use crate::data::vision::features::identity_at;
use crate::error::{Error, Result};
use schemas::provenance::sha256_hex;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A network disk may show new files to other machines only after some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Folders of a dataset that say nothing about what is left to train.
const UNREAD: [&str; 2] = ["images", "requests"];

/// Files by their path within the dataset or the checkpoints, with their sizes in bytes.
type Files = BTreeMap<String, u64>;

/// Waits until all ranks see the same files of the dataset and the checkpoints, for 30 s or `student.rank_timeout_secs` at
/// most. Does nothing in a process by itself.
///
/// # Errors
/// On every rank, if they still see different files; the message names one of them. If a folder cannot be listed, or a rank has
/// ended.
pub(crate) fn agree_on_files(context: &Context) -> Result<()> {
    let group = &context.group;
    if group.is_alone() {
        return Ok(());
    }
    let patience = PATIENCE.min(Duration::from_secs(context.settings.student.rank_timeout_secs));
    let until = Instant::now() + patience;
    loop {
        let own = group.agree(files(context))?;
        let digests = group.gather(sha256_hex(format!("{own:?}").as_bytes()))?;
        if digests.iter().all(|digest| *digest == digests[0]) {
            return Ok(());
        }
        // Rank 0's clock counts.
        if group.of_first(Instant::now() >= until)? {
            let first = group.of_first(own.clone())?;
            let found = group.gather(difference(&first, &own))?;
            let found = found.into_iter().enumerate().find_map(|(rank, found)| Some((rank, found?)));
            let (rank, found) = found.unwrap_or((0, "another file".to_owned()));
            return Err(Error::ranks_differ(format!("ranks see different files: rank {rank} {found}")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Fails on every rank if one has other problems or other image features than rank 0, of the same size.
///
/// # Errors
/// If they differ, a file cannot be read, or a rank has ended.
pub(crate) fn agree_on_data(context: &Context) -> Result<()> {
    let group = &context.group;
    if group.is_alone() {
        return Ok(());
    }
    let problems = context.dataset.problems_path();
    let vision = context.dataset.vision_path(&context.settings.student.vision);
    let read = |path: &Path| match fs::read(path) {
        Ok(bytes) => Ok(sha256_hex(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    };
    let own = group.agree(read(&problems))?;
    let features = if vision.is_file() { identity_at(&vision) } else { Ok(String::new()) };
    let features = group.agree(features)?;
    for (path, own) in [(&problems, own), (&vision, features)] {
        if let Some(other) = group.differing(own)? {
            return Err(Error::ranks_differ(format!(
                "ranks differ: rank {other} has other contents in {} than rank 0",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The files that decide what is left to do. Hidden ones are rank 0's own.
fn files(context: &Context) -> Result<Files> {
    let mut files = Files::new();
    let vision = context.dataset.vision_path(&context.settings.student.vision);
    list(context.dataset.root(), "data", &["parquet"], &mut files)?;
    if let Ok(found) = fs::metadata(&vision) {
        files.insert(format!("features {}", context.settings.student.vision), found.len());
    }
    list(&context.checkpoints, "checkpoints", &["safetensors", "bin", "json"], &mut files)?;
    Ok(files)
}

/// Adds the files with these endings in a folder, which need not exist.
fn list(folder: &Path, name: &str, endings: &[&str], files: &mut Files) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", folder))?;
        let own = entry.file_name().to_string_lossy().into_owned();
        if own.starts_with('.') || UNREAD.contains(&own.as_str()) {
            continue;
        }
        let path = entry.path();
        // It may be gone again; links are followed.
        let Ok(found) = fs::metadata(&path) else { continue };
        let below = format!("{name}/{own}");
        if found.is_dir() {
            list(&path, &below, endings, files)?;
        } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
            files.insert(below, found.len());
        }
    }
    Ok(())
}

/// How `other` differs from rank 0's files, after "rank 1".
fn difference(first: &Files, other: &Files) -> Option<String> {
    for (path, size) in first {
        match other.get(path) {
            None => return Some(format!("has no {path}, which rank 0 has")),
            Some(found) if found != size => {
                return Some(format!("has {path} with {found} bytes, but on rank 0 it has {size}"));
            }
            Some(_) => {}
        }
    }
    let more = other.keys().find(|path| !first.contains_key(*path));
    more.map(|path| format!("has {path}, which rank 0 does not have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, u64)]) -> Files {
        of.iter().map(|(path, size)| ((*path).to_owned(), *size)).collect()
    }

    #[test]
    fn a_difference_is_named() {
        let first = files(&[("data/a.parquet", 3), ("data/b.parquet", 5)]);
        assert_eq!(difference(&first, &first), None);
        let said = |other: &[(&str, u64)]| difference(&first, &files(other)).unwrap_or_default();
        assert_eq!(said(&[("data/a.parquet", 3)]), "has no data/b.parquet, which rank 0 has");
        assert_eq!(
            said(&[("data/a.parquet", 4), ("data/b.parquet", 5)]),
            "has data/a.parquet with 4 bytes, but on rank 0 it has 3"
        );
        assert_eq!(
            said(&[("data/a.parquet", 3), ("data/b.parquet", 5), ("data/c.parquet", 1)]),
            "has data/c.parquet, which rank 0 does not have"
        );
    }

    #[test]
    fn hidden_files_pictures_and_requests_do_not_count() {
        let folder = tempfile::tempdir().expect("folder");
        for path in [
            "rollouts/round-1/part-a.parquet",
            "images/x.parquet",
            ".hidden.parquet",
            "requests/r.parquet",
            "rejects/round-1/part-b.parquet",
            "note.txt",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, b"four").expect("written");
        }
        let mut found = Files::new();
        list(folder.path(), "data", &["parquet"], &mut found).expect("listed");
        // Stages also decide by rejects: a rejected item is not pending.
        assert_eq!(
            found,
            files(&[("data/rejects/round-1/part-b.parquet", 4), ("data/rollouts/round-1/part-a.parquet", 4)])
        );
        list(&folder.path().join("nowhere"), "data", &["parquet"], &mut found).expect("nothing is listed");
    }
}
