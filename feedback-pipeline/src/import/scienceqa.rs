//! ScienceQA: `problems.json` (id → problem), `pid_splits.json` (split → ids), `captions.json`,
//! `images/<split>/<id>/image.png`; or the Parquet files of the Hugging Face Hub.

use super::incoming::{Incoming, Picture};
use super::json::{self, Node, Record};
use super::parquet::{self, Layout};
use super::picture;
use super::split::SPLITS;
use crate::error::{Error, Result};
use schemas::{DatasetCard, Problem};
use std::collections::HashMap;
use std::path::Path;

/// Reads a folder with `problems.json` and `pid_splits.json`, or one file laid out like `problems.json`.
pub(super) fn read(from: &Path, captions: Option<&Path>, images: Option<&Path>) -> Result<Incoming> {
    if !from.join("problems.json").is_file() && parquet::is_parquet(from) {
        if captions.is_some() {
            let message = "expected none with Parquet files: captions are named by the ids of problems.json, which those lack";
            return Err(Error::bad_input("--captions", message));
        }
        return parquet::read(&[from.to_path_buf()], Layout::scienceqa(card()), images, None);
    }
    if from.is_dir() && !from.join("problems.json").is_file() {
        let message = "expected problems.json and pid_splits.json, or Parquet files such as data/train-*.parquet, found neither";
        return Err(Error::bad_input(from.display().to_string(), message));
    }
    let (folder, file) = if from.is_dir() {
        (from, from.join("problems.json"))
    } else {
        (from.parent().unwrap_or(Path::new(".")), from.to_path_buf())
    };
    let entries = json::read_object(&file)?;
    let splits = folder.join("pid_splits.json");
    let splits = if from.is_dir() && (splits.is_file() || !any_has_split(&entries)) {
        if !splits.is_file() {
            let message =
                "expected pid_splits.json, or a `split` in each problem of problems.json, found neither";
            return Err(Error::bad_input(folder.display().to_string(), message));
        }
        Some(Splits::read(&splits, &entries)?)
    } else {
        None
    };
    let captions = match captions {
        Some(path) => read_captions(path)?,
        None if folder.join("captions.json").is_file() => read_captions(&folder.join("captions.json"))?,
        None => HashMap::new(),
    };
    let images = images.map_or_else(|| folder.join("images"), Path::to_path_buf);

    let mut rows: Vec<(usize, Problem, Option<Picture>)> = Vec::with_capacity(entries.len());
    let mut left_out = 0;
    for (position, (id, node)) in entries.iter().enumerate() {
        let record = Record::new(format!("{}, problem `{id}`", file.display()), node)?;
        let placed = match &splits {
            Some(splits) => splits.of.get(id.as_str()).map(|(split, place)| ((*split).to_owned(), *place)),
            None => record.split("split")?.map(|split| (split, position)),
        };
        let Some((split, place)) = placed else {
            left_out += 1;
            continue;
        };
        let (problem, picture) = problem(id, split, &record, captions.get(id), &images)?;
        rows.push((place, problem, picture));
    }
    // MM-CoT's predictions follow the order of pid_splits.json.
    rows.sort_by_key(|(place, problem, _)| (SPLITS.iter().position(|split| *split == problem.split), *place));
    let mut incoming = Incoming::new(card());
    incoming.left_out = left_out;
    incoming.looked_for = Some(format!("<split>/<id>/image.png and <id>/image.png in {}", images.display()));
    for (_, problem, picture) in rows {
        incoming
            .pictures
            .extend(picture.map(|picture| Picture { problem: incoming.problems.len(), ..picture }));
        incoming.places.push(format!("{}, problem `{}`", file.display(), problem.problem_id));
        incoming.problems.push(problem);
    }
    incoming.not_empty(&file)
}

fn card() -> DatasetCard {
    DatasetCard {
        name: String::new(),
        source: "ScienceQA, https://scienceqa.github.io".to_owned(),
        licence: "CC BY-NC-SA 4.0".to_owned(),
        created_by: String::new(),
    }
}

