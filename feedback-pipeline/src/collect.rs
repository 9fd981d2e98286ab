//! The road of one job, in one screen: due → ask → keep → check → write → what comes next.

use crate::ask::{Asker, Seen};
use crate::cache::{Ask, Cache};
use crate::done::Done;
use crate::due::{self, Item, Job, Kind, Problems};
use crate::error::{Error, Result};
use crate::image::Images;
use crate::money::{Price, Prices, Purse};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::prompt::{self, SystemPrompt};
use crate::stop::Stop;
use crate::tables::{self, Counts, PartSet, Settled};
use crate::teacher::{self, Key, Secret, Template};
use crate::transport::Transport;
use crate::verdict::{self, Verdict};
use schemas::settings::{Provider, Resolved, Settings};
use schemas::{Dataset, IdSet, Provenance, Rationale, Request, Rollout};
use std::sync::Arc;
use std::time::Duration;

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
        /// Items answered or rejected before.
        done: usize,
    },
    /// Items were settled; `left` are still due.
    Settled {
        /// Rows written.
        counts: Counts,
        /// Items still due.
        left: usize,
        /// Requests sent, repeats included.
        sent: u64,
        /// Dollars spent in this run; none where the model has no known price.
        dollars: Option<f64>,
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
        tables::heal(&self.dataset, job.kind, job.round)?;
        let prompt = SystemPrompt::load(job.kind, &self.settings.teacher.prompts)?;
        let done = Done::find(&self.dataset, job, &self.model, &prompt.version, self.retry_rejects)?;
        let problems = Problems::load(&self.dataset, self.settings.teacher.provider)?;
        let (all, due) = self.count(job, &problems, &done)?;
        if all == 0 {
            return Ok(Outcome::NothingThere);
        }
        for (teacher, rows) in &done.others {
            let (items, model) = (job.items(), &self.model);
            eprintln!("note: {rows} {items} carry answers of {teacher}, not of {model}; they stand");
        }
        if due == 0 {
            return Ok(Outcome::NothingDue { done: all });
        }
        let asker = Arc::new(self.asker(job, prompt, due)?);
        self.warn_of_missing_pictures(job, &problems, &done, &asker)?;
        if self.batch && asker.transport.is_some() {
            run(&asker, true, crate::batch::all(&asker, || self.due(job, &problems, &done)))?;
        } else {
            run(&asker, false, asker.all(self.due(job, &problems, &done)?))?;
        }
        asker.cache.writer().flush()?;
        let counts = {
            let _snapshot = asker.cache.snapshot()?;
            self.write(job, &problems, &done, &asker)?
        };
        if let Some(note) = asker.prompt_cache_note() {
            eprintln!("note: {note}");
        }
        let sent = asker.progress.attempts();
        let dollars = asker.price.map(|_| asker.progress.dollars());
        let left = due - (counts.answered + counts.rejected).min(due);
        Ok(Outcome::Settled { counts, left, sent, dollars, stopped: asker.stop.take_reason() })
    }

    /// Says how many due items will be asked without a picture that the source never had.
    fn warn_of_missing_pictures(
        &self,
        job: &Job,
        problems: &Problems,
        done: &Done,
        asker: &Asker,
    ) -> Result<()> {
        if asker.teacher.provider == Provider::Reference || !asker.images.any_was_never_there() {
            return Ok(());
        }
        let (mut without, mut all) = (0, 0);
        for item in self.due(job, problems, done)? {
            all += 1;
            without += usize::from(asker.images.was_never_there(&item?.problem));
        }
        if without > 0 {
            eprintln!(
                "warning: {without} of {all} items have no picture in the source; they are asked without it"
            );
        }
        Ok(())
    }

    /// Number of items, and of those that are due.
    pub fn count(&self, job: &Job, problems: &Problems, done: &Done) -> Result<(usize, usize)> {
        let mut counts = (0, 0);
        for item in due::all_items(&self.dataset, job, problems)? {
            counts.0 += 1;
            counts.1 += usize::from(!done.contains(item?.id()));
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
        let spent = cache.spent_usd()? + cache.running_usd()?;
        Ok(Asker {
            job: job.clone(),
            model: self.model.clone(),
            template: Template::new(teacher, job.kind, &prompt),
            prompt,
            images: Images::new(&self.dataset)?,
            pace: Pace::new(limits, teacher.max_output_tokens),
            purse: Purse::new(self.settings.budget.max_usd, spent),
            price,
            transport,
            slots: Arc::new(tokio::sync::Semaphore::new(
                usize::try_from(limits.concurrency).unwrap_or(1).max(1),
            )),
            progress: Progress::new(job, due as u64),
            stop: Stop::default(),
            seen: Seen::default(),
            retry_rejects: self.retry_rejects,
            abandoned: self.abandoned.clone(),
            teacher: teacher.clone(),
            cache,
        })
    }

    /// Writes what the due items were answered. Where some were answered before under another prompt, the whole round
    /// is written anew; the ledger only grows.
    fn write(&self, job: &Job, problems: &Problems, done: &Done, asker: &Asker) -> Result<Counts> {
        let number = tables::next_number(&self.dataset, job.kind, job.round)?;
        let mut set = PartSet::create(&self.dataset, job.kind, job.round, number, true, &self.provenance)?;
        let replaces = !done.stale.is_empty();
        // A prompt that was taken back has the replies that it had before, which stand in the ledger.
        let booked = if replaces { self.booked(job)? } else { IdSet::default() };
        let mut fresh = Counts::default();
        for item in self.due(job, problems, done)? {
            let item = item?;
            let Some(settled) = settled(&asker.cache, job, &item, Some(asker))? else { continue };
            if !booked.contains(&booking(&settled.key_text(), &item.subject_id)) {
                set.ledger(job, &item, &settled)?;
            }
            fresh.answered += usize::from(matches!(settled.verdict, Verdict::Answer(_)));
            fresh.rejected += usize::from(matches!(settled.verdict, Verdict::Reject { .. }));
            fresh.shared += usize::from(!settled.ask.is_paid_by(job, &item));
            if !replaces {
                set.outcome(job, &item, settled)?;
            }
        }
        if fresh.answered + fresh.rejected == 0 {
            return Ok(fresh);
        }
        if replaces {
            crate::rebuild::carry_over(&self.dataset, job, &asker.cache, &mut set)?;
            crate::rebuild::all_outcomes(&self.dataset, job, problems, &asker.cache, &mut set)?;
            tables::announce(&self.dataset, job.kind, job.round, number, false)?;
        }
        set.finish()?;
        if replaces {
            tables::end_replacement(&self.dataset, job.kind, job.round, number, false)?;
        }
        Ok(fresh)
    }

    /// Requests of a job's kind and round that stand in the ledger.
    fn booked(&self, job: &Job) -> Result<IdSet> {
        #[derive(serde::Deserialize)]
        struct Row {
            kind: String,
            subject_id: String,
            request_key: String,
        }
        let mut booked = IdSet::default();
        for row in self.dataset.project::<Request, Row>(job.round, &["kind", "subject_id", "request_key"])? {
            if row.kind == job.ledger_kind() {
                booked.insert(&booking(&row.request_key, &row.subject_id));
            }
        }
        Ok(booked)
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
                let stages = self.dataset.parts::<Rationale>(round)?.is_empty();
                let what = if stages { "no rationales" } else { "no test rationales of both sides" };
                format!("round {round}: {what} to compare with {} yet; {next}", job.against)
            }
        })
    }
}

