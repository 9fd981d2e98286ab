//! What the results of a batch have come to.

use crate::error::Error;
use crate::teacher::Key;
use bytes::Bytes;
use std::collections::HashMap;

/// A request of a batch: key of its item's first request, turn, and its own key.
pub(super) type Place = (Key, u32, Key);

/// What is known of a request whose result was read.
pub(super) enum Known {
    /// Its reply is kept; whether its cost is not known.
    Paid { is_lost: bool },
    /// It was refused: the request, the status and the error.
    Refused(Place, u16, Bytes),
    /// Its reply cannot be opened.
    Broken,
    /// It has no reply.
    Nothing,
}

/// What the lines of a batch have come to so far. A request that has several lines counts once, and a reply among them
/// counts first.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) known: HashMap<Key, Known>,
    /// Lines that cannot be read, and what is wrong with the last of them.
    pub(super) unread: (u64, String),
    /// Why no request of this run will fare better.
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
