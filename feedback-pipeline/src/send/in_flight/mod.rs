//! Number of requests in flight: as many as the service answers in time, at most `limits.concurrency`.
//!
//! A service with few slots queues requests, and the end of the queue times out: that is our own load, and not the
//! items' fault. The limit grows by one with each reply until the first failure, later by one per round trip (additive
//! increase), and is halved if requests fail for lack of capacity (multiplicative decrease). It grows only while it is
//! fully used.

use crate::send::retry::Failure;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests in flight before the first reply, if nothing is known about the service.
const FIRST_LIMIT: f64 = 16.0;
/// Weight of a reply in the smoothed latency.
const LATENCY_WEIGHT: f64 = 0.125;
/// Latencies above this multiple of the lowest smoothed one are attributed to queueing.
const QUEUED: f64 = 3.0;

/// Hands out slots for requests in flight.
#[derive(Debug)]
pub struct InFlight {
    slots: Arc<Semaphore>,
    ceiling: usize,
    timeout_secs: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Number of slots, free or in use; above `limit` until enough of them are returned.
    granted: usize,
    /// Below it the limit doubles in each round.
    threshold: f64,
    /// Requests in flight.
    out: usize,
    /// When the limit was last fully used.
    full_at: Option<Instant>,
    /// When the limit was last lowered: requests sent before that say nothing about it.
    lowered_at: Option<Instant>,
    /// Good replies and failures of requests sent since then.
    good: f64,
    failed: f64,
    /// Times of good replies within the last time-out period.
    replies: Replies,
    /// Smoothed latency and its minimum, in seconds.
    latency: Option<(f64, f64)>,
    /// Whether the first answer determines the initial limit.
    unknown: bool,
    /// A lowered limit that was not reported yet.
    to_tell: Option<usize>,
    told: bool,
}

impl State {
    /// Counts a result; about the last hundred count.
    fn count(&mut self, is_good: bool) {
        self.good = self.good * 0.99 + f64::from(u8::from(is_good));
        self.failed = self.failed * 0.99 + f64::from(u8::from(!is_good));
    }
}

impl InFlight {
    /// Allows at most `ceiling` requests at once, each with `timeout` for its reply. If the rate limit
    /// `is_known`, all may be sent at once; otherwise the first reply determines how many a serial service
    /// can take.
    pub fn new(ceiling: u32, timeout: Duration, is_known: bool) -> Arc<Self> {
        let ceiling = usize::try_from(ceiling).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS >> 3);
        let limit = if is_known { ceiling as f64 } else { FIRST_LIMIT.min(ceiling as f64) };
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(limit as usize)),
            ceiling,
            timeout_secs: timeout.as_secs_f64().max(0.001),
            state: Mutex::new(State {
                limit,
                granted: limit as usize,
                threshold: f64::INFINITY,
                out: 0,
                full_at: None,
                lowered_at: None,
                good: 0.0,
                failed: 0.0,
                replies: Replies::new(timeout),
                latency: None,
                unknown: !is_known,
                to_tell: None,
                told: false,
            }),
        })
    }

    /// Maximum requests in flight at any time.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Requests that may be in flight now.
    pub fn limit(&self) -> usize {
        self.state().limit as usize
    }

    /// A reply was a usable answer: from now on, more than a few requests may be in flight. If the service
    /// has reported rate limits, those apply; otherwise it may answer serially, and gets as many as it then
    /// answers in time.
    pub fn prove(&self, pace_is_known: bool) {
        let mut state = self.state();
        if !std::mem::take(&mut state.unknown) || state.lowered_at.is_some() {
            return;
        }
        let limit = match state.latency {
            Some((latency, _)) if !pace_is_known => self.timeout_secs / 4.0 / latency.max(1e-6),
            _ => self.ceiling as f64,
        };
        self.set(&mut state, limit);
    }

    /// A limit that was lowered for the first time, to be reported once.
    pub fn news(&self) -> Option<usize> {
        self.state().to_tell.take()
    }

    /// Waits for a slot for one more request in flight.
    pub async fn slot(self: &Arc<Self>) -> Slot {
        let permit = Arc::clone(&self.slots).acquire_owned().await.ok(); // it is never closed
        Slot { of: Arc::clone(self), permit, departed: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limit, and adds slots or removes free ones.
    fn set(&self, state: &mut State, limit: f64) {
        state.limit = limit.clamp(1.0, self.ceiling as f64);
        let wanted = state.limit as usize;
        if wanted > state.granted {
            self.slots.add_permits(wanted - state.granted);
            state.granted = wanted;
        } else {
            state.granted -= self.slots.forget_permits(state.granted - wanted);
        }
    }

    /// A good reply arrived, with this latency.
    fn answered(&self, departed: Instant) {
        let now = Instant::now();
        let secs = (now - departed).as_secs_f64();
        let mut state = self.state();
        state.replies.add(now);
        let (latency, least) = match state.latency {
            None => (secs, secs),
            Some((latency, least)) => {
                let latency = latency + LATENCY_WEIGHT * (secs - latency);
                (latency, least.min(latency))
            }
        };
        state.latency = Some((latency, least));
        if state.unknown || state.lowered_at.is_some_and(|at| departed < at) {
            return;
        }
        state.count(true);
        let is_queued = latency > QUEUED * least;
        if is_queued && latency > self.timeout_secs / 2.0 {
            self.lower(&mut state, departed, now);
        } else if state.full_at.is_some_and(|at| at >= departed)
            && !(is_queued && latency > self.timeout_secs / 4.0)
        {
            let step = if state.limit < state.threshold { 1.0 } else { 1.0 / state.limit };
            let limit = state.limit + step;
            self.set(&mut state, limit);
        }
    }

    /// A request failed. Returns whether our own load caused it: too many requests were in flight.
    fn failed(&self, departed: Instant, failure: &Failure) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let is_new = state.lowered_at.is_none_or(|at| departed >= at);
        if is_new {
            state.count(false);
        }
        let is_load = state.out > 1
            && match failure {
                // At the current rate of replies, those in flight cannot all be answered in time.
                Failure::TimedOut => state.out as f64 > state.replies.count(now) as f64 / 2.0,
                Failure::Unreachable(_) | Failure::Status { status: 503, .. } => state.failed >= state.good,
                Failure::Broken(_) | Failure::Picture(_) | Failure::Status { .. } => return false,
            };
        if is_load && is_new {
            self.lower(&mut state, departed, now);
        }
        // Requests sent before the limit was lowered are part of the same load.
        is_load || (!is_new && matches!(failure, Failure::TimedOut | Failure::Unreachable(_)))
    }

    /// Halves the limit, or what was in flight where that is less, after a request that left at `departed`.
    fn lower(&self, state: &mut State, departed: Instant, now: Instant) {
        let was_full = state.full_at.is_some_and(|at| at >= departed);
        let used = if was_full { state.limit } else { state.limit.min(state.out as f64) };
        let limit = (used / 2.0).floor().max(1.0);
        // If no reply arrived since it was last lowered, the service may be down: that says nothing about its capacity.
        if state.lowered_at.is_none() || state.good > 0.0 {
            state.threshold = limit;
        }
        (state.lowered_at, state.good, state.failed) = (Some(now), 0.0, 0.0);
        self.set(state, limit);
        tracing::debug!(limit = state.limit, "fewer requests in flight");
        // A service that never replied may not be there at all.
        if state.latency.is_some() && !std::mem::replace(&mut state.told, true) {
            state.to_tell = Some(state.limit as usize);
        }
    }
}

