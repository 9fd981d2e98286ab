//! Queries over the tables of a round: spending, and the outcome of each item.

use crate::error::{Error, Result};
use crate::inspect::frame::{Collected, failed, frame, left_join};
use polars::prelude::*;
use schemas::opinions::Opinion;
use schemas::{Dataset, Reject, Request};
use serde::Serialize;
use std::collections::HashSet;

/// Requests of a round, kind and model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spending {
    /// ARES round.
    pub round: u32,
    /// scores, corrections or judgements.
    pub kind: String,
    /// Provider that was asked.
    pub provider: String,
    /// Model that was asked.
    pub model: String,
    /// Items: rows of the requests table.
    pub items: u64,
    /// Items that share another item's reply.
    pub shared: u64,
    /// Items without a usable reply.
    pub failed: u64,
    /// Requests sent, repeats included.
    pub attempts: u64,
    /// Input tokens at the full price.
    pub input_tokens: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost of items whose model has a price.
    pub cost_usd: f64,
    /// Items that were sent to a model without a known price.
    pub unpriced: u64,
}

/// Columns that [`spending`] sums and groups by.
const SPENDING_COLUMNS: [&str; 10] = [
    "kind",
    "provider",
    "model",
    "status",
    "attempts",
    "cached",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_usd",
];

/// Requests of a round by Teacher.
pub(super) fn spending(dataset: &Dataset, round: u32) -> Result<Vec<Spending>> {
    let by_teacher = ["kind", "provider", "model"];
    let query = frame::<Request>(dataset, round, &SPENDING_COLUMNS)?
        .group_by_stable(by_teacher.map(col))
        .agg([
            len().alias("items"),
            col("cached").sum().alias("shared"),
            col("status").neq(lit("ok")).sum().alias("failed"),
            col("attempts").sum(),
            col("input_tokens").sum(),
            col("cached_input_tokens").sum(),
            col("output_tokens").sum(),
            col("cost_usd").sum(),
            col("cost_usd").is_null().sum().alias("unpriced"),
        ])
        .sort(by_teacher, SortMultipleOptions::default());
    let rows = Collected::of::<Request>(query)?;
    let [kinds, providers, models] = [rows.texts("kind")?, rows.texts("provider")?, rows.texts("model")?];
    let counts = |name: &str| rows.counts(name);
    let (items, shared, failed, attempts) =
        (counts("items")?, counts("shared")?, counts("failed")?, counts("attempts")?);
    let (input, cached, output) =
        (counts("input_tokens")?, counts("cached_input_tokens")?, counts("output_tokens")?);
    let (costs, unpriced) = (rows.numbers("cost_usd")?, counts("unpriced")?);
    let line = |row: usize| Spending {
        round,
        kind: kinds[row].clone(),
        provider: providers[row].clone(),
        model: models[row].clone(),
        items: items[row],
        shared: shared[row],
        failed: failed[row],
        attempts: attempts[row],
        input_tokens: input[row],
        cached_input_tokens: cached[row],
        output_tokens: output[row],
        cost_usd: costs[row].unwrap_or_default(),
        unpriced: unpriced[row],
    };
    Ok((0..rows.len()).map(line).collect())
}

/// The outcomes of the items of a kind.
#[derive(Debug)]
pub(super) struct Outcomes {
    pub(super) items: u64,
    pub(super) done: u64,
    pub(super) rejected: u64,
    pub(super) waiting: u64,
    pub(super) outside: u64,
    pub(super) empty: u64,
    /// Rows of feedback of those that are done.
    pub(super) rows: u64,
    /// Items that the tables disagree on.
    pub(super) faults: Vec<String>,
}

/// The outcomes of items: rows of `id`, `empty`, `rows` (of feedback; null without any) and `expected` (rows), and `outside`
/// (of what is asked about). An item is empty, done, rejected, outside or waiting, whichever applies first. With an opinion,
/// only its rejects count.
pub(super) fn outcomes(
    dataset: &Dataset,
    round: u32,
    kind: &str,
    opinion: Option<&Opinion>,
    items: LazyFrame,
) -> Result<Outcomes> {
    let mut rejects = frame::<Reject>(dataset, round, &["subject_id", "kind", "teacher", "repeat"])?
        .filter(col("kind").eq(lit(kind)));
    if let Some(Opinion { teacher, repeat }) = opinion {
        // Older files do not record the Teacher; there was a single opinion then.
        let is_own = col("teacher").fill_null(lit(teacher.as_str())).eq(lit(teacher.as_str()));
        let is_repeat = col("repeat").fill_null(lit(0_u64)).eq(lit(u64::from(*repeat)));
        rejects = rejects.filter(is_own.and(is_repeat));
    }
    let rejects = rejects.group_by([col("subject_id")]).agg([len().alias("rejects")]);
    let is_done = || col("empty").not().and(col("rows").is_not_null());
    let is_open = || col("empty").not().and(col("rows").is_null());
    let items = left_join(items, "id", rejects, "subject_id");
    let sums = Collected::of::<Reject>(items.clone().select([
        len().alias("items"),
        is_done().sum().alias("done"),
        is_open().and(col("rejects").is_not_null()).sum().alias("rejected"),
        is_open().and(col("rejects").is_null()).and(col("outside").not()).sum().alias("waiting"),
        is_open().and(col("rejects").is_null()).and(col("outside")).sum().alias("outside"),
        col("empty").sum(),
        when(is_done()).then(col("rows")).otherwise(lit(0)).sum().alias("rows"),
    ]))?;
    let sum = |name: &str| Ok::<_, Error>(sums.counts(name)?.first().copied().unwrap_or_default());
    let is_off = is_done().and(col("rows").neq(col("expected")));
    let appears_again = || len().over([col("id")]).map(|same| same.gt(lit(1)));
    let odd = items
        .with_columns([is_off.alias("off"), appears_again().map_err(failed::<Reject>)?.alias("again")])
        .filter(col("off").or(col("again")));
    Ok(Outcomes {
        items: sum("items")?,
        done: sum("done")?,
        rejected: sum("rejected")?,
        waiting: sum("waiting")?,
        outside: sum("outside")?,
        empty: sum("empty")?,
        rows: sum("rows")?,
        faults: faults(&Collected::of::<Reject>(odd)?)?,
    })
}

fn faults(odd: &Collected) -> Result<Vec<String>> {
    let (ids, off) = (odd.texts("id")?, odd.counts("off")?);
    let (rows, expected) = (odd.counts("rows")?, odd.counts("expected")?);
    let (mut faults, mut seen) = (Vec::new(), HashSet::new());
    for (row, id) in ids.iter().enumerate() {
        if off[row] == 1 {
            faults.push(format!(
                "`{id}` has {} of {}",
                schemas::number::counted(rows[row], "row"),
                expected[row]
            ));
        }
        if !seen.insert(id) {
            faults.push(format!("`{id}` appears twice"));
        }
    }
    Ok(faults)
}

/// Rows by id, for a join: `rows` counts those of each id.
pub(super) fn counted(table: LazyFrame, id: &str) -> LazyFrame {
    table.group_by([col(id)]).agg([len().cast(DataType::UInt64).alias("rows")])
}
