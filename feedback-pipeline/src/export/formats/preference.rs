//! Preference pairs in the format of TRL's trainers for DPO and reward models.

use super::conversation::{Conversations, Message, assistant, bytes_of, embedded, messages, user};
use super::writer::{Place, Writer};
use crate::error::Result;
use crate::export::lines::{Embedded, Row, Written};
use crate::export::pictures::Found;
use crate::export::select::{Origin, Selection};
use crate::export::source::Feedback;
use schemas::Dataset;
use serde::Serialize;

const ABOUT: &str = "Preference pairs: the Teacher considers `chosen` better than `rejected`.";

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
pub(super) struct Preference(Conversations<Line>);

impl Writer for Preference {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        for pair in Selection::new(place.plan).pairs(feedback, &mut place.left) {
            let line = Line {
                prompt: user(place.prompt(feedback, picture)),
                chosen: assistant(pair.chosen),
                rejected: assistant(pair.rejected),
                images: embedded(picture)?,
                score_chosen: pair.scores.map(|(chosen, _)| chosen),
                score_rejected: pair.scores.map(|(_, rejected)| rejected),
                ares: pair.origin,
            };
            let content = vec![messages("prompt"), messages("chosen"), messages("rejected")];
            self.0.push(place, feedback.split, line, content, &["score_chosen", "score_rejected"])?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
        self.0.finish(place, dataset, ABOUT)
    }
}
