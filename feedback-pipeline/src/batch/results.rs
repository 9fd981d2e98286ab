//! Results of an ended batch: every reply into the cache, every failure to where a single request's would go.

use super::Run;
use super::line::{Answered, Line};
use super::{RESULTS_ARE_GONE, anthropic, openai};
use crate::cache::{Batch, Reply};
use crate::error::{Error, Result};
use crate::retry::{self, Decision, Effort, Failure, Hints};
use crate::teacher::{self, Key, Usage};
use schemas::TimestampMs;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Run<'_> {
    /// Keeps the results of an ended batch; they can be had again until it is closed.
    pub(super) async fn keep(&mut self, batch: &Batch, id: &str, paths: &[String]) -> Result<()> {
        let mut stop = None;
        let mut answered = 0_u64;
        let mut without = 0_u64;
        let mut refused = Vec::new();
        let mut told = HashSet::new();
        let service = self.service;
        for path in paths {
            let mut lines = service.lines(path);
            while let Some(line) = lines.next().await? {
                let read = match batch.provider {
                    schemas::settings::Provider::Anthropic => anthropic::line(&line),
                    _ => openai::line(&line),
                };
                let Line { sent_key, answered: outcome } = match read {
                    Ok(line) => line,
                    Err(why) => {
                        tracing::warn!(batch = id, why, "a line of results that cannot be read");
                        continue;
                    }
                };
                let Some((key, turn)) = self.asker.cache.batch_request(&batch.plan, &sent_key)? else {
                    tracing::warn!(batch = id, "a result of a request that is not in the batch");
                    continue;
                };
                told.insert(sent_key);
                match self.outcome(outcome, sent_key) {
                    Ok((200, body, usage)) => {
                        answered += 1;
                        self.store(batch, id, (key, turn, sent_key), 200, body, usage)?;
                    }
                    Ok((status, body, _)) => refused.push(((key, turn, sent_key), status, body)),
                    Err(error) => {
                        without += 1;
                        stop = stop.or(error);
                    }
                }
            }
        }
        if told.is_empty() {
            let why = format!("batch {id} has ended, and none of its {} results can be read", batch.requests);
            return Err(Error::Service { why, hint: Some(RESULTS_ARE_GONE) });
        }
        without += self.without_a_line(batch, &told)?;
        // Refused are single requests where others were taken; else it is what all of them share.
        let any_good = self.asker.seen.good_replies.load(Ordering::Relaxed) > 0;
        for (place, status, body) in refused {
            let error = teacher::ServiceError::read(&body);
            let reason = retry::final_for_item(status, &error).unwrap_or_else(|| error.to_string());
            if any_good || reason == retry::TOO_LARGE {
                answered += 1;
                self.asker.progress.rejected(&reason);
                self.store(batch, id, place, status, body, Usage::default())?;
            } else {
                without += 1;
                let hint = Some(
                    "every request of the batch was refused: check --model and the settings of [teacher]",
                );
                stop = stop.or(Some(Error::Service { why: reason, hint }));
            }
        }
        self.asker.cache.batch_closed(&batch.plan, "collected")?;
        self.asker.purse.release(batch.likely_usd);
        let without = if without > 0 {
            format!(", {without} without an answer ({})", self.trouble)
        } else {
            String::new()
        };
        self.asker
            .progress
            .say(&format!("batch {id} ended: {answered} of {} answered{without}", batch.requests));
        stop.map_or(Ok(()), Err)
    }

    /// Counts requests of a batch that no line told of: they are sent again, but not for ever.
    fn without_a_line(&mut self, batch: &Batch, told: &HashSet<Key>) -> Result<u64> {
        if told.len() as u64 >= batch.requests {
            return Ok(0);
        }
        let mut missing = self.asker.cache.batch_keys(&batch.plan)?;
        missing.retain(|key| !told.contains(key));
        for key in &missing {
            *self.tries.entry(*key).or_default() += 1;
        }
        if !missing.is_empty() {
            "no line in the results".clone_into(&mut self.trouble);
        }
        Ok(missing.len() as u64)
    }

    /// What to store of a result; else an error where the run cannot go on.
    fn outcome(
        &mut self,
        outcome: Answered,
        sent_key: Key,
    ) -> Result<(u16, bytes::Bytes, Usage), Option<Error>> {
        let tries = self.tries.entry(sent_key).or_default();
        *tries += 1;
        let failure = match outcome {
            Answered::Reply(body) => match self.asker.paid_usage(&body) {
                Ok(usage) => return Ok((200, body, usage)),
                Err(why) => Failure::Broken(why),
            },
            Answered::Error { status, body } => {
                let error = teacher::ServiceError::read(&body);
                let failure = Failure::Status { status, hints: Hints::default(), error };
                let effort =
                    Effort { attempts: *tries, waited: Duration::ZERO, patience: Duration::MAX, jitter: 0.0 };
                match retry::decide(&failure, effort) {
                    Decision::Reject { .. } => return Ok((status, body, Usage::default())),
                    Decision::Stop { why, hint } => return Err(Some(Error::Service { why, hint })),
                    Decision::Again { .. } | Decision::GiveUp { .. } => failure,
                }
            }
            Answered::Not(why) => {
                why.clone_into(&mut self.trouble);
                return Err(None);
            }
        };
        self.trouble = match failure {
            Failure::Status { status, error, .. } => format!("HTTP {status}, {error}"),
            Failure::Unreachable(why) | Failure::Broken(why) => why,
            Failure::TimedOut => "no reply in time".to_owned(),
        };
        Err(None)
    }

    fn store(
        &self,
        batch: &Batch,
        id: &str,
        (key, turn, sent_key): (Key, u32, Key),
        status: u16,
        body: bytes::Bytes,
        usage: Usage,
    ) -> Result<()> {
        let now = TimestampMs::now().0;
        let cost_usd = match status {
            200 => self.asker.price.map(|price| price.cost(&usage)),
            _ => Some(0.0),
        };
        if status == 200 {
            self.asker.progress.used(&usage, cost_usd);
            self.asker.purse.pay(cost_usd.unwrap_or(0.0));
            if turn == 0 {
                self.asker.progress.answered();
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
        };
        self.asker.cache.writer().fetched(key, reply)
    }
}
