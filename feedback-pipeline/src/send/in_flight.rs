//! How many requests are in flight at once: never more than `limits.concurrency`.

use super::retry::Failure;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Gives slots for requests in flight.
#[derive(Debug)]
pub struct InFlight {
    slots: Arc<Semaphore>,
    ceiling: usize,
}

impl InFlight {
    /// At most `ceiling` at once; 0 counts as 1.
    pub fn new(ceiling: usize) -> Arc<Self> {
        let ceiling = ceiling.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { slots: Arc::new(Semaphore::new(ceiling)), ceiling })
    }

    /// Most requests that are ever in flight at once.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Waits for leave to have one more request in flight.
    pub async fn slot(self: &Arc<Self>) -> Slot {
        let permit = Arc::clone(&self.slots).acquire_owned().await.ok(); // it is never closed
        Slot { permit, departed: None }
    }
}

/// Leave to have one request in flight, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    departed: Option<Instant>,
}

impl Slot {
    /// The request leaves now.
    pub fn departs(&mut self) {
        self.departed = Some(Instant::now());
    }

    /// A good reply came.
    pub fn answered(&mut self) {}

    /// The request failed; frees the slot.
    pub fn failed(mut self, _failure: &Failure) {
        self.permit = None;
    }
}
