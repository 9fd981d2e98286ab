//! Rows of older parts carried over to the set that replaces them.

use super::PartSet;
use super::completed::was_not_sent;
use crate::error::Result;
use crate::items::{Job, Kind};
use crate::store::Cache;
use crate::teacher;
use schemas::{Correction, Dataset, Judgement, Reject, Score, provenance};

/// Carries over rows of older parts that the set does not replace and the cache does not contain, and those of other
/// baselines and orders.
///
/// # Errors
/// If a table or the cache cannot be read, or the write fails.
pub(super) fn carry_over_of(dataset: &Dataset, jobs: &[Job], cache: &Cache, set: &mut PartSet) -> Result<()> {
    let Some(&Job { kind, round, .. }) = jobs.first() else { return Ok(()) };
    match kind {
        Kind::Scores => {
            for row in dataset.stream::<Score>(round)? {
                let row = row?;
                let outcome = super::opinion_on(&row.rollout_id, &row.teacher, row.repeat.unwrap_or(0));
                if !set.has_outcome(&outcome) && !is_told_by(jobs, cache, &row.request_key)? {
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
                let pair = super::pair(&row.problem_id, &row.against, row.candidate_shown_first);
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

/// Whether the cache contains a request of these jobs: its outcome is derived from there, or it is about an older text.
fn is_told_by(jobs: &[Job], cache: &Cache, request_key: &str) -> Result<bool> {
    let Some(key) = teacher::parse_key(request_key) else { return Ok(false) };
    let Some(ask) = cache.ask(&key)? else { return Ok(false) };
    Ok(jobs.iter().any(|job| job.scope() == ask.scope) && !cache.replies(&key)?.is_empty())
}

/// Whether these jobs contain a rejected item. A rationale may be in pairs of several baselines.
fn is_reject_of(jobs: &[Job], cache: &Cache, row: &Reject, set: &PartSet) -> Result<bool> {
    let outcome = match (row.kind == Kind::Scores.as_str(), &row.teacher) {
        (false, _) => Some(row.subject_id.clone()),
        (true, Some(teacher)) => Some(super::opinion_on(&row.subject_id, teacher, row.repeat.unwrap_or(0))),
        // Older files do not record the Teacher; the store does, if it contains the reply.
        (true, None) => None,
    };
    if row.kind != Kind::Judgements.as_str() && outcome.is_some_and(|outcome| set.has_outcome(&outcome)) {
        return Ok(true);
    }
    if is_told_by(jobs, cache, &row.request_key)? {
        return Ok(true);
    }
    for job in jobs {
        let keys = cache.keys_of(&job.scope(), job.round, &row.subject_id)?;
        // This also covers a shared reply that was paid for in another order.
        if keys.iter().any(|key| provenance::hex(key) == row.request_key)
            || was_not_sent(cache, &keys, &row.request_key)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
