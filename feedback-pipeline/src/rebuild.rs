//! Tables made anew from the cache, without one request: after a change of the parser or of the Parquet layout.

use crate::cache::Cache;
use crate::collect::Context;
use crate::done::was_not_sent;
use crate::due::{self, Job, Kind, Problems};
use crate::error::Result;
use crate::ledger;
use crate::prompt;
use crate::settled;
use crate::tables::{self, PartSet};
use crate::teacher;
use crate::verdict::Verdict;
use schemas::{
    Correction, Dataset, IdSet, Judgement, Rationale, Reject, Request, Rollout, Score, provenance,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    let mut set = PartSet::create(dataset, kind, round, number, true, &context.provenance)?.replacing();
    let mut rows = 0;
    let mut booked = IdSet::default();
    let chosen = chosen_jobs(dataset, jobs, problems, cache)?;
    for (place, job) in jobs.iter().enumerate() {
        for item in due::all_items(dataset, job, problems)? {
            let item = item?;
            let settled = settled::all(cache, job, &item)?;
            for settled in settled.iter().rev() {
                set.ledger(job, &item, settled)?;
                booked.insert(&ledger::booking(&settled.key_text(), &item.subject_id));
                rows += 1;
            }
            if chosen.get(&tables::outcome_of(&item)).is_some_and(|chosen| *chosen != place) {
                continue;
            }
            if let Some(latest) =
                settled.into_iter().find(|settled| prompt::is_about(&settled.ask.user_text, &item))
            {
                set.outcome(job, &item, latest)?;
            }
        }
    }
    carry_over_of(dataset, jobs, cache, &mut set)?;
    // The ledger only grows: what was paid for items that are no more stays.
    for row in dataset.stream::<Request>(round)? {
        let row = row?;
        if row.kind == kind.as_str() && !booked.contains(&ledger::booking(&row.request_key, &row.subject_id))
        {
            set.keep_request(row)?;
            rows += 1;
        }
    }
    tables::announce(dataset, kind, round, number, true)?;
    set.finish()?;
    tables::end_replacement(dataset, kind, round, number, true)?;
    Ok(rows)
}

/// A pair that was shown in the same order for several jobs has one judgement: which job tells it, by the pair. An answer
/// counts before a reject, and then the later one.
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
        for item in due::all_items(dataset, job, problems)? {
            let item = item?;
            let Some(settled) = settled::latest(cache, job, &item, None)? else { continue };
            let at = settled.replies.last().map_or(0, |reply| reply.replied_at_ms);
            let rank = (matches!(settled.verdict, Verdict::Answer(_)), at);
            let found = best.entry(tables::outcome_of(&item)).or_insert((rank, place));
            if rank > found.0 {
                *found = (rank, place);
            }
        }
    }
    Ok(best.into_iter().map(|(pair, (_, place))| (pair, place)).collect())
}

/// Writes the ledgers of a round's audits anew, whose replies touch no other table.
fn audits(context: &Context, cache: &Cache, problems: &Problems, round: u32) -> Result<usize> {
    let mut ledgers: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for scope in cache.scopes(round)? {
        let Some(seed) = scope.strip_prefix("audit/").and_then(|seed| seed.parse().ok()) else { continue };
        let job = Job::audit(round, seed);
        for item in due::all_items(&context.dataset, &job, problems)? {
            let item = item?;
            for settled in settled::all(cache, &job, &item)?.iter().rev() {
                let part = crate::audit::part_name(seed, &settled.ask.model, &settled.ask.prompt_version);
                ledgers.entry(part).or_default().push(ledger::row(&job, &item, settled));
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
        if let Some(settled) = settled::latest(cache, job, &item, None)? {
            debug_assert!(!matches!(settled.verdict, Verdict::Ask(_)));
            set.outcome(job, &item, settled)?;
        }
    }
    Ok(())
}

/// Takes over the rows of older parts that nothing of the set replaces and the cache cannot tell, and those of other
/// baselines and orders.
///
/// # Errors
/// Where a table or the cache cannot be read, or the disk refuses.
pub fn carry_over(dataset: &Dataset, job: &Job, cache: &Cache, set: &mut PartSet) -> Result<()> {
    carry_over_of(dataset, std::slice::from_ref(job), cache, set)
}

fn carry_over_of(dataset: &Dataset, jobs: &[Job], cache: &Cache, set: &mut PartSet) -> Result<()> {
    let Some(&Job { kind, round, .. }) = jobs.first() else { return Ok(()) };
    match kind {
        Kind::Scores => {
            for row in dataset.stream::<Score>(round)? {
                let row = row?;
                if !set.has_outcome(&row.rollout_id) && !is_told_by(jobs, cache, &row.request_key)? {
                    set.keep_score(row)?;
                }
            }
        }
        Kind::Corrections => {
            for row in dataset.stream::<Correction>(round)? {
                let row = row?;
                if !set.has_outcome(&row.rationale_id) && !is_told_by(jobs, cache, &row.request_key)? {
                    set.keep_correction(row)?;
                }
            }
        }
        Kind::Judgements => {
            for row in dataset.stream::<Judgement>(round)? {
                let row = row?;
                let pair = tables::pair(&row.problem_id, &row.against, row.candidate_shown_first);
                if !set.has_outcome(&pair) && !is_told_by(jobs, cache, &row.request_key)? {
                    set.keep_judgement(row)?;
                }
            }
        }
    }
    for row in dataset.stream::<Reject>(round)? {
        let row = row?;
        if row.kind == kind.as_str() && !is_reject_of(jobs, cache, &row, set)? {
            set.keep_reject(row)?;
        }
    }
    Ok(())
}

/// Whether the cache holds a request of these jobs: what it amounts to is told from there, or it is about what the item
/// said before.
fn is_told_by(jobs: &[Job], cache: &Cache, request_key: &str) -> Result<bool> {
    let Some(key) = teacher::parse_key(request_key) else { return Ok(false) };
    let Some(ask) = cache.ask(&key)? else { return Ok(false) };
    Ok(jobs.iter().any(|job| job.scope() == ask.scope) && !cache.replies(&key)?.is_empty())
}

/// Whether these jobs tell of an item that was rejected. A rationale may stand in pairs of several baselines.
fn is_reject_of(jobs: &[Job], cache: &Cache, row: &Reject, set: &PartSet) -> Result<bool> {
    if row.kind != Kind::Judgements.as_str() && set.has_outcome(&row.subject_id) {
        return Ok(true);
    }
    if is_told_by(jobs, cache, &row.request_key)? {
        return Ok(true);
    }
    for job in jobs {
        let keys = cache.keys_of(&job.scope(), job.round, &row.subject_id)?;
        // Also where the reply was paid for in another order, and is shared.
        if keys.iter().any(|key| provenance::hex(key) == row.request_key)
            || was_not_sent(cache, &keys, &row.request_key)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
