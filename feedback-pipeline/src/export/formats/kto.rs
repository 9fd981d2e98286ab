//! Unpaired preferences, as TRL's KTO trainer reads them.

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

const ABOUT: &str =
    "Unpaired preferences: `label` says whether the completion is a good one, by the Teacher.";

#[derive(Serialize)]
pub(super) struct Line {
    prompt: Vec<Message>,
    completion: Vec<Message>,
    label: bool,
    images: Vec<Embedded>,
    score: Option<f32>,
    ares: Origin,
}

impl Row for Line {
    fn picture_bytes(&self) -> usize {
        bytes_of(&self.images)
    }
}

/// Writes `train.parquet`.
#[derive(Default)]
pub(super) struct Kto {
    files: BySplit<ParquetLines<Line>>,
}

impl Writer for Kto {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        let plan = place.plan;
        for example in Selection::new(plan).labelled(feedback, &mut place.left) {
            let line = Line {
                prompt: user(place.prompt(feedback, picture)),
                completion: assistant(example.text),
                label: example.is_good,
                images: embedded(picture)?,
                score: example.score,
                ares: example.origin,
            };
            let label = Field::new("label", DataType::Boolean, true);
            let mut fields = vec![messages("prompt"), messages("completion"), label];
            fields.extend(place.has_pictures.then(|| list("images", picture_field("image"))));
            let score = Field::new("score", DataType::Float32, true);
            fields.extend((plan.source == Some(Source::Scores)).then_some(score));
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
