//! Rebuilds the tables from the cache without a request, for instance after a change of the parser or the Parquet layout.

use super::booking;
use super::ledger::{self, Ledger};
use super::outcomes::{self, jobs};
use super::{PartSet, Replacement, replace};
use crate::error::Result;
use crate::items::{self, Job, Kind, Problems};
use crate::store::{Cache, outcome};
use crate::tables;
use schemas::{Dataset, Provenance, Rationale, Request, Rollout};
use std::collections::{BTreeMap, BTreeSet};

/// Recreates all scores, corrections, judgements, rejects and requests; returns the number of rows of the ledger.
pub fn all(dataset: &Dataset, provenance: &Provenance) -> Result<usize> {
    let _lock = dataset.lock(crate::PROGRAM)?;
    let cache = Cache::open(&dataset.feedback_path())?;
    let _snapshot = cache.snapshot()?;
    let problems = Problems::load(dataset, schemas::settings::Provider::Anthropic)?;
    let mut rounds: BTreeSet<u32> = dataset.rounds::<Rollout>()?.into_iter().collect();
    rounds.extend(dataset.rounds::<Rationale>()?);
    let mut rows = 0;
    for round in rounds {
        for kind in Kind::ALL {
            tables::recover(dataset, kind, round)?;
            let jobs = jobs(&cache, kind, round)?;
            if !jobs.is_empty() {
                rows += one(dataset, provenance, &cache, &problems, &jobs)?;
                cache.rewritten(kind, round)?;
            }
        }
        rows += audits(dataset, provenance, &cache, &problems, round)?;
    }
    Ok(rows)
}

/// Rewrites the tables of a kind and round if they do not yet reflect discarded or restored answers; returns
/// whether it did.
///
/// # Errors
/// If a table or the cache cannot be read, or the write fails.
pub fn after_discards(
    dataset: &Dataset,
    provenance: &Provenance,
    cache: &Cache,
    kind: Kind,
    round: u32,
) -> Result<bool> {
    if !cache.awaits_rewrite(kind, round)? {
        return Ok(false);
    }
    tables::recover(dataset, kind, round)?;
    let problems = Problems::load(dataset, schemas::settings::Provider::Anthropic)?;
    let jobs = jobs(cache, kind, round)?;
    if !jobs.is_empty() {
        let _snapshot = cache.snapshot()?;
        one(dataset, provenance, cache, &problems, &jobs)?;
    }
    cache.rewritten(kind, round)?;
    Ok(true)
}

fn one(
    dataset: &Dataset,
    provenance: &Provenance,
    cache: &Cache,
    problems: &Problems,
    jobs: &[Job],
) -> Result<usize> {
    let Some(first) = jobs.first() else { return Ok(0) };
    let (kind, round) = (first.kind, first.round);
    let number = tables::next_number(dataset, kind, round)?;
    let replacement = Replacement::begin(dataset, kind, round, number, true)?;
    let mut set = PartSet::replacing(dataset, kind, round, number, &replacement, provenance)?;
    let mut rows = outcomes::write_all(&mut set, &Ledger::default(), cache, dataset, jobs, problems)?;
    replace::carry_over_of(dataset, jobs, cache, &mut set)?;
    // The ledger only grows: what was paid for items that no longer exist is kept.
    for row in dataset.stream::<Request>(round)? {
        let row = row?;
        if row.kind == kind.as_str() && !set.has_booked(&row.request_key, &row.subject_id) {
            set.keep_request(row)?;
            rows += 1;
        }
    }
    set.finish()?;
    replacement.commit()?;
    Ok(rows)
}

/// Rewrites the ledgers of a round's audits, whose replies are in no other table.
fn audits(
    dataset: &Dataset,
    provenance: &Provenance,
    cache: &Cache,
    problems: &Problems,
    round: u32,
) -> Result<usize> {
    let mut ledgers: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for scope in cache.scopes(round)? {
        let Some(seed) = scope.strip_prefix("audit/").and_then(|seed| seed.parse().ok()) else { continue };
        let job = Job::audit(round, seed);
        for item in items::all_items(dataset, &job, problems)? {
            let item = item?;
            for resolved in outcome::all(cache, &job, &item)?.iter().rev() {
                let part = ledger::audit_part_name(seed, &resolved.ask.model, &resolved.ask.prompt_version);
                ledgers.entry(part).or_default().push(booking::row(&job, &item, resolved));
            }
        }
    }
    let rows = ledgers.values().map(Vec::len).sum();
    for (part, ledger) in ledgers {
        dataset.write_part::<Request>(round, &part, ledger, provenance)?;
    }
    Ok(rows)
}
