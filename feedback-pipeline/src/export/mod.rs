//! A round's feedback in the formats of other trainers.
//!
//! ```text
//! tables ─► source (by problem) ─► select (pairs, labels, targets) ─► formats ─► folder ─► manifest
//! ```
//!
//! Everything is streamed: memory holds one problem, a few bytes per row, and the open row groups. The folder
//! appears when it is complete. The same tables and options give the same bytes.

mod card;
mod folder;
mod formats;
mod join;
mod left_out;
mod lines;
mod lookup;
mod manifest;
mod options;
mod pictures;
mod prompt;
mod select;
mod source;

pub use left_out::Split;
pub use options::{Aggregate, Format, Options, Source};

use crate::error::{Error, Result};
use folder::Folder;
use formats::Place;
use left_out::LeftOut;
use lines::Written;
use manifest::Inputs;
use options::{Plan, name};
use pictures::{Copies, Pictures};
use schemas::dataset::quoted;
use schemas::number::{counted, grouped, plural};
use schemas::{Dataset, Settings};
use source::{Sources, rows_of};
use std::fmt;
use std::path::{Path, PathBuf};

/// The result of an export.
#[derive(Debug)]
pub struct Summary {
    to: PathBuf,
    format: Format,
    files: Vec<Written>,
    copies: Copies,
    left: LeftOut,
}

/// Exports a round of a dataset. The neutral score of the settings is the threshold unless the options have one; they also
/// say which of several scores of a sentence count, and how.
///
/// # Errors
/// If the options contradict each other, the folder holds something, a table cannot be read or is inconsistent, no row can be
/// exported, or the write fails. Then nothing appears.
pub fn run(dataset: &Dataset, round: u32, options: &Options, settings: &Settings) -> Result<Summary> {
    let plan = Plan::new(options, round, settings)?;
    let to = folder::resolved(&options.to)?;
    check_place(dataset, &to)?;
    let folder = Folder::create(&to, options.replace)?;
    let inputs = Inputs::of(dataset, &plan)?;
    let mut place = Place {
        folder: folder.path(),
        plan: &plan,
        has_pictures: false,
        copies: Copies::default(),
        left: LeftOut::default(),
        created_by: manifest::created_by(),
    };
    let files = match formats::writer(plan.format) {
        None => formats::write_hub(&mut place, dataset)?,
        Some(writer) => write(&mut place, dataset, writer)?,
    };
    let (copies, left) = (place.copies, place.left);
    if files.is_empty() {
        return Err(nothing(dataset, &plan, &left));
    }
    manifest::write(folder.path(), dataset, &plan, &inputs, &files, &copies, &left)?;
    if Inputs::of(dataset, &plan)? != inputs {
        let message = "the tables changed while they were read; run the same command again when no other command writes";
        return Err(Error::Failed(format!("{}: {message}", dataset.root().display())));
    }
    folder.put()?;
    Ok(Summary { to: options.to.clone(), format: plan.format, files, copies, left })
}

/// Refuses a destination where the export would become part of the dataset, or replace it.
fn check_place(dataset: &Dataset, to: &Path) -> Result<()> {
    let root = folder::resolved(dataset.root())?;
    let own = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        Dataset::FOLDERS.contains(&&*name) || name.starts_with('.')
    };
    let is_own = to.strip_prefix(&root).is_ok_and(|inside| inside.iter().next().is_none_or(own));
    if is_own || root.starts_with(to) {
        let message =
            format!("expected a folder apart from the dataset's own, found one of {}", root.display());
        return Err(Error::bad_input(format!("--to {}", to.display()), message));
    }
    Ok(())
}

/// Writes the lines of a format, problem by problem.
fn write(
    place: &mut Place<'_>,
    dataset: &Dataset,
    mut writer: Box<dyn formats::Writer>,
) -> Result<Vec<Written>> {
    let plan = place.plan;
    let mut sources = Sources::read(dataset, plan, &mut place.left)?;
    let pictures = Pictures::new(dataset, plan.pictures)?;
    for problem in dataset.problem_rows()? {
        let problem = problem?;
        let is_shown = pictures.has(&problem) && plan.splits.contains(&Split::of(&problem.split));
        if is_shown && sources.has(&problem.problem_id)? && matches!(pictures.of(&problem)?, Ok(Some(_))) {
            place.has_pictures = true;
            break;
        }
    }
    for problem in dataset.problem_rows()? {
        let feedback = sources.of(problem?, &plan.splits, &mut place.left)?;
        if !plan.splits.contains(&feedback.split) || (feedback.rows() == 0 && plan.source.is_some()) {
            continue;
        }
        match pictures.of(&feedback.problem)? {
            Ok(picture) => writer.add(place, &feedback, picture.as_ref())?,
            Err(reason) => {
                let rows = plan.source.map_or("problems", rows_of);
                place.left.count(rows, reason, feedback.rows().max(1));
            }
        }
    }
    writer.finish(place, dataset)
}

fn nothing(dataset: &Dataset, plan: &Plan, left: &LeftOut) -> Error {
    let splits: Vec<&str> = plan.splits.iter().map(|split| split.as_str()).collect();
    let message = format!(
        "{}: round {} has nothing to export as {} in split {}\n{}",
        dataset.root().display(),
        plan.round,
        name(&plan.format),
        splits.join(", "),
        left.to_string().trim_end(),
    );
    let hint =
        "see why the rows were left out; --split, --from, --threshold and --margin choose others".to_owned();
    Error::NothingToExport { message: message.trim_end().to_owned(), hint }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: u64 = self.files.iter().map(|file| file.lines).sum();
        writeln!(f, "{}: {} as {}", self.to.display(), counted(lines, "line"), name(&self.format))?;
        for file in &self.files {
            writeln!(f, "  {:<34} {:>9} {}", file.name, grouped(file.lines), plural(file.lines, "line"))?;
        }
        if self.copies.files > 0 {
            writeln!(
                f,
                "  {:<34} {:>9} {}",
                "images/",
                grouped(self.copies.files),
                plural(self.copies.files, "picture")
            )?;
        }
        write!(f, "{}", self.left)?;
        let to = quoted(&self.to);
        match self.format {
            Format::Llamafactory => write!(f, "next: llamafactory-cli train … --dataset_dir {to}"),
            Format::Hub => write!(f, "next: hf upload NAME {to} --repo-type dataset"),
            Format::Verl => {
                write!(f, "next: data.train_files={to}/{}", self.files.first().map_or("", |file| &file.name))
            }
            _ => write!(f, "next: datasets.load_dataset(\"{}\")", self.to.display()),
        }
    }
}
