//! The only loop that adds requests to the ledger and writes outcomes, for one job or for all that share tables.

use super::PartSet;
use super::ledger::Ledger;
use crate::error::Result;
use crate::items::{self, Item, Job, Kind, Problems};
use crate::reply::verdict::Verdict;
use crate::store::Cache;
use crate::store::outcome::{self, ItemOutcome};
use schemas::Dataset;
use std::collections::HashMap;

/// The jobs of a kind and round with requests in the cache.
///
/// # Errors
/// If the cache cannot be read.
pub fn jobs(cache: &Cache, kind: Kind, round: u32) -> Result<Vec<Job>> {
    let scopes = cache.scopes(round)?;
    Ok(scopes.iter().filter_map(|scope| Job::of_scope(scope, round)).filter(|job| job.kind == kind).collect())
}

/// Adds missing requests of some items to the ledger, and writes the outcome that `choose` returns for each; returns the number
/// of rows added.
///
/// # Errors
/// If a table or the cache cannot be read, or the write fails.
pub fn write(
    set: &mut PartSet,
    ledger: &Ledger,
    cache: &Cache,
    job: &Job,
    items: impl Iterator<Item = Result<Item>>,
    mut choose: impl FnMut(&Item) -> Result<Option<ItemOutcome>>,
) -> Result<usize> {
    let mut entered = 0;
    for item in items {
        let item = item?;
        entered += ledger.enter(set, cache, job, &item)?;
        if let Some(outcome) = choose(&item)? {
            set.outcome(job, &item, outcome)?;
        }
    }
    Ok(entered)
}

/// The same for all items of jobs that share tables, each with its latest outcome.
///
/// # Errors
/// As [`write()`].
pub fn write_all(
    set: &mut PartSet,
    ledger: &Ledger,
    cache: &Cache,
    dataset: &Dataset,
    jobs: &[Job],
    problems: &Problems,
) -> Result<usize> {
    let chosen = chosen_jobs(dataset, jobs, problems, cache)?;
    let mut entered = 0;
    for (place, job) in jobs.iter().enumerate() {
        let items = items::all_items(dataset, job, problems)?;
        entered += write(set, ledger, cache, job, items, |item| {
            let found = outcome::latest(cache, job, item, None)?;
            Ok(found.filter(|found| {
                let outcome = super::outcome_of(job, item, &found.ask.model);
                chosen.get(&outcome).is_none_or(|chosen| *chosen == place)
            }))
        })?;
    }
    Ok(entered)
}

/// Of several jobs with the same outcome identity, the one that counts: a pair that was shown in the same order for several
/// jobs has one judgement, and a Teacher one opinion. An answer takes precedence over a reject, then the later one.
fn chosen_jobs(
    dataset: &Dataset,
    jobs: &[Job],
    problems: &Problems,
    cache: &Cache,
) -> Result<HashMap<String, usize>> {
    let mut best: HashMap<String, ((bool, i64), usize)> = HashMap::new();
    if jobs.len() < 2 {
        return Ok(HashMap::new());
    }
    for (place, job) in jobs.iter().enumerate() {
        for item in items::all_items(dataset, job, problems)? {
            let item = item?;
            let Some(resolved) = outcome::latest(cache, job, &item, None)? else { continue };
            let at = resolved.replies.last().map_or(0, |reply| reply.replied_at_ms);
            let rank = (matches!(resolved.verdict, Verdict::Answer(_)), at);
            let outcome = super::outcome_of(job, &item, &resolved.ask.model);
            let found = best.entry(outcome).or_insert((rank, place));
            if rank > found.0 {
                *found = (rank, place);
            }
        }
    }
    Ok(best.into_iter().map(|(pair, (_, place))| (pair, place)).collect())
}
