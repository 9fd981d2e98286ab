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
mod run;
mod service;
mod tally;
mod wave;

use crate::error::{Error, Result};
use crate::send::{Next, Session};
use crate::store::Batch;
use run::{MOST_TRIES, Run, name_of};
use schemas::number::counted;
use std::sync::Arc;
use std::time::Duration;
use wave::Wave;

/// First interval between polls of open batches; it grows by half each time.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Longest interval between two polls.
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
                        "{} had no answer in {MOST_TRIES} batches: {}",
                        counted(given_up, "request"),
                        self.trouble
                    );
                    let hint = Some("run the same command again, or without --batch");
                    return Err(Error::Service { why, hint });
                }
                Wave { .. } => return Ok(()),
            }
        }
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

    /// Polls a batch, and stores its results if it has ended; true if it needs no further polling.
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
                    "batch {id} was sent to {} with {}, but is not visible here",
                    batch.address,
                    counted(batch.requests, "request")
                );
                let hint = match batch.address == self.service.address() {
                    true => {
                        "use the key of the workspace or project that sent it; if it is gone for good, run \
                         the same command with --abandon-batch and its id: its requests are sent, and paid \
                         for, again"
                    }
                    false => {
                        "pass the --base-url it was sent to; if that service no longer exists, run the same \
                         command with --abandon-batch and the batch's id: its requests are sent, and paid \
                         for, again"
                    }
                };
                Err(Error::Service { why, hint: Some(hint) })
            }
        }
    }

    fn say_what_goes_on(&self) {
        let Ok(open) = self.open() else { return };
        if open.is_empty() {
            return;
        }
        let requests: u64 = open.iter().map(|batch| batch.requests).sum();
        let ids: Vec<&str> = open.iter().map(name_of).collect();
        let (batches, requests) = (counted(open.len(), "batch"), counted(requests, "request"));
        let are = if open.len() == 1 { "is" } else { "are" };
        self.session.progress.say(&format!(
            "{batches} with {requests} {are} still running at the service ({}); next: run the same command again, with --batch",
            ids.join(", ")
        ));
    }
}
