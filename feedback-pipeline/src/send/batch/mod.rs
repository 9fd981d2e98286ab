//! Batch mode: requests go out by the thousand, at half the price, and are answered within a day.
//!
//! ```text
//! open batches ─► wait ─► results ─► cache          until nothing is due
//! due items ─► chunks ─► written down ─► sent ─► id written down ─┘
//! ```
//!
//! A batch is written down with its requests before it is sent. After a kill in between, it is looked for at the service
//! before anything is sent again, so that nothing is paid for twice. Keys and replies are those of single requests: a
//! round that was begun in batches can be ended without, and the other way round.

pub mod anthropic;
mod chunk;
pub mod line;
pub mod openai;
mod results;
mod service;

use crate::error::{Error, Result};
use crate::reply::verdict::Verdict;
use crate::request::Question;
use crate::request::tokens::{self, Counter};
use crate::send::{Next, Session};
use crate::store::{Batch, Entry};
use crate::teacher::{FollowUp, Key};
use chunk::Chunk;
use schemas::TimestampMs;
use service::Service;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A request without an answer is put into this many batches.
const MOST_TRIES: u32 = 4;
/// First wait between two looks at running batches; it grows by half each time.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Longest wait between two looks.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// What to do about a batch of which there is nothing to be had any more.
const RESULTS_ARE_GONE: &str = "where they are gone for good: the same command with --abandon-batch and the batch's id sends its requests again, \
     and they are paid for again";

/// What to do about results that are no results of this API.
const RESULTS_CANNOT_BE_READ: &str = "the others are kept. Where it stays so: the same command with --abandon-batch and the batch's id sends the \
     requests without an answer again, and they are paid for again";

/// Asks all due items in batches; ends early where the session's stop is set.
pub async fn all<I>(session: &Arc<Session>, plan: impl Fn() -> Result<I>)
where
    I: Iterator<Item = Result<Next>>,
{
    let Some(transport) = &session.transport else { return };
    let service = Service::new(session, transport);
    let mut run =
        Run { session, service, counter: None, tries: HashMap::new(), trouble: String::new(), first: true };
    if let Err(error) = run.all(plan).await {
        session.stop.because(error);
        run.say_what_goes_on();
    }
}

struct Run<'a> {
    session: &'a Session,
    service: Service<'a>,
    /// Tells what a batch will cost; none where the model has no price.
    counter: Option<Counter>,
    /// Batches of this run in which a request had no answer.
    tries: HashMap<Key, u32>,
    /// Why the last of them had none.
    trouble: String,
    first: bool,
}

/// What a look through the due items led to.
#[derive(Default)]
struct Wave {
    sent: usize,
    given_up: usize,
    /// Dollars of the first request that did not fit under the cap.
    too_dear: Option<f64>,
}

