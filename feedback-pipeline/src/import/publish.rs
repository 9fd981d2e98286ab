//! Merging imported problems into a dataset: pictures first, `problems.parquet` last, each atomically.
//!
//! New problems are added; an existing one must be the same, except for columns that one side leaves empty (a
//! later import may add captions, pictures or grades). Anything else is refused before a file is touched.

use super::ids::is_derived;
use super::incoming::{Incoming, Origin};
use super::picture;
use super::split::SPLITS;
use crate::PROGRAM;
use crate::error::{Error, Result};
use crate::request::image;
use schemas::dataset::quoted;
use schemas::number::{counted, grouped, plural};
use schemas::{Dataset, DatasetCard, Problem, Provenance, table};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The result of an import.
pub(super) struct Summary {
    dataset: PathBuf,
    problems: Vec<Problem>,
    added: usize,
    changed: bool,
    left_out: usize,
    missing_pictures: Vec<String>,
    looked_for: Option<String>,
    rounds_started: bool,
}

/// Merges a source into a dataset folder and writes what changed.
pub(super) fn publish(data: &Path, mut incoming: Incoming) -> Result<Summary> {
    incoming.check()?;
    let dataset = Dataset::at(data);
    if data.exists() && !data.is_dir() {
        return Err(Error::bad_input(data.display().to_string(), "expected a dataset folder, found a file"));
    }
    let _lock = dataset.lock(PROGRAM)?;
    let existing = if dataset.problems_path().is_file() { dataset.problems()? } else { Vec::new() };
    same_kind_of_ids(&existing, &incoming, data)?;
    keep_copied_pictures(&dataset, &mut incoming);
    let (problems, added) = merge(&existing, &incoming, data)?;

    let mut changed = write_pictures(&dataset, &incoming)?;
    changed |= write_card(&dataset, &incoming.card)?;
    let missing = incoming.pictures.iter().filter(|picture| picture.origin == Origin::Missing);
    let missing_pictures = missing.filter_map(|picture| {
        let image = incoming.problems[picture.problem].image.as_ref()?;
        (!data.join(image).is_file()).then(|| incoming.problems[picture.problem].problem_id.clone())
    });
    let missing_pictures: Vec<String> = missing_pictures.collect();
    changed |= list_missing(&dataset, &problems, &missing_pictures)?;
    // Written last, so that every problem in the table has its pictures.
    if problems != existing {
        let provenance = Provenance::new(PROGRAM, "");
        table::write(&dataset.problems_path(), problems.iter().cloned(), &provenance)?;
        changed = true;
    }
    Ok(Summary {
        dataset: data.to_path_buf(),
        added,
        changed,
        left_out: incoming.left_out,
        missing_pictures,
        looked_for: incoming.looked_for,
        rounds_started: !dataset.rounds::<schemas::Rollout>()?.is_empty(),
        problems,
    })
}

/// Writes the missing pictures, and ensures that they survive a crash; true if there were any.
fn write_pictures(dataset: &Dataset, incoming: &Incoming) -> Result<bool> {
    let mut changed = false;
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for picture in &incoming.pictures {
        let Some(image) = &incoming.problems[picture.problem].image else { continue };
        let to = dataset.root().join(image);
        if !seen.insert(image.as_str()) {
            continue;
        }
        match &picture.origin {
            Origin::File(file) => changed |= picture::copy(file, &to)?,
            Origin::Embedded(embedded) if !embedded.is_in(&to) => wanted.push((embedded, to)),
            Origin::Embedded(_) | Origin::Missing => {}
        }
    }
    if let Some(pictures) = incoming.embedded.as_ref().filter(|_| !wanted.is_empty()) {
        pictures.write(&wanted)?;
        changed = true;
    }
    if changed {
        // Syncing one by one would take minutes.
        let folder = dataset.images_dir();
        let file = File::open(&folder).map_err(Error::io("open", &folder))?;
        rustix::fs::syncfs(&file).map_err(|error| Error::io("sync", &folder)(error.into()))?;
    }
    Ok(changed)
}

