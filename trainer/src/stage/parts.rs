//! Parts of a table that a stage writes: which problems have rows, and the parts in which to write the others.

use crate::error::Result;
use schemas::table::Batches;
use schemas::{Dataset, Problem, Table};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Deserialize)]
struct ProblemOf {
    problem_id: String,
}

/// Problems that have no row in the round's parts `<prefix>-00000`, `<prefix>-00001`, …, divided into further parts of at most
/// `size` problems: names of parts with their problems. Problems imported since then are included.
///
/// # Errors
/// If a part is broken.
pub(super) fn due<'a, T: Table>(
    dataset: &Dataset,
    round: u32,
    prefix: &str,
    size: usize,
    problems: &[&'a Problem],
) -> Result<Vec<(String, Vec<&'a Problem>)>> {
    let mut has_rows: HashSet<String> = HashSet::new();
    let mut next = 0;
    for path in dataset.parts::<T>(round)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some(number) = number(&name, prefix) else { continue };
        next = next.max(number + 1);
        for rows in Batches::<T, ProblemOf>::project(&path, &["problem_id", "round"])?.of_round(round) {
            has_rows.extend(rows?.into_iter().map(|row| row.problem_id));
        }
    }
    let due: Vec<&Problem> =
        problems.iter().filter(|problem| !has_rows.contains(&problem.problem_id)).copied().collect();
    let parts = due.chunks(size).zip(next..);
    Ok(parts.map(|(problems, number)| (format!("{prefix}-{number:05}"), problems.to_vec())).collect())
}

/// Whether the round has any part with this prefix.
///
/// # Errors
/// If the folder cannot be read.
pub(super) fn exist<T: Table>(dataset: &Dataset, round: u32, prefix: &str) -> Result<bool> {
    let parts = dataset.parts::<T>(round)?;
    let names = parts.iter().filter_map(|path| path.file_stem()?.to_str());
    Ok(names.filter_map(|name| number(name, prefix)).next().is_some())
}

/// The number of a part `part-<prefix>-<number>`.
fn number(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix("part-")?.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}
