//! What asking about several items at once has saved, by the ledger.

use crate::error::Result;
use schemas::number::grouped;
use schemas::{Dataset, Request};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Requests of a round about several items each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// ARES round.
    pub round: u32,
    /// Such requests.
    pub requests: u64,
    /// Items that they asked about; one by one, each would have been a request.
    pub items: u64,
}

/// The requests of a round about several items; `None` if there are none.
///
/// # Errors
/// If the table cannot be read.
pub(super) fn of(dataset: &Dataset, round: u32) -> Result<Option<Groups>> {
    #[derive(Deserialize)]
    struct Row {
        attempts: u32,
        cached: bool,
        items: Option<u32>,
    }
    let mut groups = Groups { round, ..Groups::default() };
    for row in dataset.stream_columns::<Request, Row>(round, &["attempts", "cached", "items"])? {
        let row = row?;
        if row.items.is_some() && !row.cached {
            groups.items += 1;
            groups.requests += u64::from(row.attempts > 0); // the first item counts them
        }
    }
    Ok((groups.items > 0).then_some(groups))
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, requests, items } = self;
        let saved = items.saturating_sub(*requests);
        write!(
            f,
            "round {round} scores: {} requests asked about {} rollouts; one by one it would have been {} more",
            grouped(*requests),
            grouped(*items),
            grouped(saved)
        )
    }
}
