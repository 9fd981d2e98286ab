//! A round's effective scores: several scores of a sentence are combined as in the trainer.

use crate::error::{Error, Result};
use crate::inspect::frame::frame;
use polars::prelude::*;
use schemas::opinions::{Combined, OnRollout, Opinions};
use schemas::{Dataset, Score, Settings};
use serde::Deserialize;
use std::collections::HashMap;

/// The scores of a round by rollout.
pub(super) struct Scores {
    /// Their opinions.
    pub(super) opinions: Opinions,
    by_rollout: HashMap<String, OnRollout>,
    /// Rollouts in the order of the table.
    order: Vec<String>,
}

#[derive(Deserialize)]
struct Row {
    rollout_id: String,
    sentence_index: u32,
    score: f32,
    teacher: String,
    repeat: Option<u32>,
}

impl Scores {
    /// Reads the scores of a round.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) fn read(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Self> {
        let opinions = Opinions::read(dataset, round, settings)?;
        let (mut by_rollout, mut order) = (HashMap::<String, OnRollout>::new(), Vec::new());
        let names = ["rollout_id", "sentence_index", "score", "teacher", "repeat"];
        for row in dataset.stream_columns::<Score, Row>(round, &names)? {
            let row = row?;
            let Some(opinion) = opinions.number(&row.teacher, row.repeat) else { continue };
            if !by_rollout.contains_key(&row.rollout_id) {
                order.push(row.rollout_id.clone());
            }
            by_rollout.entry(row.rollout_id).or_default().insert(opinion, row.sentence_index, row.score);
        }
        Ok(Self { opinions, by_rollout, order })
    }

    /// Rollouts with scores, in the order of the table.
    pub(super) fn rollouts(&self) -> &[String] {
        &self.order
    }

    /// All scores of a rollout.
    pub(super) fn on(&self, rollout_id: &str) -> Option<&OnRollout> {
        self.by_rollout.get(rollout_id)
    }

    /// Combined scores of a rollout with the indices of their sentences, in order.
    pub(super) fn combined(&self, rollout_id: &str) -> Vec<(u32, Combined)> {
        self.on(rollout_id).map_or_else(Vec::new, |on| self.opinions.by_sentence(on))
    }
}

/// The scores of a round for queries: `rollout_id`, `sentence_index`, `score`, one row per sentence.
///
/// # Errors
/// If the table cannot be read.
pub(super) fn scores_frame(dataset: &Dataset, round: u32, settings: &Settings) -> Result<LazyFrame> {
    if Opinions::read(dataset, round, settings)?.in_table() < 2 {
        return frame::<Score>(dataset, round, &["rollout_id", "sentence_index", "score"]);
    }
    let scores = Scores::read(dataset, round, settings)?;
    let (mut ids, mut places, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for id in scores.rollouts() {
        for (place, combined) in scores.combined(id) {
            ids.push(id.as_str());
            places.push(u64::from(place));
            numbers.push(f64::from(combined.score));
        }
    }
    let columns = vec![
        StringChunked::from_iter_values("rollout_id".into(), ids.into_iter()).into_column(),
        UInt64Chunked::from_vec("sentence_index".into(), places).into_column(),
        Float64Chunked::from_vec("score".into(), numbers).into_column(),
    ];
    let frame = DataFrame::new_infer_height(columns);
    frame.map(IntoLazy::lazy).map_err(|error| Error::Failed(format!("scores: {error}")))
}
