//! Replacing a set of files by another, so that a reader sees the old or the new, never both.
//!
//! The new files are written into folders beside those of the round (`scores/.writing-round-1`), where no
//! reader looks. Once they are complete, a file `scores/.replacing-round-1` announces them, and each folder
//! is atomically exchanged for the old one. A kill before that file leaves the old set; after it, [`recover`]
//! completes the exchange.

use crate::error::{Error, Result};
use crate::items::Kind;
use schemas::{Correction, Dataset, Judgement, Reject, Request, Score, Table, file};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Suffix of the number in the announcement, if the ledger is replaced too.
const LEDGER: &str = " with the ledger";

/// A replacement under way.
pub struct Replacement<'a> {
    dataset: &'a Dataset,
    kind: Kind,
    round: u32,
    number: u32,
    ledger: bool,
    /// From then on, the replacement will be completed even after a kill.
    announced: bool,
}

/// The folders of one table's round.
struct Folders {
    live: PathBuf,
    staged: PathBuf,
    /// Temporary path of the old folder, on file systems that cannot exchange two.
    retired: PathBuf,
    /// Name of the new part.
    part: String,
    /// What names of this kind's parts begin with; `None` if every part is replaced.
    prefix: Option<String>,
}

impl<'a> Replacement<'a> {
    /// Prepares the replacement of a kind's tables of a round by the set with a number; with `ledger`, of its part of the
    /// ledger too.
    ///
    /// # Errors
    /// If what an earlier one left behind cannot be removed.
    pub fn begin(dataset: &'a Dataset, kind: Kind, round: u32, number: u32, ledger: bool) -> Result<Self> {
        let replacement = Self { dataset, kind, round, number, ledger, announced: false };
        for folders in replacement.folders() {
            remove_folder(&folders.staged)?;
        }
        Ok(replacement)
    }

    /// Where the new part of a table is written.
    pub fn part_path<T: Table>(&self, name: &str) -> PathBuf {
        staged(&self.dataset.round_dir::<T>(self.round)).join(format!("part-{name}.parquet"))
    }

    /// Whether the ledger is replaced.
    pub fn has_ledger(&self) -> bool {
        self.ledger
    }

    /// Puts the new set, written and synced, in place of the old one.
    ///
    /// # Errors
    /// If the write fails.
    pub fn commit(mut self) -> Result<()> {
        for folders in self.folders() {
            link_others(&folders)?;
        }
        let announcement = announcement(self.dataset, self.kind, self.round);
        let text = format!("{}{}", self.number, if self.ledger { LEDGER } else { "" });
        file::write_bytes(&announcement, text.as_bytes())?;
        self.announced = true;
        self.exchange_all()?;
        remove_file(&announcement)
    }

    /// Exchanges whatever is not exchanged yet, the marker last.
    fn exchange_all(&self) -> Result<()> {
        for folders in self.folders() {
            if folders.staged.join(&folders.part).is_file() {
                exchange(&folders)?;
            }
            remove_folder(&folders.staged)?;
            remove_folder(&folders.retired)?;
        }
        Ok(())
    }

    fn folders(&self) -> Vec<Folders> {
        let shared = Some(format!("{}-", self.kind.as_str()));
        let mut folders = Vec::with_capacity(3);
        if self.ledger {
            folders.push(self.folder::<Request>(shared.clone()));
        }
        folders.push(self.folder::<Reject>(shared));
        folders.push(match self.kind {
            Kind::Scores => self.folder::<Score>(None),
            Kind::Corrections => self.folder::<Correction>(None),
            Kind::Judgements => self.folder::<Judgement>(None),
        });
        folders
    }

    fn folder<T: Table>(&self, prefix: Option<String>) -> Folders {
        let live = self.dataset.round_dir::<T>(self.round);
        let name = live.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Folders {
            staged: staged(&live),
            retired: live.with_file_name(format!(".replaced-{name}")),
            part: format!("part-{}{:05}.parquet", prefix.as_deref().unwrap_or_default(), self.number),
            live,
            prefix,
        }
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.announced {
            for folders in self.folders() {
                let _ = remove_folder(&folders.staged); // the original error matters more, and recovery does the same
            }
        }
    }
}

/// Recovers from a kill, for all kinds of a round, since they share folders. A complete set is put in place;
/// incomplete ones are removed.
///
/// # Errors
/// If the write fails.
pub(super) fn recover(dataset: &Dataset, round: u32) -> Result<()> {
    for kind in Kind::ALL {
        let announcement = announcement(dataset, kind, round);
        let Ok(text) = fs::read_to_string(&announcement) else { continue };
        let (number, ledger) = match text.trim().strip_suffix(LEDGER) {
            Some(number) => (number, true),
            None => (text.trim(), false),
        };
        if let Ok(number) = number.parse() {
            Replacement { dataset, kind, round, number, ledger, announced: true }.exchange_all()?;
        }
        remove_file(&announcement)?;
    }
    for folder in staged_folders(dataset, round) {
        remove_folder(&folder)?;
    }
    Ok(())
}

