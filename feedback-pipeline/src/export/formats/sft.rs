//! Conversations to imitate in the format of TRL's SFT trainer: prompt and completion, so that only the
//! completion is learned.

use super::conversation::{Conversations, Message, assistant, bytes_of, embedded, messages, user};
use super::writer::{Place, Writer};
use crate::error::Result;
use crate::export::lines::{Embedded, Row, Written};
use crate::export::pictures::Found;
use crate::export::select::{Origin, Selection};
use crate::export::source::Feedback;
use schemas::Dataset;
use serde::Serialize;

const ABOUT: &str = "Conversations of one question and one rationale, for supervised fine-tuning.";

#[derive(Serialize)]
pub(super) struct Line {
    prompt: Vec<Message>,
    completion: Vec<Message>,
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
pub(super) struct Sft(Conversations<Line>);

impl Writer for Sft {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        for target in Selection::new(place.plan).targets(feedback, &mut place.left) {
            let line = Line {
                prompt: user(place.prompt(feedback, picture)),
                completion: assistant(target.text),
                images: embedded(picture)?,
                score: target.score,
                ares: target.origin,
            };
            let content = vec![messages("prompt"), messages("completion")];
            self.0.push(place, feedback.split, line, content, &["score"])?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
        self.0.finish(place, dataset, ABOUT)
    }
}
