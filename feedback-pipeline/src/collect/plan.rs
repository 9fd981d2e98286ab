//! Which items are completed, which are pending, and how each pending one is handled.

use super::Context;
use crate::error::{Error, Result};
use crate::items::{self, Item, Job, Kind, Problems};
use crate::reply::verdict::Verdict;
use crate::request::{self, Question, Questions};
use crate::send::{Claim, Claims, Groups, Next, Session};
use crate::store::outcome::{self, AskedWith};
use crate::store::{Ask, Cache, Reply};
use crate::tables::completed::{Asker, Completed};
use crate::teacher::Key;
use schemas::IdSet;
use schemas::settings::Provider;
use sha2::{Digest, Sha256};
use std::collections::{HashSet, VecDeque};

impl Context {
    /// The completed items of a job.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn completed(&self, job: &Job, problems: &Problems, prompt_version: &str) -> Result<Completed> {
        let seated = self.seated(job)?;
        let asker =
            Asker { model: &self.model, prompt_version, retry_rejects: self.retry_rejects, seated: &seated };
        let mut completed = Completed::find(&self.dataset, job, asker)?;
        if job.kind != Kind::Scores {
            for item in items::all_items(&self.dataset, job, problems)? {
                completed.compare(&item?);
            }
        }
        Ok(completed)
    }

    /// Whether an item needs feedback. Rationales need it if they are in the round's share of corrections, or have been
    /// corrected before under any share.
    pub(super) fn wants(&self, job: &Job, completed: &Completed, item: &Item) -> bool {
        job.kind != Kind::Corrections
            || completed.contains(item.id())
            || (completed.stale.contains(item.id()) && !completed.stale_rejects.contains(item.id()))
            || self.settings.corrected(job.round).contains(&item.problem.problem_id)
    }

    /// Whether some items of a job may lie outside the round's share.
    pub(super) fn has_outside(&self, job: &Job) -> bool {
        job.kind == Kind::Corrections && !self.settings.corrected(job.round).is_whole()
    }

    /// Number of items that need feedback, and of those pending.
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
            if !self.wants(job, completed, &item) {
                continue;
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
        let is_pending = |item: &Item| !completed.contains(item.id()) && self.wants(job, completed, item);
        Ok(items.filter(move |item| item.as_ref().map_or(true, is_pending)))
    }

    /// The same, but if samples are grouped in requests, those of each problem are adjacent.
    pub fn pending_together<'a>(
        &'a self,
        job: &'a Job,
        questions: &Questions,
        problems: &'a Problems,
        completed: &'a Completed,
    ) -> Result<Box<dyn Iterator<Item = Result<Item>> + Send + 'a>> {
        let items = self.pending(job, problems, completed)?;
        if questions.grouped.is_none() || items::are_together(&self.dataset, job.round)? {
            return Ok(Box::new(items));
        }
        items::together(items, job.round, problems)
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
    /// Whether the model answers requests about several items.
    groups: Option<&'a Groups>,
}

/// See [`Plan::steps`].
pub struct Steps<'a, I> {
    plan: Plan<'a>,
    items: I,
    found: VecDeque<Result<Next>>,
    /// Samples of one problem that are sent together, and those that share their replies.
    open: Vec<(Question, Option<Claim>)>,
}

impl<I: Iterator<Item = Result<Item>>> Iterator for Steps<'_, I> {
    type Item = Result<Next>;

    fn next(&mut self) -> Option<Result<Next>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            match self.items.next() {
                Some(item) => self.take(item),
                None if self.open.is_empty() => return None,
                None => self.close(),
            }
        }
    }
}

impl<I> Steps<'_, I> {
    fn take(&mut self, item: Result<Item>) {
        let is_of_another = |item: &Item| {
            let open = self.open.first().map(|(question, _)| &question.item.problem.problem_id);
            open.is_some_and(|open| *open != item.problem.problem_id)
        };
        if item.as_ref().map_or(true, is_of_another) {
            self.close();
        }
        match item.and_then(|item| self.plan.next(item)) {
            Ok(Next::Send(question, replies, claim)) => match self.plan.may_be_grouped(&question, &replies) {
                Ok(true) => self.open.push((question, Some(claim))),
                Ok(false) => self.found.push_back(Ok(Next::Send(question, replies, claim))),
                Err(error) => self.found.push_back(Err(error)),
            },
            // Which reply it shares is known once those are sent.
            Ok(Next::Shared(question)) if self.open.iter().any(|(open, _)| open.key == question.key) => {
                self.open.push((question, None));
            }
            other => self.found.push_back(other),
        }
    }

    /// Sends the open group.
    fn close(&mut self) {
        let (mut questions, mut claims, mut sharing) = (Vec::new(), Vec::new(), Vec::new());
        for (question, claim) in self.open.drain(..) {
            match claim {
                Some(claim) => {
                    questions.push(question);
                    claims.push(claim);
                }
                None => sharing.push(question),
            }
        }
        self.found.extend(self.plan.together(questions, claims).into_iter().map(Ok));
        for mut question in sharing {
            question.asked_in = self.plan.claims.asked_in(&question.key);
            self.found.push_back(Ok(Next::Shared(question)));
        }
    }
}

/// The key of a request that is sent again after one with this key.
fn anew(key: &Key) -> Key {
    let mut hash = Sha256::new();
    hash.update(b"asked anew after ");
    hash.update(key);
    hash.finalize().into()
}

