//! A-OKVQA: `aokvqa_v1p0_{train,val,test}.json`, each a list of questions on COCO pictures.

use super::json::{self, Node, Record};
use super::picture::{self, Picture};
use super::publish::Incoming;
use crate::error::{Error, Result};
use schemas::{DatasetCard, Problem};
use std::path::{Path, PathBuf};

/// Reads the published files of a folder, those that are there, or a single one.
pub(super) fn read(from: &Path, images: Option<&Path>) -> Result<Incoming> {
    let files: Vec<PathBuf> = if from.is_dir() {
        let names = super::SPLITS.map(|split| from.join(format!("aokvqa_v1p0_{split}.json")));
        names.into_iter().filter(|file| file.is_file()).collect()
    } else {
        vec![from.to_path_buf()]
    };
    if files.is_empty() {
        let message =
            "expected aokvqa_v1p0_train.json, aokvqa_v1p0_val.json or aokvqa_v1p0_test.json, found none";
        return Err(Error::bad_input(from.display().to_string(), message));
    }
    let mut incoming = Incoming::new(DatasetCard {
        name: String::new(),
        source: "A-OKVQA v1.0, https://allenai.org/project/a-okvqa".to_owned(),
        licence: "Apache-2.0".to_owned(),
        created_by: String::new(),
    });
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
        let id = record.text("question_id")?;
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
        // COCO's own name, since several questions share a picture; COCO files can be placed there.
        let name = format!("{image_id:012}.jpg");
        let found = images.and_then(|images| {
            picture::first_file([images.join(format!("{split}2017")).join(&name), images.join(&name)])
        });
        incoming.pictures.push(Picture { problem: incoming.problems.len(), file: found });
        incoming.places.push(format!("{}, question {}", file.display(), index + 1));
        incoming.problems.push(Problem {
            problem_id: id,
            split,
            question: record.text("question")?,
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

/// Rationales one after the other, each a sentence of its own: one without a mark at its end would run on into the next.
fn as_sentences(rationales: &[String]) -> String {
    let mut joined = String::new();
    for rationale in rationales.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        joined.push_str(if joined.is_empty() { "" } else { " " });
        joined.push_str(rationale);
        let ends = |c: char| matches!(c, '.' | '!' | '?' | '…');
        let closes = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '”' | '’');
        if !rationale.trim_end_matches(closes).ends_with(ends) {
            joined.push('.');
        }
    }
    joined
}
