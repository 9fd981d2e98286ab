//! Results of an ended batch: every reply into the cache, every failure to where a single request's would go.

use super::Run;
use super::line::{Answered, Line};
use super::{RESULTS_ARE_GONE, RESULTS_CANNOT_BE_READ, anthropic, openai};
use crate::error::{Error, Result};
use crate::send::retry::{self, Decision, Effort, Failure, Hints};
use crate::store::{Batch, Reply};
use crate::teacher::{self, Key, Unopened, Usage};
use bytes::Bytes;
use schemas::TimestampMs;
use std::collections::HashSet;
use std::time::Duration;

/// What to do with a result.
enum Outcome {
    /// A reply that was paid for, with its usage where it tells it.
    Paid(Bytes, Option<Usage>),
    /// The request was refused: its status and the error.
    Refused(u16, Bytes),
    /// A reply that cannot be opened; it may have been paid for.
    Broken,
    /// No reply, and nothing was charged.
    Nothing,
    /// No request of this run will fare better.
    Stop(Error),
}

/// A request of a batch: key of its item's first request, turn, and its own key.
type Place = (Key, u32, Key);

/// What the lines of a batch have come to so far.
#[derive(Default)]
struct Tally {
    told: HashSet<Key>,
    answered: u64,
    without: u64,
    /// Requests that may have been charged without a word of how much.
    lost: u64,
    refused: Vec<(Place, u16, Bytes)>,
    /// Lines that cannot be read, and what is wrong with the last of them.
    unread: (u64, String),
    stop: Option<Error>,
}