impl Run<'_> {
    async fn all<I>(&mut self, plan: impl Fn() -> Result<I>) -> Result<()>
    where
        I: Iterator<Item = Result<Next>>,
    {
        self.session.cache.writer().prompt(&self.session.prompt.version, &self.session.prompt.text)?;
        self.abandon()?;
        self.find_unsure().await?;
        loop {
            let since = TimestampMs::now().0;
            self.collect().await?;
            let wave = self.wave(plan()?, since).await?;
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

    /// Closes the batches that the user has given up.
    fn abandon(&self) -> Result<()> {
        let open = self.open()?;
        for id in &self.session.abandoned {
            let Some(batch) = open.iter().find(|batch| batch.batch_id.as_deref() == Some(id)) else {
                let message = format!("expected the id of an open batch, found `{id}`");
                return Err(Error::bad_input("--abandon-batch", message));
            };
            let unanswered = self.unanswered(batch)?;
            // They may have been charged.
            self.lose(batch, unanswered)?;
            self.session.cache.batch_closed(&batch.plan, "abandoned")?;
            self.session.budget.release(batch.likely_usd);
            self.session.progress.say(&format!(
                "batch {id} is given up: {unanswered} of its {} requests have no answer and are sent again",
                batch.requests
            ));
        }
        Ok(())
    }

    /// Requests of a batch without a reply.
    fn unanswered(&self, batch: &Batch) -> Result<u64> {
        let cache = &self.session.cache;
        let mut unanswered = 0;
        for sent_key in cache.batch_keys(&batch.plan)? {
            let Some((key, turn)) = cache.batch_request(&batch.plan, &sent_key)? else { continue };
            let replies = cache.replies(&key)?;
            unanswered += u64::from(!replies.iter().any(|reply| reply.turn == turn));
        }
        Ok(unanswered)
    }

    /// Batches that were written down, but whose id was not: the service has them or not.
    async fn find_unsure(&self) -> Result<()> {
        let cache = &self.session.cache;
        for batch in self.open()? {
            if batch.batch_id.is_some() {
                continue;
            }
            if batch.address != self.service.address() {
                let why = format!(
                    "a batch of {} requests was being sent to {} when a run ended, and whether it got there is not known",
                    batch.requests, batch.address
                );
                return Err(Error::Service { why, hint: Some("give the --base-url that it was sent to") });
            }
            match self.service.find(&batch, batch.planned_at_ms).await? {
                Some(id) => cache.batch_sent(&batch.plan, &id)?,
                None => {
                    cache.batch_closed(&batch.plan, "never sent")?;
                    self.session.budget.release(batch.likely_usd);
                }
            }
        }
        Ok(())
    }

    /// Sends what is due and lies in no batch yet. What came in since a moment in ms is looked at for a cause behind all
    /// rejects.
    async fn wave(&mut self, plan: impl Iterator<Item = Result<Next>>, since: i64) -> Result<Wave> {
        let session = self.session;
        let mut wave = Wave::default();
        let mut room = session.budget.room();
        if session.price.as_ref().is_some_and(|price| !price.is_free()) {
            let (dialect, scope) = (session.dialects.spoken().dialect, session.job.scope());
            let system = &session.prompt.text;
            // Anew for each wave: earlier replies tell better.
            let counter = Counter::new(
                &session.known,
                &dialect,
                session.job.kind,
                &scope,
                system,
                Some(&session.cache),
            )?;
            self.counter = Some(counter);
        }
        let mut chunk = Chunk::new(session.teacher.provider)?;
        let mut of_chunk = 0.0;
        let mut claims = Vec::new(); // held until the wave ends
        for next in plan {
            self.service.check_stop()?;
            let (mut question, replies, claim) = match next? {
                Next::Send(question, replies, claim) => (question, replies, claim),
                other => {
                    if let Next::Shared(question) = &other {
                        self.check_cause(question, since)?;
                    }
                    let is_news = match &other {
                        Next::Unsendable(question) => session.cache.replies(&question.key)?.is_empty(),
                        _ => self.first, // later waves meet it again
                    };
                    session.note(other, is_news).await?;
                    continue;
                }
            };
            // In each wave: where the cap ended one early, the next reaches further.
            session.remember(&question)?;
            claims.push(claim);
            let Verdict::Ask(follow_ups) = session.judge(&question.item, &replies) else { continue };
            let image = question.image();
            let (lessons, template) = session.template();
            let sent_key = session.sent_key(&question, &follow_ups, lessons, &template);
            if self.tries.get(&sent_key).is_some_and(|tries| *tries >= MOST_TRIES) {
                wave.given_up += 1;
                continue;
            }
            let body = template.body(image, &question.text, &follow_ups);
            let dollars = self.likely_dollars(&question, &follow_ups);
            if dollars > room {
                wave.too_dear = Some(dollars);
                break;
            }
            if !chunk.has_room(&body) {
                let full = std::mem::replace(&mut chunk, Chunk::new(session.teacher.provider)?);
                wave.sent += self.send(full, std::mem::take(&mut of_chunk)).await?;
            }
            let entry = Entry { sent_key, ask: session.ask_row(&question), turn: follow_ups.len() as u32 };
            if let Err(error) = chunk.push(&body, entry)? {
                question.unsent = Some(error.to_string());
                session.note(Next::Unsendable(question), true).await?;
                continue;
            }
            room -= dollars;
            of_chunk += dollars;
        }
        if !chunk.is_empty() {
            wave.sent += self.send(chunk, of_chunk).await?;
        }
        Ok(wave)
    }

    /// Counts what became of an item since a moment in ms.
    ///
    /// # Errors
    /// Where one cause is behind nearly all rejects: nothing more is sent.
    fn check_cause(&self, question: &Question, since: i64) -> Result<()> {
        let replies = self.session.cache.replies(&question.key)?;
        if replies.last().is_none_or(|reply| reply.replied_at_ms < since) {
            return Ok(());
        }
        match self.session.judge(&question.item, &replies) {
            Verdict::Answer(_) => self.session.rejects.answered(),
            Verdict::Reject { reason, .. } => {
                if let Some(error) = self.session.rejects.rejected(&reason) {
                    return Err(error);
                }
            }
            Verdict::Ask(_) => {}
        }
        Ok(())
    }

    /// Dollars that a request will hardly go beyond: a tenth more input than is counted, and a quarter more output than the
    /// longest reply so far; 0 where the model has no price.
    fn likely_dollars(&self, question: &Question, follow_ups: &[FollowUp]) -> f64 {
        let (Some(price), Some(counter)) = (&self.session.price, &self.counter) else { return 0.0 };
        let dialect = self.session.dialects.spoken().dialect;
        let image =
            question.image().map_or(0, |image| tokens::of_picture(&self.session.known, &dialect, image.size));
        let more: String =
            follow_ups.iter().flat_map(|more| [more.reply.as_str(), &more.complaint]).collect();
        let input = counter.input(&(question.text.clone() + &more)) + image as f64;
        let limit = self.session.reply_limit();
        let longest = counter.longest_output.max(self.session.longest_output());
        let output = longest.map_or(limit, |longest| (longest as f64 * 1.25 + 8.0).min(limit));
        price.most(1.1 * input, output)
    }

    /// Writes a batch down, sends it, and writes its id down.
    async fn send(&self, chunk: Chunk, likely_usd: f64) -> Result<usize> {
        let session = self.session;
        let (plan, body, bytes, entries) = chunk.finish()?;
        let count = entries.len();
        let mut batch = Batch {
            plan,
            provider: session.teacher.provider,
            model: session.model.clone(),
            address: self.service.address().to_owned(),
            requests: count as u64,
            planned_at_ms: TimestampMs::now().0,
            likely_usd,
            file_id: None,
            batch_id: None,
        };
        session.cache.plan_batch(batch.clone(), entries)?;
        session.budget.pay(likely_usd); // until it is collected
        let megabytes = bytes as f64 / 1e6;
        let id = self.service.submit(&mut batch, body).await?;
        session.cache.batch_sent(&batch.plan, &id)?;
        (0..count).for_each(|_| session.progress.sent());
        session.progress.say(&format!("batch {id} sent: {count} requests, {megabytes:.1} MB"));
        Ok(count)
    }

    /// Waits for all open batches and keeps what came of them. One that cannot be ended does not keep the others.
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

    /// Looks how a batch stands, and keeps its results where it has ended; true where nothing more is to come of it.
    async fn look(&mut self, batch: &Batch, id: &str, wait: Duration) -> Result<bool> {
        match self.service.standing(batch, id).await? {
            line::Standing::Running { done, of } => {
                let next = wait.as_secs_f64();
                self.session.progress.say(&format!("batch {id}: {done}/{of} done, next look in {next:.1} s"));
                Ok(false)
            }
            line::Standing::Ended { paths } => self.keep(batch, id, &paths).await.map(|()| true),
            line::Standing::Failed(why) => {
                self.session.cache.batch_closed(&batch.plan, "failed")?;
                self.session.budget.release(batch.likely_usd);
                let hint = Some("nothing of it was charged; mend the cause and run the same command again");
                Err(Error::Service { why: format!("batch {id} failed: {why}"), hint })
            }
            line::Standing::Gone => {
                let why = format!(
                    "batch {id} was sent to {} with {} requests, and is not to be seen here",
                    batch.address, batch.requests
                );
                let hint = match batch.address == self.service.address() {
                    true => {
                        "give the key of the workspace or project that sent it; where it is gone for good: \
                         the same command with --abandon-batch and its id sends its requests again, and they \
                         are paid for again"
                    }
                    false => "give the --base-url that it was sent to",
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
        let ids: Vec<&str> = open.iter().filter_map(|batch| batch.batch_id.as_deref()).collect();
        let (batches, ids) = (open.len(), ids.join(", "));
        let command = self.session.job.command();
        self.session.progress.say(&format!(
            "{batches} batches with {requests} requests go on at the service ({ids}); next: {command} --batch"
        ));
    }
}