/// Refuses to mix published and derived ids of one source: every problem would be there twice.
fn same_kind_of_ids(existing: &[Problem], incoming: &Incoming, data: &Path) -> Result<()> {
    let Some(new) = incoming.problems.first() else { return Ok(()) };
    let is_made = |problem: &Problem| is_derived(&problem.problem_id);
    let differs = |old: &&Problem| old.source == new.source && is_made(old) != is_made(new);
    existing.iter().find(differs).map_or(Ok(()), |old| {
        let message = format!(
            "it has problems of {} with other ids (`{}`, now `{}`), which would be duplicated; import into a separate \
             folder",
            new.source, old.problem_id, new.problem_id
        );
        Err(Error::bad_input(data.display().to_string(), message))
    })
}

/// Updates the list of problems whose picture was in no source; true if that changed it.
fn list_missing(dataset: &Dataset, problems: &[Problem], missing: &[String]) -> Result<bool> {
    let before = image::never_there(dataset)?;
    let has_come =
        |problem: &Problem| problem.image.as_ref().is_some_and(|image| dataset.root().join(image).is_file());
    let mut now: BTreeSet<String> = before.iter().chain(missing).cloned().collect();
    for problem in problems.iter().filter(|problem| has_come(problem)) {
        now.remove(&problem.problem_id);
    }
    if now == before {
        return Ok(false);
    }
    let lines: String = now.iter().map(|id| format!("{id}\n")).collect();
    schemas::file::write_bytes(&dataset.images_dir().join(image::NEVER_THERE), lines.as_bytes())?;
    Ok(true)
}

/// A picture that an earlier import found keeps its path, even if its extension differs from the source's.
fn keep_copied_pictures(dataset: &Dataset, incoming: &mut Incoming) {
    for picture in incoming.pictures.iter().filter(|picture| picture.origin == Origin::Missing) {
        let problem = &mut incoming.problems[picture.problem];
        let Some(image) = &problem.image else { continue };
        let paths = ["png", "jpg", "gif", "webp"].map(|extension| Path::new(image).with_extension(extension));
        if !dataset.root().join(image).is_file()
            && let Some(path) = paths.into_iter().find(|path| dataset.root().join(path).is_file())
        {
            problem.image = Some(path.to_string_lossy().into_owned());
        }
    }
}

/// Existing and incoming problems as one list, and how many of them are new.
fn merge(existing: &[Problem], incoming: &Incoming, data: &Path) -> Result<(Vec<Problem>, usize)> {
    let old: HashMap<&str, &Problem> =
        existing.iter().map(|problem| (problem.problem_id.as_str(), problem)).collect();
    let mut merged = HashMap::with_capacity(incoming.problems.len());
    for problem in &incoming.problems {
        let both = match old.get(problem.problem_id.as_str()) {
            None => problem.clone(),
            Some(old) => fill(old, problem).map_err(|column| {
                let id = &problem.problem_id;
                Error::bad_input(
                    data.display().to_string(),
                    format!("problem `{id}` already exists with a different {column}; import into a separate folder"),
                )
            })?,
        };
        merged.insert(problem.problem_id.as_str(), both);
    }
    let added = merged.keys().filter(|id| !old.contains_key(*id)).count();
    // The order of the larger source is kept, since predictions follow the order of its splits.
    let covers_all = existing.iter().all(|problem| merged.contains_key(problem.problem_id.as_str()));
    let mut problems = Vec::with_capacity(existing.len() + added);
    if !covers_all {
        for problem in existing {
            problems.push(merged.remove(problem.problem_id.as_str()).unwrap_or_else(|| problem.clone()));
        }
    } else if added == 0 {
        problems.extend(existing.iter().filter_map(|problem| merged.remove(problem.problem_id.as_str())));
    }
    problems
        .extend(incoming.problems.iter().filter_map(|problem| merged.remove(problem.problem_id.as_str())));
    Ok((problems, added))
}

