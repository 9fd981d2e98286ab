//! Sends requests to the Teacher, one by one or in batches, within the rate limits and the budget, with
//! retries.

mod attempts;
pub mod batch;
pub mod budget;
pub mod evidence;
pub mod fault;
mod group;
mod groups;
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

pub use groups::Groups;
pub use session::{ServiceStats, Session, Templates};

use crate::request::Question;
use crate::store::Reply;
use crate::teacher::Key;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a pending item is handled, as decided by the plan of a job.
pub enum Next {
    /// An earlier request of the same model and prompt answers it.
    Answered(Question, Key),
    /// Its reply is in the cache, or another pending item has the same request.
    Shared(Question),
    /// Its request is in a batch at the service.
    InBatch(Question),
    /// It cannot be sent; [`Question::unsent`] says why.
    Unsendable(Question),
    /// It is to be sent: individually, with its malformed replies so far, or with others in one request.
    Send(Question, Vec<Reply>, Claim),
}

/// Individual requests in progress: if several pending items have the same one, the first sends it. If it is
/// sent in a group, the value is the key of the group's request.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Mutex<HashMap<Key, Option<Key>>>>);

impl Claims {
    /// Claims a request; if it is claimed already, the error has the key of the group's request, if any.
    pub fn claim(&self, key: Key) -> Result<Claim, Option<Key>> {
        match self.keys().entry(key) {
            Entry::Occupied(claimed) => Err(*claimed.get()),
            Entry::Vacant(free) => {
                free.insert(None);
                Ok(Claim { claims: self.clone(), keys: vec![key] })
            }
        }
    }

    /// The request about several that a claimed one is sent in.
    pub fn asked_in(&self, key: &Key) -> Option<Key> {
        self.keys().get(key).copied().flatten()
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Key, Option<Key>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claimed requests, free again when this is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Claim {
    claims: Claims,
    keys: Vec<Key>,
}

impl Claim {
    /// Takes over claims of another holder.
    pub fn join(&mut self, mut other: Self) {
        if self.keys.is_empty() {
            self.claims = other.claims.clone();
        }
        self.keys.append(&mut other.keys);
    }

    /// Notes that the claimed requests are sent in one about several.
    pub fn is_for(&self, group: Key) {
        let mut claimed = self.claims.keys();
        for key in &self.keys {
            claimed.insert(*key, Some(group));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.claims.keys();
        for key in &self.keys {
            claimed.remove(key);
        }
    }
}
