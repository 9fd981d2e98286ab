//! The road of one job, in one screen: due → ask → keep → check → write → what comes next.

use crate::ask::{Asker, Questions, Seen};
use crate::cache::Cache;
use crate::done::Done;
use crate::due::{self, Item, Job, Kind, Problems};
use crate::error::{Error, Result};
use crate::ledger::{self, Ledger};
use crate::money::{Price, Prices, Purse};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::prompt::SystemPrompt;
use crate::rebuild;
use crate::runtime;
use crate::settled;
use crate::stop::Stop;
use crate::tables::{self, Counts, PartSet};
use crate::teacher::{self, Secret};
use crate::transport::Transport;
use crate::verdict::Verdict;
use schemas::settings::{Provider, Resolved, Settings};
use schemas::{Dataset, IdSet, Provenance, Rationale, Rollout};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// About what a reply takes in the cache with its request.
const BYTES_OF_A_REPLY: u64 = 16 << 10;

/// As many items may be bad ones all, where the service answered before; more that are refused at first tell of settings.
const FEW_ITEMS: usize = 3;

/// What every job of a run works with.
pub struct Context {
    /// The dataset.
    pub dataset: Dataset,
    /// The settings.
    pub settings: Settings,
    /// Stands in every file that is written.
    pub provenance: Provenance,
    /// Model that is asked.
    pub model: String,
    /// Whether requests go out in batches.
    pub batch: bool,
    /// Whether items that were rejected are asked anew.
    pub retry_rejects: bool,
    /// Batches that are given up: their requests are sent again.
    pub abandoned: Vec<String>,
}

/// What became of a job.
#[derive(Debug)]
pub enum Outcome {
    /// There is nothing to ask about yet.
    NothingThere,
    /// Everything was answered before.
    NothingDue {
        /// Items answered before.
        answered: usize,
        /// Items rejected before.
        rejected: usize,
    },
    /// Items were settled; `left` are still due.
    Settled {
        /// Rows written.
        counts: Counts,
        /// Items still due.
        left: usize,
        /// Items of the round that are answered, and rejected, in this run or before.
        in_all: (usize, usize),
        /// Requests sent, repeats included.
        sent: u64,
        /// Dollars spent in this run; none where the model has no known price.
        dollars: Option<f64>,
        /// Replies that told no tokens, so that their cost is not known.
        untold: u64,
        /// Why the run ended early.
        stopped: Option<Error>,
    },
}

impl Context {
    /// A run's context.
    pub fn new(dataset: Dataset, resolved: Resolved) -> Self {
        let provenance = Provenance::new(crate::PROGRAM, &resolved.show());
        let model = teacher::model(&resolved.settings.teacher);
        Self {
            dataset,
            settings: resolved.settings,
            provenance,
            model,
            batch: false,
            retry_rejects: false,
            abandoned: Vec::new(),
        }
    }

    /// Price of the model; the embedded Teacher is free.
    pub fn price(&self) -> Result<Option<Price>> {
        if self.settings.teacher.provider == Provider::Reference {
            return Ok(Some(Price::FREE));
        }
        let price = Prices::load(&self.settings.budget.prices)?.of(&self.model);
        if price.is_none() && self.settings.budget.max_usd.is_some() {
            let message = format!(
                "expected a model with a known price, found `{}`: add it to a copy of prices.toml and name that with --prices",
                self.model
            );
            return Err(Error::bad_input("--max-usd", message));
        }
        Ok(price)
    }

