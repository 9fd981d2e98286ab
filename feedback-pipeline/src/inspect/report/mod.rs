//! `collect-feedback report`: one HTML file about a round, readable offline and without programming.
//!
//! `gather` reads the tables, `tally`, `figures` and `effect` compute the numbers, `charts` draws them, `cards`
//! prepares the rationales for the browser part, `pictures` embeds their pictures, `page` fills the template.
//! Texts of rationales reach the page only as JSON, and the script inserts them as text, never as HTML.

mod cards;
mod charts;
mod effect;
pub mod figures;
mod gather;
mod page;
mod pictures;
mod tally;

pub use cards::MOST_PROBLEMS;
pub use pictures::MOST_PICTURE_BYTES;

use crate::error::{Error, Result};
use crate::inspect::status;
use gather::Gathered;
use schemas::number::counted;
use schemas::{Dataset, Settings, file};
use std::path::{Path, PathBuf};

/// What a report contains, for the last line of the command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: usize,
    /// Problems shown.
    pub problems: usize,
    /// Pictures in it.
    pub pictures: usize,
    /// The numbers of the stages and the cost of the feedback, as plain text.
    pub summary: String,
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        let (path, problems) = (self.path.display(), counted(self.problems, "problem"));
        write!(
            f,
            "{}{path}: {problems}, {}, {megabytes:.1} MB",
            self.summary,
            counted(self.pictures, "picture")
        )
    }
}

/// Writes the report of a round; without `out`, as `report-round-N.html` in the dataset folder. The settings say which of
/// several scores of a sentence count, and how.
///
/// # Errors
/// If the round has neither rollouts nor rationales, a table cannot be read, or the write fails.
pub fn run(dataset: &Dataset, round: u32, out: Option<&Path>, settings: &Settings) -> Result<Written> {
    let path =
        out.map_or_else(|| dataset.root().join(format!("report-round-{round}.html")), Path::to_path_buf);
    check_place(&path)?;
    let gathered = Gathered::read(dataset, round, settings)?;
    if gathered.rollouts.is_empty() && gathered.rationales.is_empty() {
        let message = format!(
            "expected a round with rollouts or rationales, found none; next: train --round {round}{}",
            dataset.flag()
        );
        return Err(Error::bad_input(format!("{}, round {round}", dataset.root().display()), message));
    }
    let state = status::report(dataset, settings)?;
    let figures = figures::Figures::of(dataset, &gathered, settings)?;
    let (deck, pictures) = cards::deck(dataset, &gathered)?;
    let html = page::render(dataset, &gathered, &state, &figures, &deck, &pictures)?;
    file::write_bytes(&path, html.as_bytes())?;
    Ok(Written {
        path,
        bytes: html.len(),
        problems: deck.cards.len(),
        pictures: pictures.uris.len(),
        summary: page::summary(&figures, &state.spending),
    })
}

/// Refuses to overwrite anything but a report.
fn check_place(path: &Path) -> Result<()> {
    use std::io::Read;
    if !std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() > 0) {
        return Ok(());
    }
    let mut start = [0; START.len()];
    let is_report = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
    if is_report && start == *START {
        return Ok(());
    }
    let message = "expected no file or a report to replace, found another file; choose another --out";
    Err(Error::bad_input(path.display().to_string(), message))
}

/// The first bytes of every report.
const START: &[u8; 15] = b"<!doctype html>";
