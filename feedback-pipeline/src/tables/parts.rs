//! Numbers of part files, and the recovery of interrupted sets.

use super::swap::{self, number};
use crate::error::{Error, Result};
use crate::items::Kind;
use schemas::{Correction, Dataset, Judgement, Reject, Request, Score, Table};
use std::path::{Path, PathBuf};

/// Name of the file that announced a replacement, in the round's folder, before [`super::swap`]; it holds the number of the new
/// set, and whether its ledger replaces the older ones too.
const REPLACING: &str = ".replacing";

/// Suffix of the number if the ledger is replaced too.
const LEDGER: &str = " with the ledger";

/// Number of the next set: one above the highest of the marker table and of the ledger.
pub fn next_number(dataset: &Dataset, kind: Kind, round: u32) -> Result<u32> {
    let prefix = format!("{}-", kind.as_str());
    let requests = dataset.parts::<Request>(round)?.into_iter().filter_map(|path| number(&path, &prefix));
    let next = requests.max().map_or(0, |last| last + 1);
    Ok(next.max(next_marker(dataset, kind, round)?))
}

fn next_marker(dataset: &Dataset, kind: Kind, round: u32) -> Result<u32> {
    let numbers = marker_parts(dataset, kind, round)?.into_iter().filter_map(|path| number(&path, ""));
    Ok(numbers.max().map_or(0, |last| last + 1))
}

/// Recovers from a kill: completes a replacement, and removes sets without their marker.
pub fn recover(dataset: &Dataset, kind: Kind, round: u32) -> Result<()> {
    swap::recover(dataset, round)?;
    let announcement = announcement(dataset, kind, round);
    if let Ok(text) = std::fs::read_to_string(&announcement) {
        let (new, ledger) = match text.trim().strip_suffix(LEDGER) {
            Some(new) => (new, true),
            None => (text.trim(), false),
        };
        let new = new.parse::<u32>().ok();
        let markers = marker_parts(dataset, kind, round)?;
        if let Some(new) = new
            && markers.iter().any(|path| number(path, "") == Some(new))
        {
            remove_older(dataset, kind, round, new, ledger)?;
        } else if let (Some(new), true) = (new, ledger) {
            // A complete ledger next to the old one.
            remove(&dataset.part_path::<Request>(round, &format!("{}-{new:05}", kind.as_str())))?;
        }
        remove(&announcement)?;
    }
    for path in cut_off(dataset, kind, round)? {
        tracing::info!(file = %path.display(), "removed: its set was incomplete and is rewritten");
        remove(&path)?;
    }
    Ok(())
}

/// Whether [`recover`] would change anything.
pub fn is_cut_off(dataset: &Dataset, kind: Kind, round: u32) -> Result<bool> {
    Ok(swap::is_cut_off(dataset, round)
        || announcement(dataset, kind, round).is_file()
        || !cut_off(dataset, kind, round)?.is_empty())
}

/// Rejects of sets without their marker. Rows of the ledger are kept, whatever happens to the set: they were paid for.
fn cut_off(dataset: &Dataset, kind: Kind, round: u32) -> Result<Vec<PathBuf>> {
    let next = next_marker(dataset, kind, round)?;
    let prefix = format!("{}-", kind.as_str());
    let mut paths = dataset.parts::<Reject>(round)?;
    paths.retain(|path| number(path, &prefix).is_some_and(|number| number >= next));
    Ok(paths)
}

fn remove_older(dataset: &Dataset, kind: Kind, round: u32, new: u32, ledger: bool) -> Result<()> {
    let prefix = format!("{}-", kind.as_str());
    let requests = if ledger { dataset.parts::<Request>(round)? } else { Vec::new() };
    for path in requests.into_iter().chain(dataset.parts::<Reject>(round)?) {
        if number(&path, &prefix).is_some_and(|number| number < new) {
            remove(&path)?;
        }
    }
    for path in marker_parts(dataset, kind, round)? {
        if number(&path, "").is_none_or(|number| number < new) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn marker_parts(dataset: &Dataset, kind: Kind, round: u32) -> Result<Vec<PathBuf>> {
    Ok(match kind {
        Kind::Scores => dataset.parts::<Score>(round)?,
        Kind::Corrections => dataset.parts::<Correction>(round)?,
        Kind::Judgements => dataset.parts::<Judgement>(round)?,
    })
}

fn announcement(dataset: &Dataset, kind: Kind, round: u32) -> PathBuf {
    fn of<T: Table>(dataset: &Dataset, round: u32) -> PathBuf {
        dataset.round_dir::<T>(round).join(REPLACING)
    }
    match kind {
        Kind::Scores => of::<Score>(dataset, round),
        Kind::Corrections => of::<Correction>(dataset, round),
        Kind::Judgements => of::<Judgement>(dataset, round),
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
