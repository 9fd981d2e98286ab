//! Results of an ended batch: every reply is stored, and every failure is handled like that of a single
//! request.

use super::late::Late;
use super::line::{Answered, Ended, Line};
use super::lines::Next;
use super::run::{MOST_TRIES, Run};
use super::tally::{Known, Place, Tally};
use super::{anthropic, openai};
use crate::error::{Error, Result};
use crate::send::attempts::cost_at;
use crate::send::fault::After;
use crate::send::retry::{self, Decision, Effort, Failure, Hints};
use crate::store::{Batch, Reply};
use crate::teacher::{self, Key, ServiceError, Unopened, Usage};
use bytes::Bytes;
use schemas::TimestampMs;
use schemas::settings::Provider;
use std::time::Duration;

/// What to do about results that do not arrive.
const RESULTS_ARE_MISSING: &str = "those that came are kept. Run the same command again later: nothing is paid for twice. If the \
     others are lost, run it with --abandon-batch and the batch's id: their requests are sent, and paid for, again";

/// What to do about results that cannot be read.
const RESULTS_CANNOT_BE_READ: &str = "the others are kept. If this persists, run the same command with --abandon-batch and the batch's id: \
     its unanswered requests are sent, and paid for, again";

/// The result of a request.
enum Outcome {
    /// A paid reply, with its usage if reported.
    Paid(Option<Usage>),
    /// The request was refused, with this status.
    Refused(u16),
    /// A reply that cannot be opened; it may have been paid for.
    Broken,
    /// No reply, and nothing was charged.
    Nothing,
}

