//! `collect-feedback audit`: how well another Teacher, model or seed agrees with the scores of a round.
//!
//! A seeded sample of scored rollouts is scored again, with the same cache, rate limits and budget. The
//! replies are in the cache under their own scope and in the ledger as kind `audit`; the scores table is not
//! changed. Repeating the same audit sends nothing. `people` compares with human labels, and never sends
//! anything.

mod agreement;
mod labels;
pub mod people;
mod people_text;
mod statistics;

pub use agreement::{Agreement, Disagreement, Pair, Place};

use crate::collect::{Context, Plan};
use crate::error::{Error, Result};
use crate::inspect::opinions;
use crate::items::{self, Item, Job, Problems};
use crate::reply::Answer;
use crate::reply::verdict::Verdict;
use crate::request::prompt::SystemPrompt;
use crate::send::runtime;
use crate::store::outcome;
use crate::tables::{booking, ledger};
use schemas::number::counted;
use schemas::opinions::OnRollout;
use schemas::{Request, provenance::sha256_hex};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Selects the rollouts that are scored again.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Number of rollouts.
    pub sample: usize,
    /// Seed of the selection; a larger sample with the same seed contains the smaller one.
    pub seed: u64,
}

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    /// ARES round.
    pub round: u32,
    /// Seed of the sample.
    pub seed: u64,
    /// Teachers that had scored the sample.
    pub teachers: BTreeSet<String>,
    /// Teacher that scored it again.
    pub auditor: String,
    /// Rollouts in the sample.
    pub rollouts: usize,
    /// Those scored again.
    pub answered: usize,
    /// Those without a usable reply.
    pub rejected: usize,
    /// Requests sent by this run.
    pub sent: u64,
    /// Dollars spent by this run; `None` if the model has no known price.
    pub cost_usd: Option<f64>,
    /// Agreement of the scores.
    pub agreement: Agreement,
}

/// Scores of a rollout in the order of its sentences.
type Scores = Vec<(u32, f32)>;

/// Scores a sample again. If there is an error, the audit ended early, and the result covers the answers up
/// to then.
///
/// # Errors
/// If the round has no scores, a table cannot be read, or the cache cannot be written.
pub fn run(context: &Context, round: u32, choice: Choice) -> Result<(Audit, Option<Error>)> {
    let dataset = &context.dataset;
    let _lock = dataset.lock(crate::PROGRAM)?;
    let (scores, teacher_of) = scored(context, round)?;
    if scores.is_empty() {
        let message = format!(
            "expected a round with scores, found none; next: collect-feedback --round {round}{}",
            dataset.flag()
        );
        return Err(Error::bad_input(format!("{}, round {round}", dataset.root().display()), message));
    }
    let chosen = choose(scores.keys().map(String::as_str), choice);
    let job = Job::audit(round, choice.seed);
    let prompt = SystemPrompt::load(job.kind, &context.settings.teacher)?;
    let problems = Problems::load(dataset, context.settings.teacher.provider)?;
    let session = Arc::new(context.session(&job, prompt, chosen.len())?);
    let is_chosen =
        |item: &Result<Item>| item.as_ref().map_or(true, |item| chosen.contains(item.subject_id.as_str()));
    let items = items::all_items(dataset, &job, &problems)?.filter(is_chosen);
    let plan = Plan::of(context, &session)?;
    runtime::run(&session, session.all(plan.steps(items)))?;
    session.cache.writer().flush()?;

    let (mut ledger, mut pairs) = (Vec::<Request>::new(), Vec::new());
    let (mut answered, mut rejected) = (0, 0);
    {
        let _snapshot = session.cache.snapshot()?;
        for item in items::all_items(dataset, &job, &problems)? {
            let item = item?;
            // Earlier samples of this seed stay in the ledger, and so do repeated requests after a reject.
            for resolved in outcome::all(&session.cache, &job, &item)?.iter().rev() {
                let (ask, asks) = (&resolved.ask, session.asked_with());
                if ask.model == asks.model && ask.prompt_version == asks.prompt_version {
                    ledger.push(booking::row(&job, &item, resolved));
                }
            }
            if !chosen.contains(item.subject_id.as_str()) {
                continue;
            }
            let Some(resolved) = outcome::latest(&session.cache, &job, &item, Some(session.asked_with()))?
            else {
                continue;
            };
            match resolved.verdict {
                Verdict::Answer(Answer::Scores(again)) => {
                    answered += 1;
                    let first = scores.get(&item.subject_id).map_or(&[][..], Vec::as_slice);
                    pairs.extend(self::pairs(&item, first, &again));
                }
                _ => rejected += 1,
            }
        }
    }
    if !ledger.is_empty() {
        // One file per audit, rewritten each time, so a killed run leaves no gap.
        let part = ledger::audit_part_name(choice.seed, &context.model, &session.prompt.version);
        dataset.write_part::<Request>(round, &part, ledger, &context.provenance)?;
    }
    let audit = Audit {
        round,
        seed: choice.seed,
        teachers: chosen.iter().filter_map(|id| teacher_of.get(*id).cloned()).collect(),
        auditor: context.model.clone(),
        rollouts: chosen.len(),
        answered,
        rejected,
        sent: session.progress.attempts(),
        cost_usd: session.price.as_ref().map(|_| session.progress.dollars()),
        agreement: Agreement::of(pairs)?,
    };
    Ok((audit, session.stopped()))
}

