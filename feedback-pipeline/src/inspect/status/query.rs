//! Sums over tables by lazy scans.

use crate::error::{Error, Result};
use polars::prelude::*;
use schemas::{Correction, Dataset, Reject, Request, Score, Table};
use serde::Serialize;
use serde::de::IgnoredAny;
use std::collections::{HashMap, HashSet};

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
    /// Cost of the items whose model has a price.
    pub cost_usd: f64,
    /// Items that were sent to a model without a known price.
    pub unpriced: u64,
}

/// A lazy scan of a table's round; `None` if the round has no file. The cells of `names` are checked first, so that an
/// error names the file and the column.
fn scan<T: Table>(dataset: &Dataset, round: u32, names: &[&'static str]) -> Result<Option<LazyFrame>> {
    let parts = dataset.parts::<T>(round)?;
    if parts.is_empty() {
        return Ok(None);
    }
    for row in dataset.stream_columns::<T, IgnoredAny>(round, names)? {
        row?;
    }
    let options = ScanArgsParquet {
        glob: false,
        // `round` is a column of the file, too.
        hive_options: HiveOptions::new_disabled(),
        ..ScanArgsParquet::default()
    };
    // Parts of an older version may lack columns that later ones have: only those that are asked for are put together.
    let scan_part = |part: &std::path::PathBuf| {
        let frame = LazyFrame::scan_parquet(PlRefPath::try_from_path(part)?, options.clone())?;
        Ok(frame.select(names.iter().map(|name| col(*name)).collect::<Vec<_>>()))
    };
    let frames: PolarsResult<Vec<LazyFrame>> = parts.iter().map(scan_part).collect();
    frames.and_then(|frames| concat(frames, UnionArgs::default())).map(Some).map_err(failed::<T>)
}

fn failed<T: Table>(error: PolarsError) -> Error {
    if matches!(error, PolarsError::IO { .. }) {
        return Error::Failed(format!("table `{}`: {error}", T::NAME));
    }
    Error::bad_input(format!("table `{}`", T::NAME), error.to_string())
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
    let Some(requests) = scan::<Request>(dataset, round, &SPENDING_COLUMNS)? else { return Ok(Vec::new()) };
    let number = |expression: Expr| expression.cast(DataType::UInt64);
    let frame = requests
        .group_by([col("kind"), col("provider"), col("model")])
        .agg([
            number(len()).alias("items"),
            number(col("cached").sum()).alias("shared"),
            number(col("status").neq(lit("ok")).sum()).alias("failed"),
            number(col("attempts").cast(DataType::UInt64).sum()).alias("attempts"),
            col("input_tokens").sum(),
            col("cached_input_tokens").sum(),
            col("output_tokens").sum(),
            col("cost_usd").sum(),
            number(col("cost_usd").is_null().sum()).alias("unpriced"),
        ])
        .sort(["kind", "provider", "model"], SortMultipleOptions::default())
        .collect()
        .map_err(failed::<Request>)?;
    let read = || -> PolarsResult<Vec<Spending>> {
        let (kind, provider, model) =
            (texts(&frame, "kind")?, texts(&frame, "provider")?, texts(&frame, "model")?);
        let costs = frame.column("cost_usd")?.f64()?;
        (0..frame.height())
            .map(|row| {
                let at = |name: &str| number_at(&frame, name, row);
                Ok(Spending {
                    round,
                    kind: kind[row].clone(),
                    provider: provider[row].clone(),
                    model: model[row].clone(),
                    items: at("items")?,
                    shared: at("shared")?,
                    failed: at("failed")?,
                    attempts: at("attempts")?,
                    input_tokens: at("input_tokens")?,
                    cached_input_tokens: at("cached_input_tokens")?,
                    output_tokens: at("output_tokens")?,
                    cost_usd: costs.get(row).unwrap_or_default(),
                    unpriced: at("unpriced")?,
                })
            })
            .collect()
    };
    read().map_err(failed::<Request>)
}

/// Number of scores by rollout.
pub(super) fn scores_by_rollout(dataset: &Dataset, round: u32) -> Result<HashMap<String, u64>> {
    counts::<Score>(dataset, round, "rollout_id", &["rollout_id", "score"], None)
}

/// Number of corrections by rationale.
pub(super) fn corrections_by_rationale(dataset: &Dataset, round: u32) -> Result<HashMap<String, u64>> {
    counts::<Correction>(dataset, round, "rationale_id", &["rationale_id"], None)
}

/// Items of a kind that ended without a usable reply.
pub(super) fn rejected(dataset: &Dataset, round: u32, kind: &str) -> Result<HashSet<String>> {
    Ok(counts::<Reject>(dataset, round, "subject_id", &["subject_id", "kind"], Some(kind))?
        .into_keys()
        .collect())
}

fn counts<T: Table>(
    dataset: &Dataset,
    round: u32,
    id: &str,
    names: &[&'static str],
    kind: Option<&str>,
) -> Result<HashMap<String, u64>> {
    let Some(mut table) = scan::<T>(dataset, round, names)? else { return Ok(HashMap::new()) };
    if let Some(kind) = kind {
        table = table.filter(col("kind").eq(lit(kind)));
    }
    let counted = table.group_by([col(id)]).agg([len().cast(DataType::UInt64).alias("rows")]).collect();
    let frame = counted.map_err(failed::<T>)?;
    let read = || -> PolarsResult<HashMap<String, u64>> {
        let rows = frame.column("rows")?.u64()?;
        Ok(texts(&frame, id)?.into_iter().zip(rows.iter().map(Option::unwrap_or_default)).collect())
    };
    read().map_err(failed::<T>)
}

fn texts(frame: &DataFrame, name: &str) -> PolarsResult<Vec<String>> {
    Ok(frame.column(name)?.str()?.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
}

fn number_at(frame: &DataFrame, name: &str, row: usize) -> PolarsResult<u64> {
    Ok(frame.column(name)?.u64()?.get(row).unwrap_or_default())
}
