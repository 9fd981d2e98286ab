//! Counts the results of a batch.

use crate::error::Error;
use crate::teacher::Key;
use bytes::Bytes;
use std::collections::HashMap;

/// A request of a batch: key of its item's first request, turn, and its own key.
pub(super) type Place = (Key, u32, Key);

/// The outcome of a request whose result was read.
pub(super) enum Known {
    /// Its reply is stored; true if its cost is unknown.
    Paid { is_lost: bool },
    /// It was refused: the request, the status and the error.
    Refused(Place, u16, Bytes),
    /// Its reply cannot be opened.
    Broken,
    /// It has no reply.
    Nothing,
}

/// The lines of a batch so far. A request with several lines counts once, and a reply among them takes
/// precedence.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) known: HashMap<Key, Known>,
    /// Number of unreadable lines, and the error of the last one.
    pub(super) unread: (u64, String),
    /// Why no request of this run can succeed.
    pub(super) stop: Option<Error>,
}

impl Tally {
    /// Requests with a result.
    pub(super) fn results(&self) -> u64 {
        self.known.len() as u64 + self.unread.0
    }

    pub(super) fn count(&self, is: impl Fn(&Known) -> bool) -> u64 {
        self.known.values().filter(|known| is(known)).count() as u64
    }
}
