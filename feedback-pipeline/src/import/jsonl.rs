//! JSONL: one problem per line, its fields named like the columns of the problems table.

use super::incoming::{Incoming, Picture};
use super::json::{self, Record};
use super::picture;
use crate::error::{Error, Result};
use schemas::{DatasetCard, Problem, Table};
use std::path::Path;

/// Reads a file with one JSON object per line; empty lines are skipped.
pub(super) fn read(from: &Path, images: Option<&Path>, licence: &str) -> Result<Incoming> {
    let name = from.file_name().map_or_else(|| "jsonl".into(), |name| name.to_string_lossy()).into_owned();
    let images = images.or(from.parent()).unwrap_or(Path::new("."));
    let text = json::read_text(from)?;
    let columns: Vec<&str> = Problem::columns().iter().map(|column| column.name).collect();
    let mut incoming = Incoming::new(DatasetCard {
        name: String::new(),
        source: name.clone(),
        licence: licence.to_owned(),
        created_by: String::new(),
    });
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}, line {}", from.display(), index + 1);
        let node = json::parse_line(line, &place)?;
        let record = Record::new(place, &node)?;
        if let Some(unknown) = record.names().find(|name| !columns.contains(name)) {
            let message = format!("unknown field `{unknown}`; known: {}", columns.join(", "));
            return Err(Error::bad_input(record.place(), message));
        }
        let (problem, picture) = problem(&record, &name, images)?;
        incoming
            .pictures
            .extend(picture.map(|picture| Picture { problem: incoming.problems.len(), ..picture }));
        incoming.problems.push(problem);
        incoming.places.push(record.place().to_owned());
    }
    incoming.not_empty(from)
}

fn problem(record: &Record<'_>, name: &str, images: &Path) -> Result<(Problem, Option<Picture>)> {
    let id = record.filled_text("problem_id")?;
    let Some(split) = record.split("split")? else {
        return Err(record.wrong("split", "train, val or test", "none"));
    };
    let choices = record.choices("choices")?;
    let answer_index = record.answer_index("answer_index", choices.len())?;
    if answer_index.is_none() && split != "test" {
        return Err(record.wrong("answer_index", "the index of the correct choice", "none"));
    }
    let (image, picture) = match record.optional_text("image")?.filter(|path| !path.trim().is_empty()) {
        None => (None, None),
        Some(path) => {
            let file = picture::first_file([images.join(&path)]);
            // The path is untrusted input: only pictures may be copied to the dataset folder, which may be shared.
            if let Some(found) = file.as_deref().map(picture::unknown).transpose()?.flatten() {
                return Err(record.wrong("image", picture::EXPECTED, format!("`{path}`, {found}")));
            }
            let extension = match &file {
                Some(file) => picture::extension(file)?,
                None => picture::own_extension(Path::new(&path)),
            };
            (Some(format!("images/{id}.{extension}")), Some(Picture { problem: 0, origin: file.into() }))
        }
    };
    let problem = Problem {
        problem_id: id,
        split,
        question: record.filled_text("question")?,
        choices,
        answer_index,
        hint: record.text_or_empty("hint")?,
        caption: record.text_or_empty("caption")?,
        lecture: record.text_or_empty("lecture")?,
        solution: record.text_or_empty("solution")?,
        image,
        subject: record.optional_text("subject")?,
        topic: record.optional_text("topic")?,
        category: record.optional_text("category")?,
        skill: record.optional_text("skill")?,
        grade: record.optional_text("grade")?,
        source: record.optional_text("source")?.unwrap_or_else(|| name.to_owned()),
    };
    Ok((problem, picture))
}