impl Run<'_> {
    /// Stores the results of an ended batch. They can be downloaded again until it is closed, which happens
    /// when all results have arrived. False if some are still missing.
    pub(super) async fn keep(
        &mut self,
        batch: &Batch,
        id: &str,
        ended: &Ended,
        wait: Duration,
    ) -> Result<bool> {
        let mut late = self.late.remove(&batch.plan).unwrap_or_else(Late::new);
        let tally = &mut late.tally;
        tally.unread = (0, String::new()); // its lines are read again
        let service = self.service;
        for path in &ended.paths {
            let mut lines = service.lines(path);
            while let Next::Line(line) = lines.next().await? {
                self.keep_line(batch, id, &line, tally)?;
            }
        }
        let results = tally.results();
        let missing = ended.missing(results, batch.requests);
        if ended.is_complete(results, batch.requests) {
            return self.finish(batch, id, late.tally).map(|()| true);
        }
        let (all, what) =
            (batch.requests, if missing == 0 { "a file of".to_owned() } else { missing.to_string() });
        if late.is_over() {
            let minutes = late.minutes();
            let why = format!(
                "batch {id} has ended, and after {minutes} minutes {what} its {all} results are missing"
            );
            return Err(Error::Service { why, hint: Some(RESULTS_ARE_MISSING) });
        }
        let next = wait.as_secs_f64();
        self.session.progress.say(&format!(
            "batch {id} has ended, and {what} of its {all} results are not available yet; checking again in {next:.1} s"
        ));
        self.late.insert(batch.plan.clone(), late);
        Ok(false)
    }

    /// Closes a batch after all its results were read.
    fn finish(&mut self, batch: &Batch, id: &str, mut tally: Tally) -> Result<()> {
        let (unread, why) = &tally.unread;
        if *unread > 0 {
            let why = format!("batch {id}: {unread} of {} results cannot be read: {why}", batch.requests);
            return Err(Error::Service { why, hint: Some(RESULTS_CANNOT_BE_READ) });
        }
        let missing = self.count_missing(batch, &tally)?;
        self.keep_refused(batch, id, &mut tally)?;
        let lost = tally.count(|known| matches!(known, Known::Broken | Known::Paid { is_lost: true }));
        self.lose(batch, lost)?;
        self.close(batch, "collected")?;
        let answered = tally.count(|known| matches!(known, Known::Paid { .. }));
        let without = missing + tally.count(|known| matches!(known, Known::Broken | Known::Nothing));
        let without = match without {
            0 => String::new(),
            without => format!(", {without} without an answer ({})", self.trouble),
        };
        self.session
            .progress
            .say(&format!("batch {id} ended: {answered} of {} answered{without}", batch.requests));
        tally.stop.map_or(Ok(()), Err)
    }

    fn keep_line(&mut self, batch: &Batch, id: &str, line: &[u8], tally: &mut Tally) -> Result<()> {
        let read = match batch.provider {
            Provider::Anthropic => anthropic::line(line),
            _ => openai::line(line),
        };
        let Line { sent_key, answered } = match read {
            Ok(line) => line,
            Err(why) => {
                tally.unread = (tally.unread.0 + 1, why);
                return Ok(());
            }
        };
        let is_reply = matches!(answered, Answered::Reply(_));
        let is_read = match tally.known.get(&sent_key) {
            None => false,
            Some(Known::Paid { .. } | Known::Broken) => true,
            Some(Known::Refused(..) | Known::Nothing) => !is_reply,
        };
        if is_read {
            return Ok(());
        }
        let Some((key, turn)) = self.session.cache.batch_request(&batch.plan, &sent_key)? else {
            tracing::warn!(batch = id, "a result of a request that is not in the batch");
            return Ok(());
        };
        let place = (key, turn, sent_key);
        self.collected.insert(key);
        // Stored by a run that ended while it read the results.
        let replies = self.session.cache.replies(&key)?;
        if let Some(kept) = replies.iter().find(|reply| (reply.turn, reply.sent_key) == (turn, sent_key)) {
            tally.known.insert(sent_key, Known::Paid { is_lost: kept.cost_usd.is_none() });
            return Ok(());
        }
        let lessons = self.lessons.get(&batch.plan).copied();
        let (has_picture, is_group) = match self.session.cache.ask(&key)? {
            Some(ask) => (ask.image_sha256.is_some(), !ask.members.is_empty()),
            None => (false, false),
        };
        let known = match self.outcome(&answered, sent_key, (lessons, has_picture, is_group), tally) {
            Outcome::Paid(usage) => {
                let is_lost = cost_at(self.price.as_ref(), usage.as_ref()).is_none();
                self.store(batch, id, place, 200, answered.body(), usage)?;
                Known::Paid { is_lost }
            }
            Outcome::Refused(status) => Known::Refused(place, status, answered.body()),
            Outcome::Broken => Known::Broken,
            Outcome::Nothing => Known::Nothing,
        };
        tally.known.insert(sent_key, known);
        Ok(())
    }

    /// If others were accepted, the refusal concerns single requests; otherwise it concerns what they share.
    fn keep_refused(&mut self, batch: &Batch, id: &str, tally: &mut Tally) -> Result<()> {
        let any_good = self.session.stats.any_good();
        for known in tally.known.values_mut() {
            let Known::Refused(place, status, body) = known else { continue };
            let (place, status, body) = (*place, *status, std::mem::take(body));
            let error = ServiceError::read(&body);
            let reason = teacher::final_for_item(status, &error).unwrap_or_else(|| error.to_string());
            *known = Known::Nothing;
            if any_good || reason == teacher::TOO_LARGE {
                self.store(batch, id, place, status, body, None)?;
                *known = Known::Paid { is_lost: false };
            } else if status < 500 {
                let hint = Some(
                    "every request of the batch was refused: check --model and the settings of [teacher]",
                );
                tally.stop.get_or_insert(Error::Service { why: reason, hint });
            }
        }
        Ok(())
    }

    /// Counts requests of a batch that are in no line although all results have arrived, as may happen if the
    /// batch expired. They are sent again, but only a limited number of times.
    fn count_missing(&mut self, batch: &Batch, tally: &Tally) -> Result<u64> {
        if tally.known.len() as u64 >= batch.requests {
            return Ok(0);
        }
        let mut missing = self.session.cache.batch_keys(&batch.plan)?;
        missing.retain(|key| !tally.known.contains_key(key));
        for key in &missing {
            *self.tries.entry(*key).or_default() += 1;
        }
        if !missing.is_empty() {
            "no line in the results".clone_into(&mut self.trouble);
        }
        Ok(missing.len() as u64)
    }

    /// Classifies a result. `written` is the number of lessons of the request's dialect, if known, whether it
    /// had a picture, and whether it was about several items.
    fn outcome(
        &mut self,
        answered: &Answered,
        sent_key: Key,
        (lessons, has_picture, is_group): (Option<u32>, bool, bool),
        tally: &mut Tally,
    ) -> Outcome {
        let tries = self.tries.entry(sent_key).or_default();
        *tries += 1;
        let (status, error) = match answered {
            Answered::Reply(body) => match self.session.paid_usage(body) {
                Ok(usage) => {
                    if lessons == Some(self.session.dialects.spoken().lessons) {
                        self.session.dialects.accept(has_picture);
                    }
                    return Outcome::Paid(usage);
                }
                Err(Unopened::Error { status, error }) => (status, error),
                Err(Unopened::NotAReply(why)) => {
                    self.trouble = why;
                    return Outcome::Broken;
                }
            },
            Answered::Error { status, body } => {
                let error = ServiceError::read(body);
                (error.effective_status(*status), error)
            }
            Answered::Not(why) => {
                (*why).clone_into(&mut self.trouble);
                return Outcome::Nothing;
            }
        };
        self.trouble = format!("HTTP {status}, {error}");
        let failure = Failure::Status { status, hints: Hints::default(), error };
        // Refused because of its format, in this run or an earlier one: it has another format in the next
        // batch.
        match self.session.learn(&failure, lessons.unwrap_or_default(), has_picture, is_group) {
            Some(After::Again) => {
                *tries -= 1; // no fault of the item
                return Outcome::Nothing;
            }
            Some(_) => return Outcome::Nothing, // the run ends
            None => {}
        }
        let effort = Effort { attempts: *tries, ..Effort::new(Duration::MAX) };
        let may_be_the_items = !matches!(status, 408 | 409 | 429 | 503 | 529);
        match retry::decide(&failure, effort) {
            Decision::Reject { .. } | Decision::Forbidden { .. } => Outcome::Refused(status),
            Decision::Stop { why, hint } => {
                tally.stop.get_or_insert(Error::Service { why, hint });
                Outcome::Nothing
            }
            // It failed in all its batches, while others were answered.
            _ if *tries >= MOST_TRIES && may_be_the_items => Outcome::Refused(status),
            Decision::Again { .. } | Decision::GiveUp { .. } => Outcome::Nothing,
        }
    }

    /// Counts requests of a batch that may have been charged an unknown amount towards the budget, in later
    /// runs too.
    pub(super) fn lose(&self, batch: &Batch, requests: u64) -> Result<()> {
        let Some(price) = self.price.as_ref().filter(|_| requests > 0) else { return Ok(()) };
        // A batch sent without a budget limit has no reserved amount.
        let one = match batch.likely_usd {
            0.0 => self.session.reply_limit(self.session.questions.grouped.is_some()) * price.output / 1e6,
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
            200 => cost_at(self.price.as_ref(), usage.as_ref()),
            _ => Some(0.0),
        };
        let usage = usage.unwrap_or_default();
        if status == 200 {
            self.session.progress.used(&usage, cost_usd);
            self.session.budget.pay(cost_usd.unwrap_or(0.0));
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
            dialect: batch.dialect.clone(),
        };
        self.session.cache.writer().fetched(key, reply)
    }
}