impl Run<'_> {
    /// Keeps the results of an ended batch; they can be had again until it is closed.
    pub(super) async fn keep(&mut self, batch: &Batch, id: &str, paths: &[String]) -> Result<()> {
        let mut tally = Tally::default();
        let service = self.service;
        for path in paths {
            let mut lines = service.lines(path);
            while let Some(line) = lines.next().await? {
                self.keep_line(batch, id, &line, &mut tally)?;
            }
        }
        let (unread, why) = &tally.unread;
        if *unread > 0 && !tally.told.is_empty() {
            let why = format!("batch {id}: {unread} of {} results cannot be read: {why}", batch.requests);
            return Err(Error::Service { why, hint: Some(RESULTS_CANNOT_BE_READ) });
        }
        if tally.told.is_empty() {
            let why = format!("batch {id} has ended, and none of its {} results can be read", batch.requests);
            return Err(Error::Service { why, hint: Some(RESULTS_ARE_GONE) });
        }
        tally.without += self.without_a_line(batch, &tally.told)?;
        self.keep_refused(batch, id, &mut tally)?;
        self.lose(batch, tally.lost)?;
        self.session.cache.batch_closed(&batch.plan, "collected")?;
        self.session.budget.release(batch.likely_usd);
        let without = match tally.without {
            0 => String::new(),
            without => format!(", {without} without an answer ({})", self.trouble),
        };
        self.session
            .progress
            .say(&format!("batch {id} ended: {} of {} answered{without}", tally.answered, batch.requests));
        tally.stop.map_or(Ok(()), Err)
    }

    fn keep_line(&mut self, batch: &Batch, id: &str, line: &[u8], tally: &mut Tally) -> Result<()> {
        let read = match batch.provider {
            schemas::settings::Provider::Anthropic => anthropic::line(line),
            _ => openai::line(line),
        };
        let Line { sent_key, answered: outcome } = match read {
            Ok(line) => line,
            Err(why) => {
                tally.unread = (tally.unread.0 + 1, why);
                return Ok(());
            }
        };
        let Some((key, turn)) = self.session.cache.batch_request(&batch.plan, &sent_key)? else {
            tracing::warn!(batch = id, "a result of a request that is not in the batch");
            return Ok(());
        };
        tally.told.insert(sent_key);
        // By a run that was ended while it read the results.
        let replies = self.session.cache.replies(&key)?;
        if let Some(kept) = replies.iter().find(|reply| (reply.turn, reply.sent_key) == (turn, sent_key)) {
            tally.answered += 1;
            tally.lost += u64::from(kept.cost_usd.is_none());
            return Ok(());
        }
        match self.outcome(outcome, sent_key) {
            Outcome::Paid(body, usage) => {
                tally.answered += 1;
                tally.lost += u64::from(self.session.cost(usage.as_ref()).is_none());
                self.store(batch, id, (key, turn, sent_key), 200, body, usage)?;
            }
            Outcome::Refused(status, body) => tally.refused.push(((key, turn, sent_key), status, body)),
            Outcome::Broken => (tally.without, tally.lost) = (tally.without + 1, tally.lost + 1),
            Outcome::Nothing => tally.without += 1,
            Outcome::Stop(error) => {
                tally.without += 1;
                tally.stop.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// Refused are single requests where others were taken; else it is what all of them share.
    fn keep_refused(&mut self, batch: &Batch, id: &str, tally: &mut Tally) -> Result<()> {
        let any_good = self.session.stats.any_good();
        for (place, status, body) in std::mem::take(&mut tally.refused) {
            let error = teacher::ServiceError::read(&body);
            let reason = teacher::final_for_item(status, &error).unwrap_or_else(|| error.to_string());
            if any_good || reason == teacher::TOO_LARGE {
                tally.answered += 1;
                self.session.progress.rejected(&reason);
                self.store(batch, id, place, status, body, None)?;
            } else {
                tally.without += 1;
                let hint = Some(
                    "every request of the batch was refused: check --model and the settings of [teacher]",
                );
                tally.stop.get_or_insert(Error::Service { why: reason, hint });
            }
        }
        Ok(())
    }

    /// Counts requests of a batch that no line told of: they are sent again, but not for ever.
    fn without_a_line(&mut self, batch: &Batch, told: &HashSet<Key>) -> Result<u64> {
        if told.len() as u64 >= batch.requests {
            return Ok(0);
        }
        let mut missing = self.session.cache.batch_keys(&batch.plan)?;
        missing.retain(|key| !told.contains(key));
        for key in &missing {
            *self.tries.entry(*key).or_default() += 1;
        }
        if !missing.is_empty() {
            "no line in the results".clone_into(&mut self.trouble);
        }
        Ok(missing.len() as u64)
    }

    /// What a result is.
    fn outcome(&mut self, outcome: Answered, sent_key: Key) -> Outcome {
        let tries = self.tries.entry(sent_key).or_default();
        *tries += 1;
        let outcome = match outcome {
            Answered::Reply(body) => match teacher::open(self.session.teacher.provider, &body) {
                Err(Unopened::Error { status, .. }) => Answered::Error { status, body },
                _ => Answered::Reply(body),
            },
            other => other,
        };
        let failure = match outcome {
            Answered::Reply(body) => match self.session.paid_usage(&body) {
                Ok(usage) => return Outcome::Paid(body, usage),
                Err(why) => {
                    self.trouble = why.to_string();
                    return Outcome::Broken;
                }
            },
            Answered::Error { status, body } => {
                let error = teacher::ServiceError::read(&body);
                let failure = Failure::Status { status, hints: Hints::default(), error };
                let effort = Effort { attempts: *tries, ..Effort::new(Duration::MAX) };
                match retry::decide(&failure, effort) {
                    Decision::Reject { .. } | Decision::Forbidden { .. } => {
                        return Outcome::Refused(status, body);
                    }
                    Decision::Stop { why, hint } => return Outcome::Stop(Error::Service { why, hint }),
                    Decision::Again { .. } | Decision::GiveUp { .. } => failure,
                }
            }
            Answered::Not(why) => {
                why.clone_into(&mut self.trouble);
                return Outcome::Nothing;
            }
        };
        self.trouble = match failure {
            Failure::Status { status, error, .. } => format!("HTTP {status}, {error}"),
            Failure::Unreachable(why) | Failure::Broken(why) | Failure::Picture(why) => why,
            Failure::TimedOut => "no reply in time".to_owned(),
        };
        Outcome::Nothing
    }

    /// Counts requests of a batch that may have been charged without a word of how much: the cap must hold all the same, in
    /// later runs too.
    pub(super) fn lose(&self, batch: &Batch, requests: u64) -> Result<()> {
        let Some(price) = self.session.price.as_ref().filter(|_| requests > 0) else { return Ok(()) };
        // A batch that was sent without a cap was not counted with anything.
        let one = match batch.likely_usd {
            0.0 => self.session.reply_limit() * price.output / 1e6,
            likely => likely / batch.requests.max(1) as f64,
        };
        let dollars = one * requests as f64;
        if dollars == 0.0 {
            return Ok(());
        }
        self.session.budget.pay(dollars);
        self.session.cache.writer().lost(dollars)
    }

    fn store(
        &self,
        batch: &Batch,
        id: &str,
        (key, turn, sent_key): Place,
        status: u16,
        body: Bytes,
        usage: Option<Usage>,
    ) -> Result<()> {
        let now = TimestampMs::now().0;
        let cost_usd = match status {
            200 => self.session.cost(usage.as_ref()),
            _ => Some(0.0),
        };
        let usage = usage.unwrap_or_default();
        if status == 200 {
            self.session.progress.used(&usage, cost_usd);
            self.session.budget.pay(cost_usd.unwrap_or(0.0));
            if turn == 0 {
                self.session.progress.answered();
            }
        }
        let reply = Reply {
            turn,
            sent_key,
            attempts: 1,
            status,
            headers: serde_json::json!({ "batch": id }).to_string(),
            body,
            usage,
            cost_usd,
            started_at_ms: batch.planned_at_ms,
            replied_at_ms: now,
            latency_ms: u32::try_from(now.saturating_sub(batch.planned_at_ms)).unwrap_or(u32::MAX),
            dialect: None,
        };
        self.session.cache.writer().fetched(key, reply)
    }
}