/// Whether [`recover`] would change anything.
pub(super) fn is_cut_off(dataset: &Dataset, round: u32) -> bool {
    Kind::ALL.into_iter().any(|kind| announcement(dataset, kind, round).is_file())
        || staged_folders(dataset, round).iter().any(|folder| folder.is_dir())
}

fn staged_folders(dataset: &Dataset, round: u32) -> [PathBuf; 5] {
    [
        dataset.round_dir::<Request>(round),
        dataset.round_dir::<Reject>(round),
        dataset.round_dir::<Score>(round),
        dataset.round_dir::<Correction>(round),
        dataset.round_dir::<Judgement>(round),
    ]
    .map(|live| staged(&live))
}

fn staged(live: &Path) -> PathBuf {
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    live.with_file_name(format!(".writing-{name}"))
}

fn announcement(dataset: &Dataset, kind: Kind, round: u32) -> PathBuf {
    let live = match kind {
        Kind::Scores => dataset.round_dir::<Score>(round),
        Kind::Corrections => dataset.round_dir::<Correction>(round),
        Kind::Judgements => dataset.round_dir::<Judgement>(round),
    };
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    live.with_file_name(format!(".replacing-{name}"))
}

/// Links the files that are not replaced into the new folder: parts of other kinds, and other files.
fn link_others(folders: &Folders) -> Result<()> {
    let entries = match fs::read_dir(&folders.live) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", &folders.live)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("read", &folders.live))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_part = name.ends_with(".parquet");
        let is_replaced = match &folders.prefix {
            Some(prefix) => number(&path, prefix).is_some(),
            None => is_part,
        };
        if name.starts_with('.') || is_replaced || !path.is_file() {
            continue;
        }
        let copy = folders.staged.join(&name);
        if fs::hard_link(&path, &copy).is_err() {
            fs::copy(&path, &copy).map_err(Error::io("copy", &path))?;
        }
    }
    sync(&folders.staged)
}

/// Puts the staged folder in place of the live one, which is moved to the path of the staged one, or retired.
fn exchange(folders: &Folders) -> Result<()> {
    let Folders { live, staged, retired, .. } = folders;
    if live.is_dir() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, staged, CWD, live, RenameFlags::EXCHANGE).is_err() {
            // This file system cannot exchange two folders: for a moment neither is there.
            remove_folder(retired)?;
            fs::rename(live, retired).map_err(Error::io("rename", live))?;
            fs::rename(staged, live).map_err(Error::io("rename", staged))?;
        }
    } else {
        fs::rename(staged, live).map_err(Error::io("rename", staged))?;
    }
    live.parent().map_or(Ok(()), sync)
}