impl Audit {
    /// As one JSON object.
    ///
    /// # Errors
    /// Never with the numbers that an audit has.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Failed(error.to_string()))
    }
}

/// Scores and Teachers by rollout; several opinions on one are combined.
fn scored(context: &Context, round: u32) -> Result<(HashMap<String, Scores>, HashMap<String, String>)> {
    let found = opinions::Scores::read(&context.dataset, round, &context.settings)?;
    let (mut scores, mut teachers) = (HashMap::<String, Scores>::new(), HashMap::new());
    for id in found.rollouts() {
        let names = found.on(id).into_iter().flat_map(OnRollout::opinions);
        let names: BTreeSet<&str> =
            names.filter_map(|number| Some(found.opinions.get(number)?.teacher.as_str())).collect();
        teachers.insert(id.clone(), names.into_iter().collect::<Vec<_>>().join(" and "));
        let combined = found.combined(id).into_iter().map(|(place, combined)| (place, combined.score));
        scores.insert(id.clone(), combined.collect());
    }
    Ok((scores, teachers))
}

/// The rollouts with the smallest hashes: the same for a seed, regardless of the order of the rows.
fn choose<'a>(ids: impl Iterator<Item = &'a str>, choice: Choice) -> HashSet<&'a str> {
    let mut hashed: Vec<(String, &str)> =
        ids.map(|id| (sha256_hex(format!("{} {id}", choice.seed).as_bytes()), id)).collect();
    hashed.sort_unstable();
    hashed.into_iter().take(choice.sample).map(|(_, id)| id).collect()
}

fn pairs(item: &Item, first: &[(u32, f32)], again: &[f32]) -> Vec<Pair> {
    let items::Content::Scores { sentences, .. } = &item.content else { return Vec::new() };
    let scores = first.iter().filter_map(|(index, score)| {
        let at = *index as usize;
        Some(Pair {
            rollout_id: item.subject_id.clone(),
            problem_id: item.problem.problem_id.clone(),
            sentence_index: *index,
            sentence: sentences.get(at)?.clone(),
            first: *score,
            again: *again.get(at)?,
        })
    });
    scores.collect()
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let teachers = self.teachers.iter().cloned().collect::<Vec<_>>().join(", ");
        let cost = self.cost_usd.map_or_else(|| "cost unknown".to_owned(), |cost| format!("${cost:.4}"));
        writeln!(
            f,
            "round {}: {} of {} scored by {teachers} scored again by {}, {} rejected; {}, {cost}",
            self.round,
            self.answered,
            counted(self.rollouts, "rollout"),
            self.auditor,
            self.rejected,
            counted(self.sent, "request")
        )?;
        write!(f, "{}", self.agreement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_sample_holds_the_smaller_one() {
        let ids: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let of = |sample, seed| choose(ids.iter().map(String::as_str), Choice { sample, seed });
        assert_eq!(of(10, 1).len(), 10);
        assert!(of(10, 1).is_subset(&of(20, 1)));
        assert_ne!(of(10, 1), of(10, 2));
        assert_eq!(of(500, 1).len(), 100);
    }
}
