//! Unpaired preferences in the format of TRL's KTO trainer.

use super::conversation::{Conversations, Message, assistant, bytes_of, embedded, messages, user};
use super::writer::{Place, Writer};
use crate::error::Result;
use crate::export::lines::{Embedded, Row, Written};
use crate::export::pictures::Found;
use crate::export::select::{Origin, Selection};
use crate::export::source::Feedback;
use arrow::datatypes::{DataType, Field};
use schemas::Dataset;
use serde::Serialize;

const ABOUT: &str = "Unpaired preferences: `label` says whether the Teacher considers the completion good.";

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
pub(super) struct Kto(Conversations<Line>);

impl Writer for Kto {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        for example in Selection::new(place.plan).labelled(feedback, &mut place.left) {
            let line = Line {
                prompt: user(place.prompt(feedback, picture)),
                completion: assistant(example.text),
                label: example.is_good,
                images: embedded(picture)?,
                score: example.score,
                ares: example.origin,
            };
            let label = Field::new("label", DataType::Boolean, true);
            let content = vec![messages("prompt"), messages("completion"), label];
            self.0.push(place, feedback.split, line, content, &["score"])?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
        self.0.finish(place, dataset, ABOUT)
    }
}