impl<'a> Plan<'a> {
    /// The gate of a job, given the current contents of the cache; `None` if the dataset has no cache yet.
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
            groups: None,
        })
    }

    /// The gate of a session's job.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn of(context: &Context, session: &'a Session) -> Result<Self> {
        let plan =
            Self::new(context, &session.job, &session.questions, session.asked_with(), Some(&session.cache))?;
        Ok(Self { groups: Some(&session.groups), ..plan })
    }

    /// How a pending item is handled.
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
        let claim = match self.claims.claim(question.key) {
            Ok(claim) => claim,
            Err(asked_in) => {
                question.asked_in = asked_in;
                return Ok(Next::Shared(question));
            }
        };
        let Some(cache) = self.cache else { return Ok(Next::Send(question, Vec::new(), claim)) };
        let replies = cache.replies(&question.key)?;
        match outcome::verdict(self.provider, &question.item.content, &replies) {
            Verdict::Ask(_) => {}
            Verdict::Answer(_) | Verdict::Reject { .. } | Verdict::Missing { .. } => {
                return Ok(Next::Shared(question));
            }
        }
        if replies.is_empty() {
            for key in cache.groups_with(&question.key)? {
                if self.in_batches.contains(&key) {
                    question.asked_in = Some(key);
                    return Ok(Next::InBatch(question));
                }
                if let Some(Verdict::Answer(_)) = self.in_group(cache, &key, &question.item)? {
                    return Ok(Next::Answered(question, key));
                }
            }
        }
        Ok(Next::Send(question, replies, claim))
    }

    /// How pending items are handled, in their order. Adjacent samples of a problem are sent together, as many as fit into one
    /// request.
    pub fn steps<I: Iterator<Item = Result<Item>>>(self, items: I) -> Steps<'a, I> {
        Steps { plan: self, items, found: VecDeque::new(), open: Vec::new() }
    }

    /// Whether an item may be part of a group: nothing was sent for it yet, individually or in a group, and it was not rejected
    /// before.
    fn may_be_grouped(&self, question: &Question, replies: &[Reply]) -> Result<bool> {
        if self.questions.grouped.is_none() || self.groups.is_some_and(Groups::are_off) || !replies.is_empty()
        {
            return Ok(false);
        }
        let Some(cache) = self.cache else { return Ok(true) };
        if self.retry_rejects && self.questions.of(question.item.clone()).key != question.key {
            return Ok(false);
        }
        let item = &question.item;
        let mut groups = cache.used_keys_of(&self.job.scope(), item.round, &item.subject_id)?;
        groups.extend(cache.groups_with(&question.key)?);
        for key in groups {
            if let Some(Verdict::Missing { .. }) = self.in_group(cache, &key, item)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The verdict on an item from a group request with the current model and prompt, if it was part of one.
    fn in_group(&self, cache: &Cache, key: &Key, item: &Item) -> Result<Option<Verdict>> {
        if self.discarded.contains(key) {
            return Ok(None);
        }
        let is_mine = |ask: &Ask| {
            !ask.members.is_empty()
                && ask.model == self.asked_with.model
                && ask.prompt_version == self.asked_with.prompt_version
                && request::is_about(&ask.user_text, item)
        };
        let Some(ask) = cache.ask(key)?.filter(is_mine) else { return Ok(None) };
        Ok(Some(outcome::judged(cache, ask, item)?.verdict))
    }

    /// Questions about samples of a problem, in as many requests as needed.
    fn together(&self, questions: Vec<Question>, claims: Vec<Claim>) -> Vec<Next> {
        let mut claims = claims.into_iter();
        let mut next = Vec::new();
        for mut question in self.questions.in_groups(questions) {
            while self.discarded.contains(&question.key) && question.is_group() {
                question.key = anew(&question.key);
            }
            let mut claim = Claim::default();
            for own in claims.by_ref().take(question.members.len().max(1)) {
                claim.join(own);
            }
            if question.is_group() {
                claim.is_for(question.key);
                question.members.iter_mut().for_each(|member| member.asked_in = Some(question.key));
            }
            next.push(Next::Send(question, Vec::new(), claim));
        }
        next
    }

    /// Derives a new key for the question after each discarded request and, if rejects are retried, after each rejected one.
    /// The key is the same for every run that repeats the same request, so that a killed run is continued.
    fn ask_anew(&self, question: &mut Question) -> Result<()> {
        while self.discarded.contains(&question.key) || self.is_old_reject(question)? {
            question.key = anew(&question.key);
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

    /// The request that already answers an item, bought with other settings or with a picture that no longer exists.
    fn answered_by(&self, question: &Question) -> Result<Option<Key>> {
        let Some(cache) = self.cache else { return Ok(None) };
        let found = outcome::latest(cache, self.job, &question.item, Some(self.asked_with))?;
        let found = found.filter(|found| {
            // An item answered in a group, by a run that ended before it wrote the tables, is not a reject.
            !self.retry_rejects
                || (!found.ask.members.is_empty() && matches!(found.verdict, Verdict::Answer(_)))
        });
        Ok(found.map(|found| found.ask.key).filter(|key| *key != question.key))
    }

    /// Whether an item's request is in a batch at the service, with these settings or others: it will be billed. Another
    /// prompt, or another text, is another request.
    fn is_in_batch(&self, question: &Question) -> Result<bool> {
        if self.in_batches.contains(&question.key) {
            return Ok(true);
        }
        let Some(cache) = self.cache.filter(|_| !self.in_batches.is_empty()) else {
            return Ok(false); // the usual case needs no cache lookup
        };
        let item = &question.item;
        for key in cache.keys_of(&self.job.scope(), item.round, &item.subject_id)? {
            if self.in_batches.contains(&key)
                && let Some(ask) = cache.ask(&key)?
                && ask.prompt_version == self.asked_with.prompt_version
                && request::is_about(&ask.user_text, item)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
