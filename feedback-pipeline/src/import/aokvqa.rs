//! A-OKVQA: `aokvqa_v1p0_{train,val,test}.json`, each a list of questions on COCO pictures; or the Parquet files of the
//! Hugging Face Hub.

use super::incoming::{Incoming, Origin, Picture};
use super::json::{self, Node, Record};
use super::parquet::{self, Layout};
use super::picture;
use super::solution::as_sentences;
use super::split::SPLITS;
use crate::error::{Error, Result};
use schemas::{DatasetCard, Problem};
use std::path::{Path, PathBuf};

/// Reads a single published file, or those that exist in a folder.
pub(super) fn read(from: &Path, images: Option<&Path>) -> Result<Incoming> {
    let published = SPLITS.map(|split| from.join(format!("aokvqa_v1p0_{split}.json")));
    let files: Vec<PathBuf> = match from.is_dir() {
        true => published.into_iter().filter(|file| file.is_file()).collect(),
        false => vec![from.to_path_buf()],
    };
    let card = DatasetCard {
        name: String::new(),
        source: "A-OKVQA v1.0, https://allenai.org/project/a-okvqa".to_owned(),
        licence: "Apache-2.0".to_owned(),
        created_by: String::new(),
    };
    if (files.is_empty() || !from.is_dir()) && parquet::is_parquet(from) {
        return parquet::read(&[from.to_path_buf()], Layout::aokvqa(card), images, None);
    }
    if files.is_empty() {
        let message = "expected aokvqa_v1p0_train.json, aokvqa_v1p0_val.json or aokvqa_v1p0_test.json, or Parquet files such as \
                       data/train-*.parquet, found none";
        return Err(Error::bad_input(from.display().to_string(), message));
    }
    let mut incoming = Incoming::new(card);
    for file in &files {
        read_file(file, images, &mut incoming)?;
    }
    incoming.not_empty(from)
}

fn read_file(file: &Path, images: Option<&Path>, incoming: &mut Incoming) -> Result<()> {
    let questions = match json::read(file)? {
        Node::List(questions) => questions,
        other => return Err(json::mismatch(&file.display().to_string(), "a list of questions", &other)),
    };
    for (index, node) in questions.iter().enumerate() {
        let record = Record::new(format!("{}, question {}", file.display(), index + 1), node)?;
        let id = record.filled_text("question_id")?;
        let record = Record::new(format!("{}, question `{id}`", file.display()), node)?;
        let Some(split) = record.split("split")? else {
            return Err(record.wrong("split", "train, val or test", "none"));
        };
        let choices = record.choices("choices")?;
        let answer_index = record.answer_index("correct_choice_idx", choices.len())?;
        if answer_index.is_none() && split != "test" {
            return Err(record.wrong("correct_choice_idx", "the index of the correct choice", "none"));
        }
        let Some(image_id) = record.optional_number("image_id")? else {
            return Err(record.wrong("image_id", "the number of a COCO picture", "none"));
        };
        let rationales = record.texts("rationales")?.unwrap_or_default();
        // COCO's file name, since several questions share a picture; COCO files can be placed at that path.
        let name = format!("{image_id:012}.jpg");
        let names = coco_names(&split, &name);
        let found = images.and_then(|images| picture::first_file(names.iter().map(|name| images.join(name))));
        if let (None, None, Some(images)) = (&found, &incoming.looked_for, images) {
            incoming.looked_for = Some(format!("{} in {}", names.join(", "), images.display()));
        }
        if let Some(unknown) = found.as_deref().map(picture::unknown).transpose()?.flatten() {
            return Err(record.wrong("image_id", picture::EXPECTED, format!("`{name}`, {unknown}")));
        }
        incoming.pictures.push(Picture { problem: incoming.problems.len(), origin: Origin::from(found) });
        incoming.places.push(format!("{}, question {}", file.display(), index + 1));
        incoming.problems.push(Problem {
            problem_id: id,
            split,
            question: record.filled_text("question")?,
            choices,
            answer_index,
            hint: String::new(),
            caption: String::new(),
            lecture: String::new(),
            solution: as_sentences(&rationales),
            image: Some(format!("images/{name}")),
            subject: None,
            topic: None,
            category: None,
            skill: None,
            grade: None,
            source: "aokvqa".to_owned(),
        });
    }
    Ok(())
}

/// Paths of a COCO picture: the 2017 release first, then that of 2014 and 2015, with other splits and longer
/// names; in one folder per split, or all in one.
fn coco_names(split: &str, name: &str) -> Vec<String> {
    let mut names = vec![format!("{split}2017/{name}"), name.to_owned()];
    names.extend(SPLITS.iter().filter(|other| **other != split).map(|other| format!("{other}2017/{name}")));
    for folder in ["train2014", "val2014", "test2015"] {
        names.push(format!("{folder}/COCO_{folder}_{name}"));
        names.push(format!("COCO_{folder}_{name}"));
    }
    names
}
