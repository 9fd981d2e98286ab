//! Preference pairs, as TRL's trainers of DPO and of reward models read them.

use super::{Message, Place, Writer, ares, assistant, bytes_of, card, embedded, messages, user};
use crate::error::Result;
use crate::export::lines::{BySplit, Embedded, ParquetLines, Row, Written, list, picture as picture_field};
use crate::export::options::Source;
use crate::export::pictures::Found;
use crate::export::select::{Origin, Selection};
use crate::export::source::Feedback;
use arrow::datatypes::{DataType, Field};
use schemas::Dataset;
use serde::Serialize;

const ABOUT: &str = "Preference pairs: `chosen` is better than `rejected`, by the Teacher.";

#[derive(Serialize)]
pub(super) struct Line {
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    images: Vec<Embedded>,
    score_chosen: Option<f32>,
    score_rejected: Option<f32>,
    ares: Origin,
}

impl Row for Line {
    fn picture_bytes(&self) -> usize {
        bytes_of(&self.images)
    }
}

/// Writes `train.parquet`.
#[derive(Default)]
pub(super) struct Preference {
    files: BySplit<ParquetLines<Line>>,
}

impl Writer for Preference {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        let plan = place.plan;
        for pair in Selection::new(plan).pairs(feedback, &mut place.left) {
            let line = Line {
                prompt: user(place.prompt(feedback, picture)),
                chosen: assistant(pair.chosen),
                rejected: assistant(pair.rejected),
                images: embedded(picture)?,
                score_chosen: pair.scores.map(|(chosen, _)| chosen),
                score_rejected: pair.scores.map(|(_, rejected)| rejected),
                ares: pair.origin,
            };
            let mut fields = vec![messages("prompt"), messages("chosen"), messages("rejected")];
            // A text model refuses the column.
            fields.extend(place.has_pictures.then(|| list("images", picture_field("image"))));
            if plan.source == Some(Source::Scores) {
                let score = |name: &str| Field::new(name, DataType::Float32, true);
                fields.extend([score("score_chosen"), score("score_rejected")]);
            }
            fields.push(ares());
            let by = place.created_by.as_str();
            let create = |path: &std::path::Path| ParquetLines::create(path, fields, by);
            self.files.push(place.folder, "*.parquet", feedback.split, line, create)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
        let files = self.files.finish::<Line>()?;
        card(place, dataset, &files, ABOUT)?;
        Ok(files)
    }
}
