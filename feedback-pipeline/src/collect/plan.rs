//! Which items are completed, which are pending, and what becomes of each pending one.

use super::Context;
use crate::error::{Error, Result};
use crate::items::{self, Item, Job, Kind, Problems};
use crate::reply::verdict::Verdict;
use crate::request::{Question, Questions, prompt};
use crate::send::{Claims, Next, Session};
use crate::store::Cache;
use crate::store::outcome::{self, AskedWith};
use crate::tables::completed::Completed;
use crate::teacher::Key;
use schemas::IdSet;
use schemas::settings::Provider;
use sha2::{Digest, Sha256};
use std::collections::HashSet;

impl Context {
    /// The completed items of a job.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn completed(&self, job: &Job, problems: &Problems, prompt_version: &str) -> Result<Completed> {
        let mut completed =
            Completed::find(&self.dataset, job, &self.model, prompt_version, self.retry_rejects)?;
        if job.kind != Kind::Scores {
            for item in items::all_items(&self.dataset, job, problems)? {
                completed.compare(&item?);
            }
        }
        Ok(completed)
    }

    /// Number of items, and of those that are pending.
    ///
    /// # Errors
    /// If a table cannot be read, or an item appears twice: it would be paid for twice.
    pub fn count(&self, job: &Job, problems: &Problems, completed: &Completed) -> Result<(usize, usize)> {
        let mut counts = (0, 0);
        let mut seen = IdSet::default();
        for item in items::all_items(&self.dataset, job, problems)? {
            let item = item?;
            if !seen.insert(&item.subject_id) {
                let location = format!("{}, round {}", self.dataset.root().display(), job.round);
                let message = format!("duplicate id among the {}: `{}`", job.items(), item.subject_id);
                return Err(Error::bad_input(location, message));
            }
            counts.0 += 1;
            counts.1 += usize::from(!completed.contains(item.id()));
        }
        Ok(counts)
    }

    /// The pending items, in the order of the tables.
    pub fn pending<'a>(
        &'a self,
        job: &'a Job,
        problems: &'a Problems,
        completed: &'a Completed,
    ) -> Result<impl Iterator<Item = Result<Item>> + Send + 'a> {
        let items = items::all_items(&self.dataset, job, problems)?;
        Ok(items.filter(|item| item.as_ref().map_or(true, |item| !completed.contains(item.id()))))
    }

    /// Whether this run has batches to collect, whatever is pending.
    pub(super) fn has_open_batches(&self) -> Result<bool> {
        let path = self.dataset.feedback_path();
        if !self.batch || !path.is_file() {
            return Ok(false);
        }
        let open = Cache::open(&path)?.open_batches(self.settings.teacher.provider)?;
        Ok(open.iter().any(|batch| batch.model == self.model))
    }
}

/// The gate: decides for each pending item whether anything is sent for it. It only reads.
pub struct Plan<'a> {
    job: &'a Job,
    questions: &'a Questions,
    cache: Option<&'a Cache>,
    asked_with: AskedWith<'a>,
    provider: Provider,
    retry_rejects: bool,
    /// When the run began, in ms since 1970: items it rejects itself are not asked again.
    began_ms: i64,
    in_batches: HashSet<Key>,
    discarded: HashSet<Key>,
    claims: Claims,
}

impl<'a> Plan<'a> {
    /// The gate of a job, by what the cache holds now; `None` if the dataset has no cache yet.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn new(
        context: &Context,
        job: &'a Job,
        questions: &'a Questions,
        asked_with: AskedWith<'a>,
        cache: Option<&'a Cache>,
    ) -> Result<Self> {
        Ok(Self {
            job,
            questions,
            cache,
            asked_with,
            provider: context.settings.teacher.provider,
            retry_rejects: context.retry_rejects,
            began_ms: context.began_ms,
            in_batches: cache.map(Cache::keys_in_batches).transpose()?.unwrap_or_default(),
            discarded: cache.map(|cache| cache.discarded(job)).transpose()?.unwrap_or_default(),
            claims: Claims::default(),
        })
    }

    /// The gate of a session's job.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn of(context: &Context, session: &'a Session) -> Result<Self> {
        Self::new(context, &session.job, &session.questions, session.asked_with(), Some(&session.cache))
    }

    /// What becomes of a pending item.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn next(&self, item: Item) -> Result<Next> {
        let mut question = self.questions.of(item);
        self.ask_anew(&mut question)?;
        if let Some(key) = self.answered_by(&question)? {
            return Ok(Next::Answered(question, key));
        }
        if question.unsent.is_some() {
            return Ok(Next::Unsendable(question));
        }
        if self.is_in_batch(&question)? {
            return Ok(Next::InBatch(question));
        }
        let Some(claim) = self.claims.claim(question.key) else { return Ok(Next::Shared(question)) };
        let replies = match self.cache {
            Some(cache) => cache.replies(&question.key)?,
            None => Vec::new(),
        };
        match outcome::verdict(self.provider, &question.item.content, &replies) {
            Verdict::Ask(_) => Ok(Next::Send(question, replies, claim)),
            Verdict::Answer(_) | Verdict::Reject { .. } => Ok(Next::Shared(question)),
        }
    }

    /// Gives the question a key of its own after each request that is discarded, and, where rejects are asked again,
    /// that was rejected. The key is the same for every run that asks after the same request, so that one that was
    /// killed is continued.
    fn ask_anew(&self, question: &mut Question) -> Result<()> {
        while self.discarded.contains(&question.key) || self.is_old_reject(question)? {
            let mut hash = Sha256::new();
            hash.update(b"asked anew after ");
            hash.update(question.key);
            question.key = hash.finalize().into();
        }
        Ok(())
    }

    fn is_old_reject(&self, question: &Question) -> Result<bool> {
        let Some(cache) = self.cache.filter(|_| self.retry_rejects && question.unsent.is_none()) else {
            return Ok(false);
        };
        let replies = cache.replies(&question.key)?;
        let verdict = outcome::verdict(self.provider, &question.item.content, &replies);
        let is_of_this_run = replies.last().is_some_and(|reply| reply.replied_at_ms >= self.began_ms);
        Ok(matches!(verdict, Verdict::Reject { .. }) && !is_of_this_run)
    }

    /// The request that answers an item already, bought with other settings or with a picture that has gone since.
    fn answered_by(&self, question: &Question) -> Result<Option<Key>> {
        let Some(cache) = self.cache.filter(|_| !self.retry_rejects) else { return Ok(None) };
        let found = outcome::latest(cache, self.job, &question.item, Some(self.asked_with))?;
        Ok(found.map(|found| found.ask.key).filter(|key| *key != question.key))
    }

    /// Whether an item's request is in a batch at the service, with these settings or others: it will be charged.
    /// Another prompt, or another text, is another request.
    fn is_in_batch(&self, question: &Question) -> Result<bool> {
        if self.in_batches.contains(&question.key) {
            return Ok(true);
        }
        let Some(cache) = self.cache.filter(|_| !self.in_batches.is_empty()) else {
            return Ok(false); // the usual case needs no look at the cache
        };
        let item = &question.item;
        for key in cache.keys_of(&self.job.scope(), item.round, &item.subject_id)? {
            if self.in_batches.contains(&key)
                && let Some(ask) = cache.ask(&key)?
                && ask.prompt_version == self.asked_with.prompt_version
                && prompt::is_about(&ask.user_text, item)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
