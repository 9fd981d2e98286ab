//! Items already answered or rejected, and under which prompt.
//!
//! A changed prompt makes an item pending again, and so does a changed text. A changed Teacher does not: a forgotten
//! flag must not overwrite a paid round with another model's answers.

use crate::error::Result;
use crate::items::{Content, Item, Job, Kind};
use crate::reply::verdict::NOT_SENT;
use crate::store::Cache;
use crate::teacher::Key;
use schemas::{Correction, Dataset, IdSet, Judgement, Reject, Score};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The items of a job that are done.
#[derive(Debug, Default)]
pub struct Completed {
    ids: IdSet,
    /// Items answered under another version of the prompt; they are pending again.
    pub stale: IdSet,
    /// Those of them that were rejected.
    pub stale_rejects: IdSet,
    /// Items whose row is about an older text; they are pending again.
    outdated: IdSet,
    /// Items whose row contains their texts, and those texts.
    told: IdSet,
    texts: IdSet,
    /// Items that were rejected.
    pub rejected: usize,
    /// Items with answers of other Teachers, and how many of those are about texts that have changed since.
    others: BTreeMap<String, (IdSet, u64)>,
}

#[derive(Deserialize)]
struct ScoredBy {
    rollout_id: String,
    sentence_index: u32,
    teacher: String,
    prompt_version: String,
    repeat: Option<u32>,
}

#[derive(Deserialize)]
struct CorrectedBy {
    rationale_id: String,
    original: String,
    teacher: String,
    prompt_version: String,
}

#[derive(Deserialize)]
struct JudgedBy {
    problem_id: String,
    against: String,
    candidate: String,
    baseline: String,
    candidate_shown_first: bool,
    teacher: String,
    prompt_version: String,
}

#[derive(Deserialize)]
struct Rejected {
    kind: String,
    subject_id: String,
    problem_id: String,
    request_key: String,
    teacher: Option<String>,
    repeat: Option<u32>,
}

/// The current run, and the rows that count for it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The model to ask.
    pub model: &'a str,
    /// Version of the prompt.
    pub prompt_version: &'a str,
    /// Whether rejected items are pending again.
    pub retry_rejects: bool,
    /// Teachers with separate opinions, see [`Job::opinion`]: their answers do not count for the first one.
    pub seated: &'a BTreeSet<String>,
}

impl Asker<'_> {
    /// Whether a row of scores, or a reject, belongs to a job.
    fn has(&self, job: &Job, teacher: Option<&str>, repeat: Option<u32>) -> bool {
        let repeat = repeat.unwrap_or(0);
        match (&job.opinion, teacher) {
            (Some(opinion), Some(teacher)) => opinion.repeat == repeat && opinion.teacher == teacher,
            (Some(_), None) => false,
            (None, Some(teacher)) => repeat == 0 && (teacher == self.model || !self.seated.contains(teacher)),
            (None, None) => repeat == 0,
        }
    }
}

impl Completed {
    /// Reads the tables of a job.
    ///
    /// # Errors
    /// If a table or the cache cannot be read.
    pub fn find(dataset: &Dataset, job: &Job, asker: Asker<'_>) -> Result<Self> {
        let Asker { model, prompt_version, .. } = asker;
        let mut done = Self::default();
        let round = job.round;
        let add = |done: &mut Self, id: &str, teacher: &str, version: &str| {
            if teacher == model && version != prompt_version {
                done.stale.insert(id);
                return;
            }
            if teacher != model {
                done.others.entry(teacher.to_owned()).or_default().0.insert(id);
            }
            done.ids.insert(id);
        };
        match job.kind {
            Kind::Scores => {
                // The score too: an invalid one is reported before anything else is paid for.
                let names = ["rollout_id", "sentence_index", "score", "teacher", "prompt_version", "repeat"];
                for row in dataset.project::<Score, ScoredBy>(round, &names)? {
                    if row.sentence_index == 0 && asker.has(job, Some(&row.teacher), row.repeat) {
                        add(&mut done, &row.rollout_id, &row.teacher, &row.prompt_version);
                    }
                }
            }
            Kind::Corrections => {
                let names = ["rationale_id", "original", "teacher", "prompt_version"];
                for row in dataset.project::<Correction, CorrectedBy>(round, &names)? {
                    add(&mut done, &row.rationale_id, &row.teacher, &row.prompt_version);
                    done.told.insert(&row.rationale_id);
                    done.texts.insert(&texts(&row.rationale_id, &[&row.original]));
                }
            }
            Kind::Judgements => {
                let names = [
                    "problem_id",
                    "against",
                    "candidate",
                    "baseline",
                    "candidate_shown_first",
                    "teacher",
                    "prompt_version",
                ];
                for row in dataset.project::<Judgement, JudgedBy>(round, &names)? {
                    if row.against == job.against && job.order.covers(row.candidate_shown_first) {
                        add(&mut done, &row.problem_id, &row.teacher, &row.prompt_version);
                        done.told.insert(&row.problem_id);
                        done.texts.insert(&texts(&row.problem_id, &[&row.candidate, &row.baseline]));
                    }
                }
            }
        }
        done.add_rejects(dataset, job, asker)?;
        Ok(done)
    }

