//! Ending a run early: Ctrl-C, an empty budget, a service that does not go on, a full disk. The first reason counts.

use crate::error::Error;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Shared by everything that must end when one part ends.
pub struct Stop {
    reason: Mutex<Option<Error>>,
    flag: watch::Sender<bool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { reason: Mutex::new(None), flag: watch::Sender::new(false) }
    }
}

impl Stop {
    /// Ends the run for a reason, unless it is ending already.
    pub fn because(&self, reason: Error) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.flag.send_replace(true);
    }

    /// True once the run is ending.
    pub fn is_set(&self) -> bool {
        *self.flag.borrow()
    }

    /// Waits until the run is ending.
    pub async fn wait(&self) {
        let mut flag = self.flag.subscribe();
        let _ = flag.wait_for(|set| *set).await; // the sender lives as long as self
    }

    /// Takes the reason out of a shared value.
    pub fn take_reason(&self) -> Option<Error> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
