//! A run in batches, and what it has learned of them.

use super::late::Late;
use super::service::Service;
use crate::error::Result;
use crate::send::Session;
use crate::store::Batch;
use crate::teacher::Key;
use crate::teacher::catalogue::Price;
use std::collections::{HashMap, HashSet};

/// A request without an answer is sent in at most this many batches.
pub(super) const MOST_TRIES: u32 = 4;

/// What a run in batches works with.
pub(super) struct Run<'a> {
    pub(super) session: &'a Session,
    pub(super) service: Service<'a>,
    /// Prices in batches; `None` if the model has none.
    pub(super) price: Option<Price>,
    /// Number of lessons of the dialects of this run's batches, by our batch names.
    pub(super) lessons: HashMap<String, u32>,
    /// Number of this run's batches in which a request had no answer.
    pub(super) tries: HashMap<Key, u32>,
    /// Why the last of them had no answer.
    pub(super) trouble: String,
    /// Batches that have ended but still lack results, by our batch names.
    pub(super) late: HashMap<String, Late>,
    /// Requests whose replies this run has stored and that no wave has processed since.
    pub(super) collected: HashSet<Key>,
    /// Those of them about several items that this wave has processed.
    pub(super) met: Vec<Key>,
    pub(super) first: bool,
}

impl<'a> Run<'a> {
    /// `None` of the embedded Teacher, which has no batches.
    pub(super) fn new(session: &'a Session) -> Option<Self> {
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
    /// Open batches to this model; those to other models have other prices and are left to runs with these
    /// models.
    pub(super) fn open(&self) -> Result<Vec<Batch>> {
        let mut open = self.session.cache.open_batches(self.session.teacher.provider)?;
        open.retain(|batch| batch.model == self.session.model);
        Ok(open)
    }

    /// Closes a batch; its results are durable on return.
    pub(super) fn close(&self, batch: &Batch, how: &'static str) -> Result<()> {
        self.session.cache.batch_closed(&batch.plan, how)?;
        self.session.budget.release(batch.likely_usd);
        Ok(())
    }
}

/// The service's id of a batch, or our own name if the id is unknown.
pub(super) fn name_of(batch: &Batch) -> &str {
    batch.batch_id.as_deref().unwrap_or(&batch.plan)
}
