//! Stepwise supervision in the format of TRL's trainer for process reward models.

use super::writer::{Place, Writer, write_card};
use crate::error::Result;
use crate::export::lines::{BySplit, JsonLines, Written};
use crate::export::pictures::Found;
use crate::export::prompt::plain;
use crate::export::select::{Origin, rollouts};
use crate::export::source::Feedback;
use schemas::Dataset;
use serde::Serialize;

const ABOUT: &str = "Stepwise supervision: each completion is a sentence, each label says whether its score is above the threshold. \
    `scores` are the Teacher's scores, from 0 to 1; of several opinions, their combination, and `spreads` how far they are apart. `images` are paths in this folder.";

#[derive(Serialize)]
struct Line {
    prompt: String,
    completions: Vec<String>,
    labels: Vec<bool>,
    scores: Vec<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spreads: Vec<f32>,
    images: Vec<String>,
    ares: Origin,
}

/// Writes `train.jsonl`.
#[derive(Default)]
pub(super) struct Prm {
    files: BySplit<JsonLines>,
}

impl Writer for Prm {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        for sample in &feedback.samples {
            let line = Line {
                // The trainer takes no pictures, so the caption is in the prompt. It appends the first
                // sentence directly to the prompt.
                prompt: place.prompt(feedback, None) + "\n",
                completions: sample.sentences.iter().map(|sentence| plain(sentence)).collect(),
                labels: sample.scores.iter().map(|score| is_good(*score, place.plan.threshold)).collect(),
                scores: sample.scores.clone(),
                spreads: sample.spreads.clone(),
                images: place.copied(picture)?,
                ares: rollouts(feedback, &[sample]),
            };
            self.files.push(place.folder, "*.jsonl", feedback.split, line, JsonLines::create)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
        let files = self.files.finish::<Line>()?;
        write_card(place, dataset, &files, ABOUT)?;
        Ok(files)
    }
}

/// Strictly above the threshold: a sentence that earns no reward is not a good one.
fn is_good(score: f32, threshold: f64) -> bool {
    // The threshold is compared as a 32-bit number: a score of 0.7 does not exceed a threshold of 0.7.
    score > threshold as f32
}

#[cfg(test)]
mod tests {
    use super::is_good;

    #[test]
    fn a_score_at_the_threshold_is_not_good() {
        assert!(!is_good(0.5, 0.5) && is_good(0.51, 0.5) && !is_good(0.49, 0.5));
        assert!(!is_good(0.7, 0.7) && is_good(0.7, 0.69));
    }
}
