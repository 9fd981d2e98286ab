//! How a job runs, on one screen: plan, send, store, check, publish.

mod discard;
mod notes;
mod open_batches;
pub mod panel;
mod plan;
mod session;
mod teachers;

pub use discard::Changed;
pub use open_batches::OpenBatches;
pub use plan::Plan;
pub use session::Context;

use crate::error::{Error, Result};
use crate::items::{Item, Job, Problems};
use crate::request::prompt::SystemPrompt;
use crate::send::{batch, runtime};
use crate::store::Cache;
use crate::tables::completed::Completed;
use crate::tables::publish::Publisher;
use crate::tables::{self, Counts};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The outcome of a job.
#[derive(Debug)]
pub enum Outcome {
    /// There are no items yet.
    NothingThere,
    /// Everything was answered before.
    NothingToDo {
        /// Items answered before.
        answered: usize,
        /// Items rejected before.
        rejected: usize,
    },
    /// Items were asked about; `left` are still pending.
    Finished {
        /// Rows written.
        counts: Counts,
        /// Items still pending.
        left: usize,
        /// Items of the round that are answered, and rejected, in this run or before.
        in_all: (usize, usize),
        /// Requests sent, repeats included.
        sent: u64,
        /// Dollars spent in this run; `None` if the model has no known price.
        dollars: Option<f64>,
        /// Replies without usage, whose cost is unknown.
        without_usage: u64,
        /// Why the run ended early.
        stopped: Option<Error>,
    },
}

impl Context {
    /// Runs a job; see [`Outcome`].
    pub fn collect(&self, job: &Job) -> Result<Outcome> {
        let _lock = self.dataset.lock(crate::PROGRAM)?;
        let prompt = SystemPrompt::load(job.kind, &self.settings.teacher)?;
        let problems = Problems::load(&self.dataset, self.settings.teacher.provider)?;
        let find = || self.completed(job, &problems, &prompt.version);
        if tables::is_cut_off(&self.dataset, job.kind, job.round)? {
            // Damage is reported before anything is removed.
            let cache = self.dataset.feedback_path();
            if cache.is_file() {
                Cache::open(&cache)?.spent_usd()?;
            }
            self.count(job, &problems, &find()?)?;
            tables::recover(&self.dataset, job.kind, job.round)?;
        }
        self.finish_discards(job)?;
        let mut completed = find()?;
        let (mut all, mut pending) = self.count(job, &problems, &completed)?;
        if all == 0 && !self.has_outside(job) {
            return Ok(Outcome::NothingThere);
        }
        if pending > 0 {
            self.check_teachers(job, &problems, &completed, &prompt.version)?;
        }
        if (pending > 0 || self.has_outside(job)) && self.publish_remaining(job, &problems, &completed)? {
            completed = find()?;
            (all, pending) = self.count(job, &problems, &completed)?;
        }
        if all == 0 && !self.has_open_batches()? {
            return Ok(Outcome::NothingThere);
        }
        for (teacher, rows) in completed.others() {
            let (items, model) = (job.counted(rows), &self.model);
            schemas::warn!("note: answers of {teacher}, not of {model}, to {items} are kept");
        }
        if pending == 0 && !self.has_open_batches()? {
            self.book_remaining(job, &problems)?;
            let rejected = completed.rejected;
            return Ok(Outcome::NothingToDo { answered: all - rejected.min(all), rejected });
        }
        let session = Arc::new(self.session(job, prompt, pending)?);
        self.warn_of_unknown_costs(&session.cache)?;
        self.warn_of_missing_pictures(job, &problems, &completed, &session)?;
        let plan = || {
            let plan = Plan::of(self, &session)?;
            Ok(plan.steps(self.pending_together(job, &session.questions, &problems, &completed)?))
        };
        if self.batch && session.transport.is_some() {
            runtime::run(&session, batch::all(&session, plan))?;
        } else {
            runtime::run(&session, session.all(plan()?))?;
        }
        session.cache.writer().flush()?;
        let counts =
            self.publisher(job, &problems, &session.cache).answers(&completed, session.asked_with())?;
        if let Some(note) = session.prompt_cache_note() {
            schemas::warn!("note: {note}");
        }
        let rejected = completed.rejected;
        let stopped = session.stopped();
        if pending == 0 && stopped.is_none() && counts.answered + counts.rejected == 0 {
            return Ok(Outcome::NothingToDo { answered: all - rejected.min(all), rejected });
        }
        Ok(Outcome::Finished {
            left: pending - (counts.answered + counts.rejected).min(pending),
            in_all: (
                completed.len() - rejected.min(completed.len()) + counts.answered,
                rejected + counts.rejected,
            ),
            counts,
            sent: session.progress.attempts(),
            dollars: session.price.as_ref().map(|_| session.progress.dollars()),
            without_usage: session.stats.without_usage.load(Ordering::Relaxed),
            stopped,
        })
    }

    /// Submits a job's pending items in batches without waiting for results, which [`Context::collect`] does. Returns why it
    /// ended early.
    ///
    /// # Errors
    /// If a table or the store cannot be read, or the Teacher must not be asked.
    pub fn submit(&self, job: &Job) -> Result<Option<Error>> {
        let _lock = self.dataset.lock(crate::PROGRAM)?;
        if tables::is_cut_off(&self.dataset, job.kind, job.round)? {
            return Ok(None); // to be recovered first
        }
        let prompt = SystemPrompt::load(job.kind, &self.settings.teacher)?;
        let problems = Problems::load(&self.dataset, self.settings.teacher.provider)?;
        self.finish_discards(job)?;
        let completed = self.completed(job, &problems, &prompt.version)?;
        let pending = self.count(job, &problems, &completed)?.1;
        if pending == 0 {
            return Ok(None);
        }
        self.check_teachers(job, &problems, &completed, &prompt.version)?;
        let session = Arc::new(self.session(job, prompt, pending)?);
        let plan = || {
            let plan = Plan::of(self, &session)?;
            Ok(plan.steps(self.pending_together(job, &session.questions, &problems, &completed)?))
        };
        runtime::run(&session, batch::submit(&session, plan))?;
        session.cache.writer().flush()?;
        Ok(session.stopped())
    }

    pub(crate) fn publisher<'a>(
        &'a self,
        job: &'a Job,
        problems: &'a Problems,
        cache: &'a Cache,
    ) -> Publisher<'a> {
        Publisher { dataset: &self.dataset, provenance: &self.provenance, job, problems, cache }
    }

    /// Writes the answers that a killed run bought from another model; returns whether there were any.
    fn publish_remaining(&self, job: &Job, problems: &Problems, completed: &Completed) -> Result<bool> {
        let path = self.dataset.feedback_path();
        if !path.is_file() {
            return Ok(false);
        }
        let cache = Cache::open(&path)?;
        let is_outside = |item: &Item| !self.wants(job, completed, item);
        let outside: Option<&dyn Fn(&Item) -> bool> = self.has_outside(job).then_some(&is_outside);
        self.publisher(job, problems, &cache).has_unpublished(completed, &self.model, outside)
    }

    /// Enters requests paid for by a killed run into the ledger.
    fn book_remaining(&self, job: &Job, problems: &Problems) -> Result<()> {
        let path = self.dataset.feedback_path();
        if !path.is_file() {
            return Ok(());
        }
        let cache = Cache::look(&path)?;
        self.publisher(job, problems, &cache).unbooked()
    }
}