fn any_has_split(entries: &[(String, Node)]) -> bool {
    let has_split =
        |node: &Node| matches!(node, Node::Object(fields) if fields.iter().any(|(key, _)| key == "split"));
    entries.iter().any(|(_, node)| has_split(node))
}

fn problem(
    id: &str,
    split: String,
    record: &Record<'_>,
    caption: Option<&String>,
    images: &Path,
) -> Result<(Problem, Option<Picture>)> {
    let choices = record.choices("choices")?;
    let answer_index = record.answer_index("answer", choices.len())?;
    if answer_index.is_none() && split != "test" {
        return Err(record.wrong("answer", "the index of the correct choice", "none"));
    }
    let (image, picture) = match record.optional_text("image")?.filter(|name| !name.trim().is_empty()) {
        None => (None, None),
        Some(name) => {
            let file =
                picture::first_file([images.join(&split).join(id).join(&name), images.join(id).join(&name)]);
            if let Some(found) = file.as_deref().map(picture::unknown).transpose()?.flatten() {
                return Err(record.wrong("image", picture::EXPECTED, format!("`{name}`, {found}")));
            }
            let extension = match &file {
                Some(file) => picture::extension(file)?,
                None => picture::own_extension(Path::new(&name)),
            };
            (Some(format!("images/{id}.{extension}")), Some(Picture { problem: 0, origin: file.into() }))
        }
    };
    let problem = Problem {
        problem_id: id.to_owned(),
        split,
        question: record.filled_text("question")?,
        choices,
        answer_index,
        hint: record.text_or_empty("hint")?,
        caption: caption.cloned().unwrap_or_default(),
        lecture: record.text_or_empty("lecture")?,
        solution: record.text_or_empty("solution")?,
        image,
        subject: record.optional_text("subject")?,
        topic: record.optional_text("topic")?,
        category: record.optional_text("category")?,
        skill: record.optional_text("skill")?,
        grade: record.optional_text("grade")?,
        source: "scienceqa".to_owned(),
    };
    Ok((problem, picture))
}

/// Split of each problem, and its position in it.
struct Splits<'a> {
    of: HashMap<&'a str, (&'static str, usize)>,
}

impl<'a> Splits<'a> {
    fn read(path: &Path, problems: &'a [(String, Node)]) -> Result<Self> {
        let known: HashMap<&str, &'a str> =
            problems.iter().map(|(id, _)| (id.as_str(), id.as_str())).collect();
        let node = json::read(path)?;
        let record = Record::new(path.display().to_string(), &node)?;
        let mut of = HashMap::with_capacity(known.len());
        for split in SPLITS {
            // Other keys (trainval, minitest …) list the same problems again.
            for (place, id) in record.texts(split)?.unwrap_or_default().into_iter().enumerate() {
                let Some(id) = known.get(id.as_str()) else {
                    return Err(record.wrong(split, "problems of problems.json", format_args!("`{id}`")));
                };
                if let Some((other, _)) = of.insert(*id, (split, place)) {
                    let message = format!("problem `{id}` is in `{split}` and also in `{other}`");
                    return Err(Error::bad_input(path.display().to_string(), message));
                }
            }
        }
        Ok(Self { of })
    }
}

fn read_captions(path: &Path) -> Result<HashMap<String, String>> {
    let node = json::read(path)?;
    let record = Record::new(path.display().to_string(), &node)?;
    let Some(Node::Object(captions)) = record.get("captions") else {
        let found = record.get("captions").map_or_else(|| "none".to_owned(), Node::describe);
        return Err(record.wrong("captions", "an object from problem id to text", found));
    };
    let captions = captions.iter().map(|(id, caption)| match caption {
        Node::Text(text) => Ok((id.clone(), text.clone())),
        other => Err(record.wrong(&format!("captions.{id}"), "a text", other.describe())),
    });
    captions.collect()
}
