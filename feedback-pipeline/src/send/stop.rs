//! Ending a run early: Ctrl-C, the budget, a failed service, a full disk. The first reason is kept.

use crate::error::Error;
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Shared by all parts of a run that must end together.
#[derive(Default)]
pub struct Stop {
    reason: Mutex<Option<Error>>,
    token: CancellationToken,
}

impl Stop {
    /// Ends the run for a reason, unless it is ending already.
    pub fn because(&self, reason: Error) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.token.cancel();
    }

    /// True once the run is ending.
    pub fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the run is ending.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Takes the reason out of a shared value.
    pub fn take_reason(&self) -> Option<Error> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