/// A slot for one request in flight, freed when dropped.
#[derive(Debug)]
pub struct Slot {
    of: Arc<InFlight>,
    permit: Option<OwnedSemaphorePermit>,
    departed: Option<Instant>,
}

impl Slot {
    /// The request is sent now.
    pub fn departs(&mut self) {
        let now = Instant::now();
        if self.departed.replace(now).is_none() {
            let mut state = self.of.state();
            state.out += 1;
            if state.out >= state.limit as usize {
                state.full_at = Some(now);
            }
        }
    }

    /// A good reply arrived. Returns when its request was sent.
    pub fn answered(&mut self) -> Option<Instant> {
        let departed = self.lands();
        if let Some(departed) = departed {
            self.of.answered(departed);
        }
        departed
    }

    /// The request failed, and the slot is free. Returns whether our own load caused it.
    pub fn failed(mut self, failure: &Failure) -> bool {
        // Counted while it is still among those in flight.
        let is_load = self.departed.is_some_and(|departed| self.of.failed(departed, failure));
        self.lands();
        is_load
    }

    fn lands(&mut self) -> Option<Instant> {
        let departed = self.departed.take()?;
        self.of.state().out -= 1;
        Some(departed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.lands();
        let mut state = self.of.state();
        if state.granted > state.limit as usize
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.granted -= 1;
        }
    }
}

/// Good replies within the last time-out, counted in eighths of it.
#[derive(Debug)]
struct Replies {
    start: Instant,
    eighth_secs: f64,
    /// Number of the current eighth, and the counts of it and the previous ones.
    eighth: u64,
    counts: [u64; 8],
}

impl Replies {
    fn new(window: Duration) -> Self {
        let eighth_secs = (window.as_secs_f64() / 8.0).max(0.001);
        Self { start: Instant::now(), eighth_secs, eighth: 0, counts: [0; 8] }
    }

    fn advance(&mut self, now: Instant) {
        let eighth = ((now - self.start).as_secs_f64() / self.eighth_secs) as u64;
        for stale in (self.eighth + 1..=eighth).take(8) {
            self.counts[(stale % 8) as usize] = 0;
        }
        self.eighth = self.eighth.max(eighth);
    }

    fn add(&mut self, now: Instant) {
        self.advance(now);
        self.counts[(self.eighth % 8) as usize] += 1;
    }

    fn count(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests;
