//! Metrics of a stage, collected as rows of the metrics table.

use super::board::Board;
use crate::error::Result;
use schemas::{Metric, TimestampMs};
use std::path::Path;

/// Name, step, epoch, value and time of a row.
pub(crate) type SavedRow<'a> = (&'a str, u64, f64, f64, TimestampMs);

/// Rows of one stage of one round.
#[derive(Debug)]
pub struct MetricLog {
    round: u32,
    stage: String,
    rows: Vec<Metric>,
    board: Option<Board>,
}

impl MetricLog {
    /// An empty log.
    pub fn new(round: u32, stage: &str) -> Self {
        Self { round, stage: stage.to_owned(), rows: Vec::new(), board: None }
    }

    /// The log, also written as TensorBoard events under `folder`; an empty name writes none.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn on_board(mut self, folder: &str) -> Result<Self> {
        if !folder.is_empty() {
            self.board = Some(Board::create(Path::new(folder), self.round, &self.stage)?);
        }
        Ok(self)
    }

    /// Adds numbers measured after `step` optimizer steps and `epoch` passes over the data.
    pub fn push<'a>(&mut self, step: u64, epoch: f64, numbers: impl IntoIterator<Item = (&'a str, f64)>) {
        let at = TimestampMs::now();
        let before = self.rows.len();
        let (round, stage) = (self.round, &self.stage);
        self.rows.extend(numbers.into_iter().map(|(name, value)| Metric {
            round,
            stage: stage.clone(),
            step,
            epoch,
            name: name.to_owned(),
            value,
            at,
        }));
        if let Some(board) = &mut self.board
            && let Err(error) = board.add(&self.rows[before..])
        {
            // A failure of the event file must not stop training.
            schemas::warn!("warning: {}: no more events are written: {error}", board.path().display());
            self.board = None;
        }
    }

    /// Restores rows recorded by an interrupted run.
    pub(crate) fn restore(&mut self, rows: Vec<SavedRow<'_>>) {
        let (round, stage) = (self.round, &self.stage);
        let row = |(name, step, epoch, value, at): SavedRow<'_>| Metric {
            round,
            stage: stage.clone(),
            step,
            epoch,
            name: name.to_owned(),
            value,
            at,
        };
        self.rows = rows.into_iter().map(row).collect();
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Metric] {
        &self.rows
    }

    /// All rows.
    pub fn into_rows(self) -> Vec<Metric> {
        self.rows
    }
}
