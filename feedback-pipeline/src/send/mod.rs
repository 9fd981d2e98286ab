//! Requests on their way to the Teacher: one by one or in batches, paced, retried, and paid for within the budget.

mod attempts;
pub mod batch;
pub mod budget;
pub mod fault;
pub mod headers;
pub mod http;
pub mod in_flight;
pub mod pace;
pub mod progress;
pub mod rejects;
pub mod retry;
pub(crate) mod runtime;
mod session;
pub mod single;
mod spool;
pub mod stop;
mod upload;

pub use session::{ServiceStats, Session};

use crate::request::Question;
use crate::store::Reply;
use crate::teacher::Key;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of a pending item, as the plan of a job decides.
pub enum Next {
    /// An earlier request of the same model and prompt answers it.
    Answered(Question, Key),
    /// Its reply is in the cache, or another pending item has the same request.
    Shared(Question),
    /// Its request is in a batch at the service.
    InBatch(Question),
    /// It cannot be sent; [`Question::unsent`] says why.
    Unsendable(Question),
    /// It is to be sent, with the malformed replies to it so far.
    Send(Question, Vec<Reply>, Claim),
}

/// Requests that are being worked on: of several pending items with the same one, the first sends it.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Mutex<HashSet<Key>>>);

impl Claims {
    /// Claims a request; `None` if it is claimed already.
    pub fn claim(&self, key: Key) -> Option<Claim> {
        self.keys().insert(key).then(|| Claim { claims: self.clone(), key })
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claimed request, free again when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Claim {
    claims: Claims,
    key: Key,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.keys().remove(&self.key);
    }
}