/// A problem merged from both sides; the error is the first column in which they differ.
fn fill(old: &Problem, new: &Problem) -> std::result::Result<Problem, &'static str> {
    fn text(column: &'static str, old: &str, new: &str) -> std::result::Result<String, &'static str> {
        match (old.is_empty(), new.is_empty()) {
            (true, _) => Ok(new.to_owned()),
            (_, true) => Ok(old.to_owned()),
            _ if old == new => Ok(old.to_owned()),
            _ => Err(column),
        }
    }
    fn optional<T: Clone + PartialEq>(
        column: &'static str,
        old: &Option<T>,
        new: &Option<T>,
    ) -> std::result::Result<Option<T>, &'static str> {
        match (old, new) {
            (Some(a), Some(b)) if a != b => Err(column),
            _ => Ok(old.clone().or_else(|| new.clone())),
        }
    }
    let same = [
        ("split", old.split == new.split),
        ("question", old.question == new.question),
        ("choices", old.choices == new.choices),
        ("hint", old.hint == new.hint),
    ];
    if let Some((column, _)) = same.into_iter().find(|(_, same)| !same) {
        return Err(column);
    }
    Ok(Problem {
        answer_index: optional("answer_index", &old.answer_index, &new.answer_index)?,
        caption: text("caption", &old.caption, &new.caption)?,
        lecture: text("lecture", &old.lecture, &new.lecture)?,
        solution: text("solution", &old.solution, &new.solution)?,
        // The extension depends on the file, which may have been added since.
        image: new.image.clone().or_else(|| old.image.clone()),
        subject: optional("subject", &old.subject, &new.subject)?,
        topic: optional("topic", &old.topic, &new.topic)?,
        category: optional("category", &old.category, &new.category)?,
        skill: optional("skill", &old.skill, &new.skill)?,
        grade: optional("grade", &old.grade, &new.grade)?,
        ..old.clone()
    })
}

/// Writes `dataset.toml`, or adds the source to it; true if that changed it.
fn write_card(dataset: &Dataset, card: &DatasetCard) -> Result<bool> {
    let fresh = DatasetCard {
        name: dataset.name(),
        created_by: Provenance::new(PROGRAM, "").created_by,
        ..card.clone()
    };
    if !dataset.card_path().is_file() {
        dataset.write_card(&fresh)?;
        return Ok(true);
    }
    let mut there = dataset.card()?;
    let joined = |there: &str, new: &str| {
        if there.split("; ").any(|part| part == new) { there.to_owned() } else { format!("{there}; {new}") }
    };
    let (source, licence) = (joined(&there.source, &card.source), joined(&there.licence, &card.licence));
    if (&source, &licence) == (&there.source, &there.licence) {
        return Ok(false);
    }
    (there.source, there.licence) = (source, licence);
    dataset.write_card(&there)?;
    Ok(true)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.dataset.display();
        if !self.changed {
            writeln!(f, "{data}: nothing changed, these problems already exist")?;
        } else if self.added < self.problems.len() {
            writeln!(
                f,
                "{data}: {}, {} of them new",
                counted(self.problems.len(), "problem"),
                grouped(self.added)
            )?;
        } else {
            writeln!(f, "{data}: {}", counted(self.problems.len(), "problem"))?;
        }
        for split in SPLITS {
            let of_split = || self.problems.iter().filter(|problem| problem.split == split);
            if of_split().next().is_none() {
                continue;
            }
            let image = of_split().filter(|problem| problem.image.is_some()).count();
            let unsolved = of_split().filter(|problem| problem.solution.is_empty()).count();
            let hidden = of_split().filter(|problem| problem.answer_index.is_none()).count();
            write!(
                f,
                "  {split:<5} {:>7} {}, {} with a picture",
                grouped(of_split().count()),
                plural(of_split().count(), "problem"),
                grouped(image)
            )?;
            for (count, what) in [(unsolved, "without a solution"), (hidden, "with a hidden answer")] {
                if count > 0 {
                    write!(f, ", {} {what}", grouped(count))?;
                }
            }
            writeln!(f)?;
        }
        if self.left_out > 0 {
            writeln!(f, "  problems skipped, since they are in no split: {}", grouped(self.left_out))?;
        }
        if let Some(first) = self.missing_pictures.first() {
            writeln!(
                f,
                "  pictures missing: {}, the first for problem `{first}`{}; import again with --images, or \
                 place them at their `image` paths. Until then these problems are asked about without a \
                 picture (images/missing.txt)",
                grouped(self.missing_pictures.len()),
                self.looked_for.as_ref().map_or_else(String::new, |names| format!(" (looked for {names})")),
            )?;
        }
        let data = quoted(&self.dataset);
        if self.rounds_started {
            write!(f, "next: collect-feedback status --data {data}")
        } else {
            write!(f, "next: train --round 1 --data {data}")
        }
    }
}
