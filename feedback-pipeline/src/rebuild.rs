//! Tables made anew from the cache, without one request: after a change of the parser or of the Parquet layout.

use crate::cache::Cache;
use crate::collect::{Context, settled};
use crate::done::was_not_sent;
use crate::due::{self, Job, Kind, Problems};
use crate::error::Result;
use crate::prompt;
use crate::tables::{self, PartSet};
use crate::verdict::Verdict;
use schemas::{
    Correction, Dataset, Judgement, Rationale, Reject, Request, Rollout, Score, provenance, table::Batches,
};
use std::collections::{BTreeMap, BTreeSet};

/// Makes all scores, corrections, judgements, rejects and requests anew; returns the number of rows of the ledger.
pub fn all(context: &Context) -> Result<usize> {
    let dataset = &context.dataset;
    let _lock = dataset.lock(crate::PROGRAM)?;
    let cache = Cache::open(&dataset.feedback_path())?;
    let _snapshot = cache.snapshot()?;
    let problems = Problems::load(dataset, schemas::settings::Provider::Anthropic)?;
    let mut rounds: BTreeSet<u32> = dataset.rounds::<Rollout>()?.into_iter().collect();
    rounds.extend(dataset.rounds::<Rationale>()?);
    let mut rows = 0;
    for round in rounds {
        for kind in Kind::ALL {
            tables::heal(dataset, kind, round)?;
            let jobs = jobs(&cache, kind, round)?;
            if !jobs.is_empty() {
                rows += one(context, &cache, &problems, &jobs)?;
            }
        }
        rows += audits(context, &cache, &problems, round)?;
    }
    Ok(rows)
}

/// The jobs of a kind and round that the cache has requests of.
fn jobs(cache: &Cache, kind: Kind, round: u32) -> Result<Vec<Job>> {
    let scopes = cache.scopes(round)?;
    Ok(scopes.iter().filter_map(|scope| Job::of_scope(scope, round)).filter(|job| job.kind == kind).collect())
}

fn one(context: &Context, cache: &Cache, problems: &Problems, jobs: &[Job]) -> Result<usize> {
    let Some(first) = jobs.first() else { return Ok(0) };
    let (dataset, kind, round) = (&context.dataset, first.kind, first.round);
    let number = tables::next_number(dataset, kind, round)?;
    let mut set = PartSet::create(dataset, kind, round, number, true, &context.provenance)?;
    let mut rows = 0;
    for job in jobs {
        for item in due::all_items(dataset, job, problems)? {
            let item = item?;
            let settled = crate::collect::all_settled(cache, job, &item)?;
            for settled in settled.iter().rev() {
                set.ledger(job, &item, settled)?;
                rows += 1;
            }
            if let Some(latest) =
                settled.into_iter().find(|settled| prompt::is_about(&settled.ask.user_text, &item))
            {
                set.outcome(job, &item, latest)?;
            }
        }
    }
    carry_over_foreign(dataset, kind, round, cache, jobs, &mut set)?;
    tables::announce(dataset, kind, round, number, true)?;
    set.finish()?;
    tables::end_replacement(dataset, kind, round, number, true)?;
    Ok(rows)
}

/// Writes the ledgers of a round's audits anew, whose replies touch no other table.
fn audits(context: &Context, cache: &Cache, problems: &Problems, round: u32) -> Result<usize> {
    let mut ledgers: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for scope in cache.scopes(round)? {
        let Some(seed) = scope.strip_prefix("audit/").and_then(|seed| seed.parse().ok()) else { continue };
        let job = Job::audit(round, seed);
        for item in due::all_items(&context.dataset, &job, problems)? {
            let item = item?;
            for settled in crate::collect::all_settled(cache, &job, &item)?.iter().rev() {
                let part = crate::audit::part_name(seed, &settled.ask.model, &settled.ask.prompt_version);
                ledgers.entry(part).or_default().push(tables::request_row(&job, &item, settled));
            }
        }
    }
    let rows = ledgers.values().map(Vec::len).sum();
    for (part, ledger) in ledgers {
        context.dataset.write_part::<Request>(round, &part, ledger, &context.provenance)?;
    }
    Ok(rows)
}

/// Adds the outcome of every item of a job that the cache can tell.
pub fn all_outcomes(
    dataset: &Dataset,
    job: &Job,
    problems: &Problems,
    cache: &Cache,
    set: &mut PartSet,
) -> Result<()> {
    for item in due::all_items(dataset, job, problems)? {
        let item = item?;
        if let Some(settled) = settled(cache, job, &item, None)? {
            debug_assert!(!matches!(settled.verdict, Verdict::Ask(_)));
            set.outcome(job, &item, settled)?;
        }
    }
    Ok(())
}

/// Takes over the rows of older parts that the cache knows nothing of, and those of other baselines.
pub fn carry_over(dataset: &Dataset, job: &Job, cache: &Cache, set: &mut PartSet) -> Result<()> {
    carry_over_foreign(dataset, job.kind, job.round, cache, std::slice::from_ref(job), set)
}

fn carry_over_foreign(
    dataset: &Dataset,
    kind: Kind,
    round: u32,
    cache: &Cache,
    jobs: &[Job],
    set: &mut PartSet,
) -> Result<()> {
    let unknown = |subject_id: &str| -> Result<bool> {
        for job in jobs {
            if !cache.keys_of(&job.scope(), round, subject_id)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match kind {
        Kind::Scores => {
            for part in dataset.parts::<Score>(round)? {
                for batch in Batches::<Score, Score>::open(&part)? {
                    for row in batch? {
                        if unknown(&row.rollout_id)? {
                            set.keep_score(row)?;
                        }
                    }
                }
            }
        }
        Kind::Corrections => {
            for part in dataset.parts::<Correction>(round)? {
                for batch in Batches::<Correction, Correction>::open(&part)? {
                    for row in batch? {
                        if unknown(&row.rationale_id)? {
                            set.keep_correction(row)?;
                        }
                    }
                }
            }
        }
        Kind::Judgements => {
            for row in dataset.read::<Judgement>(round)? {
                let covered =
                    |job: &Job| job.against == row.against && job.order.covers(row.candidate_shown_first);
                if !jobs.iter().any(covered) {
                    set.keep_judgement(row)?;
                }
            }
        }
    }
    for row in dataset.read::<Reject>(round)? {
        if row.kind != kind.as_str() {
            continue;
        }
        let mut known = false;
        for job in jobs {
            let keys = cache.keys_of(&job.scope(), round, &row.subject_id)?;
            known |= match kind {
                Kind::Judgements => {
                    keys.iter().any(|key| provenance::hex(&key[..]) == row.request_key)
                        || was_not_sent(cache, &keys, &row.request_key)?
                }
                _ => !keys.is_empty(),
            };
        }
        if !known {
            set.keep_reject(row)?;
        }
    }
    Ok(())
}
