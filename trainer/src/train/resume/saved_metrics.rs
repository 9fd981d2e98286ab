//! Metrics in the format of a step checkpoint.

use crate::train::metrics::{MetricLog, SavedRow};
use schemas::TimestampMs;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Rows of one log, small enough for hundreds of thousands of steps.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedMetrics {
    pub(super) names: Vec<String>,
    /// Index of the name, step, bits of epoch and value, milliseconds. As decimals, epoch and value might change in their last
    /// digits, and NaN could not be represented.
    pub(super) rows: Vec<(usize, u64, u64, u64, i64)>,
}

impl SavedMetrics {
    pub(super) fn new(log: &MetricLog) -> Self {
        let mut saved = Self::default();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for row in log.rows() {
            let name = *places.entry(&row.name).or_insert_with(|| {
                saved.names.push(row.name.clone());
                saved.names.len() - 1
            });
            saved.rows.push((name, row.step, row.epoch.to_bits(), row.value.to_bits(), row.at.0));
        }
        saved
    }

    /// Puts the rows into `log`; false if a row has no name.
    pub(super) fn restore(self, log: &mut MetricLog) -> bool {
        let Self { names, rows } = self;
        let rows: Option<Vec<SavedRow<'_>>> = rows
            .iter()
            .map(|&(name, step, epoch, value, at)| {
                let name = names.get(name)?.as_str();
                Some((name, step, f64::from_bits(epoch), f64::from_bits(value), TimestampMs(at)))
            })
            .collect();
        rows.map(|rows| log.restore(rows)).is_some()
    }
}
