//! Savings of requests about several items, according to the ledger.

use crate::error::{Error, Result};
use crate::inspect::frame::{Collected, frame};
use crate::items::Kind;
use polars::prelude::*;
use schemas::number::{counted, grouped};
use schemas::{Dataset, Request};
use serde::Serialize;
use std::fmt;

/// Requests of a round that asked about several items each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// ARES round.
    pub round: u32,
    /// Number of such requests.
    pub requests: u64,
    /// Items in these requests; individually, each would have been a request.
    pub items: u64,
    /// Items that were requested again individually, because the group's reply had no answer for them.
    pub again: u64,
}

/// Identity of an opinion on a rollout.
const OPINION: [&str; 3] = ["subject_id", "model", "repeat"];

/// The requests of a round about several items; `None` if there are none.
///
/// # Errors
/// If the table cannot be read.
pub(super) fn of(dataset: &Dataset, round: u32) -> Result<Option<Groups>> {
    let asked = frame::<Request>(
        dataset,
        round,
        &["kind", "subject_id", "attempts", "cached", "items", "model", "repeat"],
    )?
    .with_column(col("repeat").fill_null(lit(0_u64)))
    .filter(col("kind").eq(lit(Kind::Scores.as_str())).and(col("cached").not()));
    let alone = asked
        .clone()
        .filter(col("items").is_null().and(col("attempts").gt(lit(0))))
        .group_by(OPINION.map(col))
        .agg([len().alias("alone")]);
    let grouped = asked
        .filter(col("items").is_not_null())
        .join(alone, OPINION.map(col), OPINION.map(col), JoinArgs::new(JoinType::Left))
        .select([
            len().alias("items"),
            // The first item of a group counts its requests.
            col("attempts").gt(lit(0)).sum().alias("requests"),
            col("alone").is_not_null().sum().alias("again"),
        ]);
    let sums = Collected::of::<Request>(grouped)?;
    let sum = |name: &str| Ok::<_, Error>(sums.counts(name)?.iter().sum::<u64>());
    let groups = Groups { round, requests: sum("requests")?, items: sum("items")?, again: sum("again")? };
    Ok((groups.items > 0).then_some(groups))
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, requests, items, again } = self;
        let (asked, all) = (counted(*requests, "request"), counted(*items, "rollout"));
        write!(f, "round {round}, scores: {all} grouped in {asked}")?;
        if *again > 0 {
            write!(f, ", {} of them requested again individually", grouped(*again))?;
        }
        match items.checked_sub(requests + again) {
            Some(saved) => write!(f, "; {} saved", counted(saved, "request")),
            None => {
                write!(f, "; {} more than without grouping", counted(requests + again - items, "request"))
            }
        }
    }
}
