//! Batch mode: thousands of requests at a time, at half the price, answered within a day.
//!
//! ```text
//! open batches ─► wait ─► results ─► store              until nothing is pending
//! pending items ─► chunks ─► written down ─► sent ─► id written down ─┘
//! ```
//!
//! A batch is recorded with its requests before it is sent. After a kill in between, it is looked up at the service
//! before anything is sent again, so nothing is paid for twice. Keys and replies are those of single requests: a round
//! started in batches can be completed without them, and vice versa.

pub mod anthropic;
mod chunk;
mod find;
mod late;
pub mod line;
mod lines;
pub mod openai;
mod orphans;
mod results;
mod service;
mod tally;
mod wave;

use crate::error::{Error, Result};
use crate::send::{Next, Session};
use crate::store::Batch;
use crate::teacher::Key;
use crate::teacher::catalogue::Price;
use late::Late;
use orphans::name_of;
use service::Service;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use wave::Wave;

/// A request without an answer is put into this many batches.
const MOST_TRIES: u32 = 4;
/// First interval between polls of open batches; it grows by half each time.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Longest wait between two looks.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// Asks all pending items in batches; ends early where the session's stop is set.
pub async fn all<I>(session: &Arc<Session>, plan: impl Fn() -> Result<I>)
where
    I: Iterator<Item = Result<Next>>,
{
    let Some(mut run) = Run::new(session) else { return };
    if let Err(error) = run.all(plan).await {
        session.stop.because(error);
        run.say_what_goes_on();
    }
}

/// Sends the pending items that are in no batch yet, and waits for nothing.
pub async fn submit<I>(session: &Arc<Session>, plan: impl Fn() -> Result<I>)
where
    I: Iterator<Item = Result<Next>>,
{
    let Some(mut run) = Run::new(session) else { return };
    if let Err(error) = run.submit(plan).await {
        session.stop.because(error);
    }
}

struct Run<'a> {
    session: &'a Session,
    service: Service<'a>,
    /// Prices in batches; `None` if the model has none.
    price: Option<Price>,
    /// Lessons of the dialects that the batches of this run are written in, by our names of them.
    lessons: HashMap<String, u32>,
    /// Batches of this run in which a request had no answer.
    tries: HashMap<Key, u32>,
    /// Why the last of them had no answer.
    trouble: String,
    /// Batches that have ended and whose results have not all come, by our names of them.
    late: HashMap<String, Late>,
    /// Requests whose replies this run has kept, and that no wave has met since.
    collected: HashSet<Key>,
    /// Those of them about several items that this wave has met.
    met: Vec<Key>,
    first: bool,
}

impl<'a> Run<'a> {
    /// `None` of the embedded Teacher, which has no batches.
    fn new(session: &'a Session) -> Option<Self> {
        let service = Service::new(session, session.transport.as_ref()?);
        Some(Self {
            session,
            service,
            price: session.price.as_ref().map(Price::in_batch),
            lessons: HashMap::new(),
            tries: HashMap::new(),
            trouble: String::new(),
            late: HashMap::new(),
            collected: HashSet::new(),
            met: Vec::new(),
            first: true,
        })
    }
}

