//! Prompts for verl's RL trainers: `<image>` marks the place of the picture, and the correct option is the
//! ground truth of the reward.

use super::conversation::{Message, bytes_of, embedded, images, messages, user};
use super::writer::{Place, Writer};
use crate::error::Result;
use crate::export::left_out::Reason;
use crate::export::lines::{BySplit, Embedded, ParquetLines, Row, Written, list, structure, text};
use crate::export::pictures::Found;
use crate::export::prompt::letter;
use crate::export::source::Feedback;
use arrow::datatypes::{DataType, Field};
use schemas::Dataset;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Line {
    data_source: String,
    prompt: Vec<Message>,
    images: Vec<Embedded>,
    ability: String,
    reward_model: RewardModel,
    extra_info: ExtraInfo,
}

#[derive(Serialize)]
struct RewardModel {
    style: &'static str,
    ground_truth: String,
}

#[derive(Serialize)]
struct ExtraInfo {
    split: &'static str,
    index: u64,
    problem_id: String,
    answer: String,
    choices: Vec<String>,
}

impl Row for Line {
    fn picture_bytes(&self) -> usize {
        bytes_of(&self.images)
    }
}

/// Writes `train.parquet`.
#[derive(Default)]
pub(super) struct Verl {
    files: BySplit<ParquetLines<Line>>,
    lines: u64,
}

impl Writer for Verl {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        let problem = &feedback.problem;
        let answer = problem.answer_index.map(usize::from);
        let Some((index, answer)) = answer.and_then(|index| Some((index, problem.choices.get(index)?)))
        else {
            place.left.count("problems", Reason::AnswerHidden, 1);
            return Ok(());
        };
        let prompt = place.prompt(feedback, picture);
        let line = Line {
            data_source: problem.source.clone(),
            prompt: user(if picture.is_some() { format!("<image>{prompt}") } else { prompt }),
            images: embedded(picture)?,
            ability: problem.subject.clone().unwrap_or_else(|| "reasoning".to_owned()),
            reward_model: RewardModel { style: "rule", ground_truth: letter(index) },
            extra_info: ExtraInfo {
                split: feedback.split.as_str(),
                index: self.lines,
                problem_id: problem.problem_id.clone(),
                answer: answer.clone(),
                choices: problem.choices.clone(),
            },
        };
        self.lines += 1;
        let mut fields = vec![text("data_source"), messages("prompt")];
        fields.extend(images(place));
        fields.extend([
            text("ability"),
            structure("reward_model", vec![text("style"), text("ground_truth")]),
            structure(
                "extra_info",
                vec![
                    text("split"),
                    Field::new("index", DataType::UInt64, true),
                    text("problem_id"),
                    text("answer"),
                    list("choices", text("choice")),
                ],
            ),
        ]);
        let by = place.created_by.as_str();
        let create = |path: &std::path::Path| ParquetLines::create(path, fields, by);
        self.files.push(place.folder, "*.parquet", feedback.split, line, create)
    }

    fn finish(self: Box<Self>, _place: &Place<'_>, _dataset: &Dataset) -> Result<Vec<Written>> {
        self.files.finish::<Line>()
    }
}
