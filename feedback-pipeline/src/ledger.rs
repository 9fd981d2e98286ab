//! The ledger, table `requests`: a row for each request of an item that was paid for. It only grows.

use crate::cache::{Cache, Reply};
use crate::due::{Item, Job, Kind};
use crate::error::Result;
use crate::settled::{self, Settled};
use crate::tables::PartSet;
use crate::teacher::Key;
use crate::verdict::{self, Verdict};
use schemas::{Dataset, IdSet, Request, TimestampMs, provenance};
use std::collections::HashMap;

/// What the ledger holds of a job's round.
pub struct Ledger {
    booked: IdSet,
    /// Rows of a judgement's request: one that is shown alike in several orders has a row for each.
    judged: HashMap<String, usize>,
    /// Scopes of the judgements of the round.
    scopes: Vec<String>,
}

impl Ledger {
    /// Reads which requests stand in the ledger.
    ///
    /// # Errors
    /// Where the table or the cache cannot be read.
    pub fn read(dataset: &Dataset, cache: &Cache, job: &Job) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Row {
            kind: String,
            subject_id: String,
            request_key: String,
        }
        let (mut booked, mut judged) = (IdSet::default(), HashMap::new());
        for row in dataset.project::<Request, Row>(job.round, &["kind", "subject_id", "request_key"])? {
            if row.kind != job.ledger_kind() {
                continue;
            }
            let booking = booking(&row.request_key, &row.subject_id);
            if job.kind == Kind::Judgements {
                *judged.entry(booking).or_default() += 1;
            } else {
                booked.insert(&booking);
            }
        }
        let mut scopes = Vec::new();
        if !judged.is_empty() {
            scopes = cache.scopes(job.round)?;
            scopes.retain(|scope| Job::of_scope(scope, job.round).is_some_and(|of| of.kind == job.kind));
        }
        Ok(Self { booked, judged, scopes })
    }

    /// Enters into `set` what the cache holds of an item and the ledger lacks, the oldest first; returns whether there was
    /// anything.
    ///
    /// # Errors
    /// Where the cache is damaged, or the disk refuses.
    pub fn enter(&self, set: &mut PartSet, cache: &Cache, job: &Job, item: &Item) -> Result<bool> {
        let mut entered = false;
        for key in cache.keys_of(&job.scope(), item.round, &item.subject_id)?.iter().rev() {
            if self.has(&provenance::hex(key), cache, key, item)? {
                continue;
            }
            // What was not sent stands there without a key.
            if let Some(found) = settled::paid(cache, key, item)?
                && !(found.key_text().is_empty() && self.has("", cache, key, item)?)
            {
                set.ledger(job, item, &found)?;
                entered = true;
            }
        }
        Ok(entered)
    }

    fn has(&self, request_key: &str, cache: &Cache, key: &Key, item: &Item) -> Result<bool> {
        let booking = booking(request_key, &item.subject_id);
        let Some(rows) = self.judged.get(&booking) else { return Ok(self.booked.contains(&booking)) };
        let mut asked = 0;
        for scope in &self.scopes {
            asked += usize::from(cache.keys_of(scope, item.round, &item.subject_id)?.contains(key));
        }
        Ok(*rows >= asked)
    }
}

fn booking(request_key: &str, subject_id: &str) -> String {
    format!("{request_key} {subject_id}")
}

/// An item's row of the ledger.
pub fn row(job: &Job, item: &Item, settled: &Settled) -> Request {
    let Settled { ask, replies, verdict } = settled;
    let cached = !ask.is_paid_by(job, item);
    let paid: &[Reply] = if cached { &[] } else { replies };
    let sum = |count: fn(&Reply) -> u64| paid.iter().map(count).sum();
    let status = match verdict {
        Verdict::Reject { reason, .. } => verdict::status_of(reason),
        _ => "ok",
    };
    Request {
        request_key: settled.key_text(),
        kind: job.ledger_kind().to_owned(),
        subject_id: item.subject_id.clone(),
        round: item.round,
        provider: ask.provider.as_str().to_owned(),
        model: ask.model.clone(),
        status: status.to_owned(),
        attempts: paid.iter().map(|reply| reply.attempts).sum(),
        cached,
        input_tokens: sum(|reply| reply.usage.input + reply.usage.cache_write),
        cached_input_tokens: sum(|reply| reply.usage.cache_read),
        output_tokens: sum(|reply| reply.usage.output),
        // Summed from 0.0: the empty sum of floats is -0.0.
        cost_usd: paid.iter().try_fold(0.0, |sum, reply| Some(sum + reply.cost_usd?)),
        latency_ms: paid.last().map_or(0, |reply| reply.latency_ms),
        started_at: TimestampMs(replies.first().map_or(0, |reply| reply.started_at_ms)),
    }
}
