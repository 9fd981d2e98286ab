//! What a stage measures, collected as rows of the metrics table.

use schemas::{Metric, TimestampMs};
use serde::{Deserialize, Serialize};

/// Rows of one stage of one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricLog {
    round: u32,
    stage: String,
    rows: Vec<Metric>,
}

impl MetricLog {
    /// An empty log.
    pub fn new(round: u32, stage: &str) -> Self {
        Self { round, stage: stage.to_owned(), rows: Vec::new() }
    }

    /// Adds numbers measured after `step` optimizer steps and `epoch` passes over the data.
    pub fn push<'a>(&mut self, step: u64, epoch: f64, numbers: impl IntoIterator<Item = (&'a str, f64)>) {
        let at = TimestampMs::now();
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
    }

    /// Takes over rows that an interrupted run had measured.
    pub fn restore(&mut self, rows: Vec<Metric>) {
        self.rows = rows;
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
