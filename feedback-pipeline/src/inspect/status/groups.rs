//! What asking about several items at once has saved, by the ledger.

use crate::error::{Error, Result};
use crate::inspect::frame::{Collected, frame};
use polars::prelude::*;
use schemas::number::grouped;
use schemas::{Dataset, Request};
use serde::Serialize;
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
    let grouped = frame::<Request>(dataset, round, &["attempts", "cached", "items"])?
        .filter(col("items").is_not_null().and(col("cached").not()))
        // The first item of a group counts its requests.
        .select([len().alias("items"), col("attempts").gt(lit(0)).sum().alias("requests")]);
    let sums = Collected::of::<Request>(grouped)?;
    let sum = |name: &str| Ok::<_, Error>(sums.counts(name)?.iter().sum::<u64>());
    let groups = Groups { round, requests: sum("requests")?, items: sum("items")? };
    Ok((groups.items > 0).then_some(groups))
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, requests, items } = self;
        let saved = items.saturating_sub(*requests);
        write!(
            f,
            "round {round}, scores: {} requests asked about {} rollouts together, which saved {} requests",
            grouped(*requests),
            grouped(*items),
            grouped(saved)
        )
    }
}