fn booking(request_key: &str, subject_id: &str) -> String {
    format!("{request_key} {subject_id}")
}

/// The latest request of an item, as it is now, that amounts to something. With `now`, only requests of this run's model
/// and prompt count.
pub fn settled(cache: &Cache, job: &Job, item: &Item, now: Option<&Asker>) -> Result<Option<Settled>> {
    let mine = |ask: &Ask| {
        prompt::is_about(&ask.user_text, item)
            && now.is_none_or(|now| ask.model == now.model && ask.prompt_version == now.prompt.version)
    };
    for key in cache.keys_of(&job.scope(), item.round, &item.subject_id)? {
        if let Some(settled) = settle(cache, &key, item, mine)? {
            return Ok(Some(settled));
        }
    }
    Ok(None)
}

/// All requests of an item that amount to something, the latest first; also those about what it said before a stage was
/// done again, which were paid for.
pub fn all_settled(cache: &Cache, job: &Job, item: &Item) -> Result<Vec<Settled>> {
    let keys = cache.keys_of(&job.scope(), item.round, &item.subject_id)?;
    keys.iter().filter_map(|key| settle(cache, key, item, |_| true).transpose()).collect()
}

fn settle(cache: &Cache, key: &Key, item: &Item, wanted: impl Fn(&Ask) -> bool) -> Result<Option<Settled>> {
    let Some(ask) = cache.ask(key)?.filter(wanted) else { return Ok(None) };
    let replies = cache.replies(key)?;
    let raw = replies.iter().map(|reply| (reply.status, reply.body.as_ref()));
    let verdict = verdict::judge(ask.provider, &item.content, raw);
    Ok((!matches!(verdict, Verdict::Ask(_))).then_some(Settled { ask, replies, verdict }))
}

/// Asks everything on a runtime of its own; returns when nothing is in flight any more.
pub(crate) fn run(asker: &Arc<Asker>, batch: bool, work: impl Future<Output = ()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime in", asker.cache.path()))?;
    runtime.block_on(async {
        let watch = Arc::clone(asker);
        let signals = tokio::spawn(async move { watch_signals(&watch.stop, batch).await });
        let watch = Arc::clone(asker);
        let progress = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                watch.progress.allow(watch.pace.requests_per_minute());
                watch.progress.show();
            }
        });
        work.await;
        signals.abort();
        progress.abort();
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    asker.progress.finish();
    Ok(())
}

/// The first Ctrl-C (or SIGTERM) ends the run in order, the second ends the process.
async fn watch_signals(stop: &Stop, batch: bool) {
    for first in [true, false] {
        wait_for_signal().await;
        if first {
            let how = if batch {
                "batches go on at the service"
            } else {
                "waiting for replies in flight, they are paid"
            };
            eprintln!("ending: {how}; Ctrl-C again ends at once");
            stop.because(Error::Interrupted);
        } else {
            std::process::exit(130);
        }
    }
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