    /// Does a job; see [`Outcome`].
    pub fn collect(&self, job: &Job) -> Result<Outcome> {
        let _lock = self.dataset.lock(crate::PROGRAM)?;
        let prompt = SystemPrompt::load(job.kind, &self.settings.teacher.prompts)?;
        let problems = Problems::load(&self.dataset, self.settings.teacher.provider)?;
        let find = || self.done(job, &problems, &prompt.version);
        if tables::is_cut_off(&self.dataset, job.kind, job.round)? {
            // What is damaged is told before anything is removed.
            let cache = self.dataset.feedback_path();
            if cache.is_file() {
                Cache::open(&cache)?.spent_usd()?;
            }
            self.count(job, &problems, &find()?)?;
            tables::heal(&self.dataset, job.kind, job.round)?;
        }
        let mut done = find()?;
        let (all, mut due) = self.count(job, &problems, &done)?;
        if all == 0 {
            return Ok(Outcome::NothingThere);
        }
        if due > 0 && self.write_left_behind(job, &problems, &done)? {
            done = find()?;
            due = self.count(job, &problems, &done)?.1;
        }
        for (teacher, rows) in &done.others {
            let (items, model) = (job.items(), &self.model);
            schemas::warn!("note: {rows} {items} carry answers of {teacher}, not of {model}; they stand");
        }
        if due == 0 && !self.has_open_batches()? {
            self.book_left_behind(job, &problems)?;
            let rejected = done.rejected;
            return Ok(Outcome::NothingDue { answered: all - rejected.min(all), rejected });
        }
        let asker = Arc::new(self.asker(job, prompt, due)?);
        self.warn_of_unknown_costs(&asker.cache)?;
        self.warn_of_missing_pictures(job, &problems, &done, &asker)?;
        if self.batch && asker.transport.is_some() {
            runtime::run(&asker, crate::batch::all(&asker, || self.due(job, &problems, &done)))?;
        } else {
            runtime::run(&asker, asker.all(self.due(job, &problems, &done)?))?;
        }
        asker.cache.writer().flush()?;
        let counts = {
            let _snapshot = asker.cache.snapshot()?;
            self.write(job, &problems, &done, &asker)?
        };
        if let Some(note) = asker.prompt_cache_note() {
            schemas::warn!("note: {note}");
        }
        let sent = asker.progress.attempts();
        let dollars = asker.price.map(|_| asker.progress.dollars());
        let untold = asker.seen.untold.load(Ordering::Relaxed);
        let left = due - (counts.answered + counts.rejected).min(due);
        let in_all =
            (done.len() - done.rejected.min(done.len()) + counts.answered, done.rejected + counts.rejected);
        let stopped = asker.stop.take_reason();
        if due == 0 && stopped.is_none() {
            let rejected = done.rejected;
            return Ok(Outcome::NothingDue { answered: all - rejected.min(all), rejected });
        }
        Ok(Outcome::Settled { counts, left, in_all, sent, dollars, untold, stopped })
    }