fn sync(folder: &Path) -> Result<()> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The number in `part-<prefix><number>.parquet`.
pub(super) fn number(path: &Path, prefix: &str) -> Option<u32> {
    path.file_stem()?.to_str()?.strip_prefix("part-")?.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round with old parts of several kinds, and a new set of scores that is written but not in place.
    fn place() -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Dataset::at(folder.path());
        let write = |path: PathBuf, text: &str| file::write_bytes(&path, text.as_bytes()).unwrap();
        for number in 0..2 {
            write(dataset.part_path::<Score>(1, &format!("{number:05}")), "old");
            write(dataset.part_path::<Reject>(1, &format!("scores-{number:05}")), "old");
            write(dataset.part_path::<Request>(1, &format!("scores-{number:05}")), "old");
        }
        write(dataset.part_path::<Score>(1, "imported"), "old");
        write(dataset.part_path::<Reject>(1, "corrections-00000"), "other");
        write(dataset.part_path::<Request>(1, "audit-0123456789ab"), "other");
        write(dataset.round_dir::<Score>(1).join("notes.txt"), "mine");
        (folder, dataset)
    }

    fn begin(dataset: &Dataset) -> Replacement<'_> {
        Replacement::begin(dataset, Kind::Scores, 1, 2, true).unwrap()
    }

    fn write_new(replacement: &Replacement<'_>) {
        let write = |path: PathBuf| file::write_bytes(&path, b"new").unwrap();
        write(replacement.part_path::<Score>("00002"));
        write(replacement.part_path::<Reject>("scores-00002"));
        if replacement.has_ledger() {
            write(replacement.part_path::<Request>("scores-00002"));
        }
    }

    fn texts<T: Table>(dataset: &Dataset) -> Vec<(String, String)> {
        let parts = dataset.parts::<T>(1).unwrap();
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
        parts
            .iter()
            .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), text(path)))
            .collect()
    }

    fn is_new(dataset: &Dataset, ledger: bool) {
        let new = |name: &str| (name.to_owned(), "new".to_owned());
        let other = |name: &str| (name.to_owned(), "other".to_owned());
        assert_eq!(texts::<Score>(dataset), [new("part-00002")]);
        assert_eq!(texts::<Reject>(dataset), [other("part-corrections-00000"), new("part-scores-00002")]);
        if ledger {
            assert_eq!(
                texts::<Request>(dataset),
                [other("part-audit-0123456789ab"), new("part-scores-00002")]
            );
        } else {
            assert_eq!(texts::<Request>(dataset).len(), 3);
        }
        assert!(dataset.round_dir::<Score>(1).join("notes.txt").is_file());
        assert!(!is_cut_off(dataset, 1));
        for table in ["scores", "rejects", "requests"] {
            let names = fs::read_dir(dataset.root().join(table)).unwrap();
            let hidden = names.filter(|entry| entry.as_ref().unwrap().file_name() != "round-1").count();
            assert_eq!(hidden, 0, "nothing is left behind in {table}");
        }
    }

    #[test]
    fn a_set_takes_the_place_of_another() {
        for ledger in [false, true] {
            let (_folder, dataset) = place();
            let replacement = Replacement::begin(&dataset, Kind::Scores, 1, 2, ledger).unwrap();
            write_new(&replacement);
            let before = texts::<Score>(&dataset);
            assert_eq!(before.len(), 3, "nothing is seen of the new set before it is whole");
            replacement.commit().unwrap();
            is_new(&dataset, ledger);
        }
        // If there was no old set.
        let folder = tempfile::tempdir().unwrap();
        let dataset = Dataset::at(folder.path());
        let replacement = Replacement::begin(&dataset, Kind::Scores, 1, 2, true).unwrap();
        write_new(&replacement);
        replacement.commit().unwrap();
        assert_eq!(texts::<Score>(&dataset).len(), 1);
    }

    #[test]
    fn what_fails_before_it_is_announced_leaves_nothing() {
        let (_folder, dataset) = place();
        let before = (texts::<Score>(&dataset), texts::<Reject>(&dataset), texts::<Request>(&dataset));
        let replacement = begin(&dataset);
        write_new(&replacement);
        drop(replacement);
        assert!(!is_cut_off(&dataset, 1));
        assert_eq!(before, (texts::<Score>(&dataset), texts::<Reject>(&dataset), texts::<Request>(&dataset)));
    }

    #[test]
    fn a_kill_at_any_step_leaves_the_old_set_or_ends_in_the_new_one() {
        // Before the announcement: the old one.
        let (_folder, dataset) = place();
        let before = (texts::<Score>(&dataset), texts::<Reject>(&dataset), texts::<Request>(&dataset));
        let replacement = std::mem::ManuallyDrop::new(begin(&dataset));
        write_new(&replacement);
        replacement.folders().iter().for_each(|folders| link_others(folders).unwrap());
        assert!(is_cut_off(&dataset, 1));
        recover(&dataset, 1).unwrap();
        assert_eq!(before, (texts::<Score>(&dataset), texts::<Reject>(&dataset), texts::<Request>(&dataset)));
        assert!(!is_cut_off(&dataset, 1));
        // After it, by the number of steps that were done: the new one.
        for steps in 0..=9 {
            let (_folder, dataset) = place();
            let replacement = std::mem::ManuallyDrop::new(begin(&dataset));
            write_new(&replacement);
            replacement.folders().iter().for_each(|folders| link_others(folders).unwrap());
            fs::write(announcement(&dataset, Kind::Scores, 1), format!("2{LEDGER}")).unwrap();
            let mut left = steps;
            for folders in replacement.folders() {
                for step in 0..3 {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    match step {
                        // As on a file system that cannot exchange folders: between the two renames, neither
                        // exists.
                        0 => fs::rename(&folders.live, &folders.retired).unwrap(),
                        1 => fs::rename(&folders.staged, &folders.live).unwrap(),
                        _ => fs::remove_dir_all(&folders.retired).unwrap(),
                    }
                }
            }
            // Regardless of which kind is requested next.
            recover(&dataset, 1).unwrap();
            is_new(&dataset, true);
        }
        // Old files half removed after the exchange.
        let (_folder, dataset) = place();
        let replacement = std::mem::ManuallyDrop::new(begin(&dataset));
        write_new(&replacement);
        replacement.folders().iter().for_each(|folders| link_others(folders).unwrap());
        fs::write(announcement(&dataset, Kind::Scores, 1), format!("2{LEDGER}")).unwrap();
        let folders = replacement.folders().pop().unwrap();
        exchange(&folders).unwrap();
        fs::remove_file(folders.staged.join("part-00000.parquet")).unwrap();
        recover(&dataset, 1).unwrap();
        is_new(&dataset, true);
    }
}