    /// Makes an item pending again if its row is about an older text, because its stage was repeated. Scores of other
    /// sentences are `train`'s to refuse: a round of rollouts is too large to compare each time.
    pub fn compare(&mut self, item: &Item) {
        let now = match &item.content {
            Content::Scores { .. } => return,
            Content::Correction { rationale } => texts(item.id(), &[rationale]),
            Content::Judgement { candidate, baseline, .. } => texts(item.id(), &[candidate, baseline]),
        };
        if self.told.contains(item.id()) && !self.texts.contains(&now) {
            self.outdated.insert(item.id());
            self.stale.insert(item.id());
            for (ids, outdated) in self.others.values_mut() {
                *outdated += u64::from(ids.contains(item.id()));
            }
        }
    }

    /// Other Teachers whose answers are kept, with the number of items that they answered.
    pub fn others(&self) -> BTreeMap<String, u64> {
        let counts = self.others.iter().map(|(teacher, (ids, outdated))| {
            (teacher.clone(), u64::try_from(ids.len()).unwrap_or(u64::MAX).saturating_sub(*outdated))
        });
        counts.filter(|(_, items)| *items > 0).collect()
    }

    fn add_rejects(&mut self, dataset: &Dataset, job: &Job, asker: Asker<'_>) -> Result<()> {
        let Asker { model, prompt_version, .. } = asker;
        let names = ["kind", "subject_id", "problem_id", "request_key", "teacher", "repeat"];
        let mut rejects = dataset.project::<Reject, Rejected>(job.round, &names)?;
        rejects.retain(|row| {
            let is_of_job = || job.kind != Kind::Scores || asker.has(job, row.teacher.as_deref(), row.repeat);
            row.kind == job.kind.as_str() && is_of_job()
        });
        let path = dataset.feedback_path();
        if rejects.is_empty() {
            return Ok(());
        }
        // Only the cache knows which prompt was refused, and against which baseline.
        let cache = if path.is_file() { Some(Cache::look(&path)?) } else { None };
        for row in rejects {
            let id = if job.kind == Kind::Judgements { &row.problem_id } else { &row.subject_id };
            let mut stale = asker.retry_rejects;
            if let Some(cache) = &cache {
                let keys = cache.keys_of(&job.scope(), job.round, &row.subject_id)?;
                let key = keys.iter().find(|key| schemas::provenance::hex(&key[..]) == row.request_key);
                if job.kind == Kind::Judgements
                    && key.is_none()
                    && !was_not_sent(cache, &keys, &row.request_key)?
                {
                    continue; // another baseline's
                }
                let key = key.or(keys.first());
                if let Some(ask) = key.map(|key| cache.ask(key)).transpose()?.flatten() {
                    stale |= ask.model == model && ask.prompt_version != prompt_version;
                }
            }
            if stale {
                self.stale_rejects.insert(id);
                self.stale.insert(id);
            } else {
                self.rejected += usize::from(!self.ids.contains(id));
                self.ids.insert(id);
            }
        }
        Ok(())
    }

    /// True if an item is completed.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id) && !self.outdated.contains(id)
    }

    /// Number of items that are done.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if nothing is completed.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// An item with texts, in an unambiguous line.
fn texts(id: &str, texts: &[&String]) -> String {
    format!("{id} {texts:?}")
}

/// Whether a reject without a request is one of these requests, which could not be sent.
pub(crate) fn was_not_sent(cache: &Cache, keys: &[Key], request_key: &str) -> Result<bool> {
    if !request_key.is_empty() {
        return Ok(false);
    }
    for key in keys {
        if cache.replies(key)?.iter().any(|reply| reply.status == NOT_SENT) {
            return Ok(true);
        }
    }
    Ok(false)
}