    /// What of a job is done already.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn done(&self, job: &Job, problems: &Problems, prompt_version: &str) -> Result<Done> {
        let mut done = Done::find(&self.dataset, job, &self.model, prompt_version, self.retry_rejects)?;
        if job.kind != Kind::Scores {
            for item in due::all_items(&self.dataset, job, problems)? {
                done.compare(&item?);
            }
        }
        Ok(done)
    }

    /// Enters into the ledger what a run that was killed had paid for, where nothing is due that would do so by the way.
    fn book_left_behind(&self, job: &Job, problems: &Problems) -> Result<()> {
        let path = self.dataset.feedback_path();
        if !path.is_file() {
            return Ok(());
        }
        let cache = Cache::look(&path)?;
        let booked = ledger::booked_usd(&self.dataset, job)?;
        if cache.spent_usd_on(job.kind, job.round)? - booked < 1e-9 {
            return Ok(());
        }
        let _snapshot = cache.snapshot()?;
        let ledger = Ledger::read(&self.dataset, &cache, job)?;
        let number = tables::next_number(&self.dataset, job.kind, job.round)?;
        let mut set = PartSet::create(&self.dataset, job.kind, job.round, number, true, &self.provenance)?;
        let mut entered = false;
        for item in due::all_items(&self.dataset, job, problems)? {
            entered |= ledger.enter(&mut set, &cache, job, &item?)?;
        }
        if entered {
            set.finish()?;
        }
        Ok(())
    }

    /// Whether this run has batches to collect, whatever is due.
    fn has_open_batches(&self) -> Result<bool> {
        let path = self.dataset.feedback_path();
        if !self.batch || !path.is_file() {
            return Ok(false);
        }
        let open = Cache::open(&path)?.open_batches(self.settings.teacher.provider)?;
        Ok(open.iter().any(|batch| batch.model == self.model))
    }

    /// What is not known does not count under the cap.
    fn warn_of_unknown_costs(&self, cache: &Cache) -> Result<()> {
        let unknown = cache.unpriced()?;
        if self.settings.budget.max_usd.is_some() && unknown > 0 {
            schemas::warn!(
                "warning: the cost of {unknown} earlier replies is not known; --max-usd does not count them"
            );
        }
        Ok(())
    }

    /// Writes what a run that was killed had bought of another model: such answers stand, as those of a run that ended in
    /// order do. Returns whether there was anything.
    fn write_left_behind(&self, job: &Job, problems: &Problems, done: &Done) -> Result<bool> {
        let path = self.dataset.feedback_path();
        if !path.is_file() {
            return Ok(false);
        }
        let cache = Cache::open(&path)?;
        if !cache.knows_other_models(&job.scope(), job.round, &self.model)? {
            return Ok(false);
        }
        let _snapshot = cache.snapshot()?;
        let number = tables::next_number(&self.dataset, job.kind, job.round)?;
        let mut set = PartSet::create(&self.dataset, job.kind, job.round, number, true, &self.provenance)?;
        let ledger = Ledger::read(&self.dataset, &cache, job)?;
        let mut found = false;
        for item in self.due(job, problems, done)? {
            let item = item?;
            if done.stale.contains(item.id()) {
                continue; // has an answer, and is asked anew
            }
            let Some(settled) = settled::latest(&cache, job, &item, None)? else { continue };
            if settled.ask.model == self.model {
                continue;
            }
            ledger.enter(&mut set, &cache, job, &item)?;
            set.outcome(job, &item, settled)?;
            found = true;
        }
        if found {
            set.finish()?;
        }
        Ok(found)
    }

    /// Says how many due items will be asked without a picture that the source never had.
    fn warn_of_missing_pictures(
        &self,
        job: &Job,
        problems: &Problems,
        done: &Done,
        asker: &Asker,
    ) -> Result<()> {
        if asker.teacher.provider == Provider::Reference || !asker.questions.images.any_was_never_there() {
            return Ok(());
        }
        let (mut without, mut all) = (0, 0);
        for item in self.due(job, problems, done)? {
            all += 1;
            without += usize::from(asker.questions.images.was_never_there(&item?.problem));
        }
        if without > 0 {
            schemas::warn!(
                "warning: {without} of {all} items have no picture in the source; they are asked without it"
            );
        }
        Ok(())
    }

    /// Number of items, and of those that are due.
    ///
    /// # Errors
    /// Where a table cannot be read, or an item stands there twice: it would be paid for twice.
    pub fn count(&self, job: &Job, problems: &Problems, done: &Done) -> Result<(usize, usize)> {
        let mut counts = (0, 0);
        let mut seen = IdSet::default();
        for item in due::all_items(&self.dataset, job, problems)? {
            let item = item?;
            if !seen.insert(&item.subject_id) {
                let location = format!("{}, round {}", self.dataset.root().display(), job.round);
                let message =
                    format!("expected each of {} once, found `{}` twice", job.items(), item.subject_id);
                return Err(Error::bad_input(location, message));
            }
            counts.0 += 1;
            counts.1 += usize::from(!done.contains(item.id()));
        }
        Ok(counts)
    }

    /// The due items, in the order of the tables.
    pub fn due<'a>(
        &'a self,
        job: &'a Job,
        problems: &'a Problems,
        done: &'a Done,
    ) -> Result<impl Iterator<Item = Result<Item>> + Send + 'a> {
        let items = due::all_items(&self.dataset, job, problems)?;
        Ok(items.filter(|item| item.as_ref().map_or(true, |item| !done.contains(item.id()))))
    }

    /// What `due` items of a job are asked with.
    pub(crate) fn asker(&self, job: &Job, prompt: SystemPrompt, due: usize) -> Result<Asker> {
        let teacher = &self.settings.teacher;
        let limits = &self.settings.limits;
        let price = self.price()?.map(|price| if self.batch { price.in_batch() } else { price });
        let transport = match teacher.provider {
            Provider::Reference => None,
            _ => Some(Transport::new(
                teacher,
                Secret::from_environment(teacher)?.as_ref(),
                limits.concurrency,
            )?),
        };
        let cache = Cache::open(&self.dataset.feedback_path())?;
        // What runs in batches at the service will be charged, so it counts as spent until it is.
        let spent = cache.spent_usd()? + cache.lost_usd()? + cache.running_usd()?;
        if transport.is_some() {
            let replies = u64::from(limits.concurrency).min(due as u64).clamp(1, 4_096);
            cache.make_room(replies * BYTES_OF_A_REPLY)?;
        }
        let good_before = due <= FEW_ITEMS && cache.has_answers(&self.model, &prompt.version)?;
        Ok(Asker {
            job: job.clone(),
            model: self.model.clone(),
            questions: Questions::new(&self.dataset, teacher, job, &prompt, self.retry_rejects)?,
            prompt,
            pace: Pace::new(limits, teacher.max_output_tokens),
            purse: Purse::new(self.settings.budget.max_usd, spent),
            price,
            transport,
            slots: Arc::new(tokio::sync::Semaphore::new(
                usize::try_from(limits.concurrency).unwrap_or(1).max(1),
            )),
            progress: Progress::new(job, due as u64),
            stop: Stop::default(),
            seen: Seen { good_before, ..Seen::default() },
            abandoned: self.abandoned.clone(),
            teacher: teacher.clone(),
            cache,
        })
    }

    /// Writes what the due items were answered. Where some were answered before under another prompt, the whole round
    /// is written anew. The ledger only grows: by everything that was paid for and does not stand there yet, of whatever
    /// run, model and prompt.
    fn write(&self, job: &Job, problems: &Problems, done: &Done, asker: &Asker) -> Result<Counts> {
        let number = tables::next_number(&self.dataset, job.kind, job.round)?;
        let mut set = PartSet::create(&self.dataset, job.kind, job.round, number, true, &self.provenance)?;
        let mut replaces = !done.stale.is_empty();
        if replaces {
            set = set.replacing();
        }
        let ledger = Ledger::read(&self.dataset, &asker.cache, job)?;
        let (mut fresh, mut entered) = (Counts::default(), false);
        for item in due::all_items(&self.dataset, job, problems)? {
            let item = item?;
            entered |= ledger.enter(&mut set, &asker.cache, job, &item)?;
            if done.contains(item.id()) {
                continue;
            }
            let Some(settled) = settled::latest(&asker.cache, job, &item, Some(asker.asks()))? else {
                continue;
            };
            fresh.answered += usize::from(matches!(settled.verdict, Verdict::Answer(_)));
            fresh.rejected += usize::from(matches!(settled.verdict, Verdict::Reject { .. }));
            fresh.shared += usize::from(!settled.ask.is_paid_by(job, &item));
            if !replaces {
                set.outcome(job, &item, settled)?;
            }
        }
        replaces &= fresh.answered + fresh.rejected > 0;
        if fresh.answered + fresh.rejected == 0 && !entered {
            return Ok(fresh);
        }
        if replaces {
            rebuild::all_outcomes(&self.dataset, job, problems, &asker.cache, &mut set)?;
            rebuild::carry_over(&self.dataset, job, &asker.cache, &mut set)?;
            tables::announce(&self.dataset, job.kind, job.round, number, false)?;
        }
        set.finish()?;
        if replaces {
            tables::end_replacement(&self.dataset, job.kind, job.round, number, false)?;
        }
        Ok(fresh)
    }

    /// What is missing before a job has anything to ask about.
    pub fn waits_for(&self, job: &Job) -> Result<String> {
        let round = job.round;
        let next = format!("next: train --round {round}{}", self.dataset.flag());
        Ok(match job.kind {
            Kind::Scores if self.dataset.parts::<Rollout>(round)?.is_empty() => {
                format!("round {round}: no rollouts yet; {next}")
            }
            Kind::Scores => format!("round {round}: no rollout has a sentence; nothing to score"),
            Kind::Corrections => {
                format!("round {round}: no rationales after RL yet; {next}")
            }
            Kind::Judgements => {
                let base = job.against.parse().unwrap_or(0);
                let missing =
                    |round: u32| self.dataset.parts::<Rationale>(round).map(|parts| parts.is_empty());
                let (what, next) = if missing(round)? {
                    ("no rationales", next)
                } else if missing(base)? {
                    let command =
                        if base > 0 { format!("train --round {base}") } else { "train eval".into() };
                    let next = format!("next: {command}{}, or another --against", self.dataset.flag());
                    ("no rationales of the other side", next)
                } else {
                    ("no test rationales of both sides", next)
                };
                format!("round {round}: {what} to compare with {} yet; {next}", job.against)
            }
        })
    }
}
