//! The ledger, table `requests`: a row for each request of an item that was paid for. It only grows.

use super::booking::booking;
use super::part_set::PartSet;
use crate::error::Result;
use crate::items::{Item, Job, Kind};
use crate::store::Cache;
use crate::store::outcome;
use crate::teacher::Key;
use schemas::provenance::{self, sha256_hex};
use schemas::{Dataset, IdSet, Request};
use std::collections::HashMap;

/// The ledger's rows of a job's round.
#[derive(Default)]
pub struct Ledger {
    /// Read-only: nothing is added.
    complete: bool,
    booked: IdSet,
    /// Rows of a judgement's request, of the payer and of those who share its reply: a pair shown the same way in
    /// several orders has a row for each.
    judged: HashMap<String, Rows>,
    /// Scopes of the judgements of the round.
    scopes: Vec<String>,
}

impl Ledger {
    /// Reads which requests are in the ledger.
    ///
    /// # Errors
    /// If the table or the cache cannot be read.
    pub fn read(dataset: &Dataset, cache: &Cache, job: &Job) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Row {
            kind: String,
            subject_id: String,
            request_key: String,
            cached: bool,
        }
        let (mut booked, mut judged) = (IdSet::default(), HashMap::new());
        let names = ["kind", "subject_id", "request_key", "cached"];
        for row in dataset.project::<Request, Row>(job.round, &names)? {
            if row.kind != job.ledger_kind() {
                continue;
            }
            let booking = booking(&row.request_key, &row.subject_id);
            if job.kind == Kind::Judgements {
                let rows: &mut Rows = judged.entry(booking).or_default();
                *(if row.cached { &mut rows.shared } else { &mut rows.paid }) += 1;
            } else {
                booked.insert(&booking);
            }
        }
        let mut scopes = Vec::new();
        if !judged.is_empty() {
            scopes = cache.scopes(job.round)?;
            scopes.retain(|scope| Job::of_scope(scope, job.round).is_some_and(|of| of.kind == job.kind));
        }
        Ok(Self { complete: false, booked, judged, scopes })
    }

    /// A ledger to which nothing is added.
    pub fn complete() -> Self {
        Self { complete: true, ..Self::default() }
    }

    /// Adds to `set` the requests of an item that are in the cache but not in the ledger, the oldest first; returns their number.
    ///
    /// # Errors
    /// If the cache is damaged, or the write fails.
    pub fn enter(&self, set: &mut PartSet, cache: &Cache, job: &Job, item: &Item) -> Result<usize> {
        let mut entered = 0;
        if self.complete {
            return Ok(entered);
        }
        let keys = cache.keys_of(&job.scope(), item.round, &item.subject_id)?;
        for (age, key) in keys.iter().enumerate().rev() {
            if self.has(&provenance::hex(key), cache, key, job, item)? {
                continue;
            }
            // Requests that were not sent have no key there.
            let goes_on = age == 0 && !cache.is_discarded(&job.scope(), item.round, key)?;
            if let Some(found) = outcome::paid(cache, key, goes_on, item)?
                && !(found.key_text().is_empty() && self.has("", cache, key, job, item)?)
            {
                set.ledger(job, item, &found)?;
                entered += 1;
            }
        }
        Ok(entered)
    }

    fn has(&self, request_key: &str, cache: &Cache, key: &Key, job: &Job, item: &Item) -> Result<bool> {
        let booking = booking(request_key, &item.subject_id);
        let Some(rows) = self.judged.get(&booking) else { return Ok(self.booked.contains(&booking)) };
        let Some(ask) = cache.ask(key)? else { return Ok(false) };
        if ask.is_paid_by(job, item) {
            return Ok(rows.paid > 0);
        }
        // In the payer's scope too, this item may share the reply of another that is shown the same.
        let is_payer = ask.round == item.round && ask.is_about(&item.subject_id);
        let mut sharing = 0;
        for scope in self.scopes.iter().filter(|scope| !is_payer || **scope != ask.scope) {
            sharing += usize::from(cache.keys_of(scope, item.round, &item.subject_id)?.contains(key));
        }
        Ok(rows.shared >= sharing)
    }
}

/// Name of an audit's part of the ledger.
pub(crate) fn audit_part_name(seed: u64, model: &str, prompt_version: &str) -> String {
    let digest = sha256_hex(format!("{seed} {model} {prompt_version}").as_bytes());
    format!("audit-{}", digest.get(..12).unwrap_or(&digest))
}

/// Dollars in the ledger of a job's kind and round.
///
/// # Errors
/// If the table cannot be read.
pub fn booked_usd(dataset: &Dataset, job: &Job) -> Result<f64> {
    #[derive(serde::Deserialize)]
    struct Row {
        kind: String,
        cost_usd: Option<f64>,
    }
    let rows = dataset.project::<Request, Row>(job.round, &["kind", "cost_usd"])?;
    let of_kind = rows.into_iter().filter(|row| row.kind == job.ledger_kind());
    Ok(of_kind.filter_map(|row| row.cost_usd).sum())
}

/// Rows of one request.
#[derive(Default)]
struct Rows {
    paid: usize,
    shared: usize,
}