impl Run<'_> {
    async fn submit<I>(&mut self, plan: impl Fn() -> Result<I>) -> Result<()>
    where
        I: Iterator<Item = Result<Next>>,
    {
        self.session.keep_prompts()?;
        self.abandon()?;
        match self.find_unsure().await? {
            Some(error) => Err(error),
            None => self.wave(plan()?).await.map(|_| ()),
        }
    }

    async fn all<I>(&mut self, plan: impl Fn() -> Result<I>) -> Result<()>
    where
        I: Iterator<Item = Result<Next>>,
    {
        self.session.keep_prompts()?;
        self.abandon()?;
        if let Some(error) = self.find_unsure().await? {
            self.collect().await?;
            return Err(error);
        }
        loop {
            self.collect().await?;
            let wave = self.wave(plan()?).await?;
            self.first = false;
            match wave {
                Wave { sent: 1.., .. } => {}
                Wave { too_dear: Some(dollars), .. } => {
                    return Err(self.session.budget.too_little_for(dollars));
                }
                Wave { given_up: given_up @ 1.., .. } => {
                    let why = format!(
                        "{given_up} requests had no answer in {MOST_TRIES} batches: {}",
                        self.trouble
                    );
                    let hint = Some("run the same command again, or without --batch");
                    return Err(Error::Service { why, hint });
                }
                Wave { .. } => return Ok(()),
            }
        }
    }

    /// Batches that are not done with; those to other models have other prices and wait for runs of their own.
    fn open(&self) -> Result<Vec<Batch>> {
        let mut open = self.session.cache.open_batches(self.session.teacher.provider)?;
        open.retain(|batch| batch.model == self.session.model);
        Ok(open)
    }

    /// Waits for all open batches and stores their results. One that cannot be completed does not block the others.
    async fn collect(&mut self) -> Result<()> {
        let mut open = self.open()?;
        let mut wait = FIRST_LOOK;
        let mut failed = None;
        while !open.is_empty() {
            let mut running = Vec::new();
            for batch in open {
                let Some(id) = batch.batch_id.clone() else { continue };
                match self.look(&batch, &id, wait).await {
                    Ok(true) => {}
                    Ok(false) => running.push(batch),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            open = running;
            if !open.is_empty() {
                self.service.pause(wait).await?;
                wait = wait.mul_f64(1.5).min(LONGEST_LOOK);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Polls a batch, and stores its results if it has ended; true if nothing more will come of it.
    async fn look(&mut self, batch: &Batch, id: &str, wait: Duration) -> Result<bool> {
        match self.service.standing(batch, id).await? {
            line::Standing::Running { done, of } => {
                let next = wait.as_secs_f64();
                self.session
                    .progress
                    .say(&format!("batch {id}: {done}/{of} completed, checking again in {next:.1} s"));
                Ok(false)
            }
            line::Standing::Ended(ended) => self.keep(batch, id, &ended, wait).await,
            line::Standing::Failed(why) => {
                self.close(batch, "failed")?;
                let hint = Some("nothing was charged; fix the cause and run the same command again");
                Err(Error::Service { why: format!("batch {id} failed: {why}"), hint })
            }
            line::Standing::Gone => {
                let why = format!(
                    "batch {id} was sent to {} with {} requests, but is not visible here",
                    batch.address, batch.requests
                );
                let hint = match batch.address == self.service.address() {
                    true => {
                        "use the key of the workspace or project that sent it; if it is gone for good, run \
                         the same command with --abandon-batch and its id: its requests are sent, and paid \
                         for, again"
                    }
                    false => {
                        "pass the --base-url it was sent to; where that service is gone for good: the same \
                         command with --abandon-batch and the batch's id sends its requests again, and they \
                         are paid for again"
                    }
                };
                Err(Error::Service { why, hint: Some(hint) })
            }
        }
    }

    /// Ends a batch; what came of it is durable on return.
    fn close(&self, batch: &Batch, how: &'static str) -> Result<()> {
        self.session.cache.batch_closed(&batch.plan, how)?;
        self.session.budget.release(batch.likely_usd);
        Ok(())
    }

    fn say_what_goes_on(&self) {
        let Ok(open) = self.open() else { return };
        if open.is_empty() {
            return;
        }
        let requests: u64 = open.iter().map(|batch| batch.requests).sum();
        let ids: Vec<&str> = open.iter().map(name_of).collect();
        let (batches, ids) = (open.len(), ids.join(", "));
        let command = self.session.job.command();
        self.session.progress.say(&format!(
            "{batches} batches with {requests} requests are still running at the service ({ids}); next: {command} --batch"
        ));
    }
}
