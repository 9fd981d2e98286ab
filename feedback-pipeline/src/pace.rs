//! When the next request may leave: requests and tokens a minute, spent by every attempt, retries included.
//!
//! Buckets hold about a second of allowance, so that there is no burst at the start of a minute. A request takes what it
//! will probably use, by the lengths seen so far; its reply corrects that, a failure gives it back. Limits come from the
//! settings and from reply headers, whichever is lower; a 429 shrinks the rate to what the service really let through,
//! and quiet lets it grow again.

use crate::due::Kind;
use crate::headers::Limits;
use crate::teacher::Usage;
use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use schemas::settings::LimitSettings;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Seconds of allowance that a bucket holds.
const BUCKET_SECS: f64 = 0.8;
/// Seconds over which refusals are watched before they are judged.
const EVENT_SECS: f64 = 1.0;
/// Seconds for which a share of refusals that no rate prevents is believed.
const NOISE_SECS: f64 = 60.0;
/// Seconds without a refusal before a shrunk rate grows again.
const QUIET_SECS: f64 = 10.0;
/// Growth of a shrunk rate: 18 % a minute.
const GROWTH_A_SEC: f64 = 0.003;

/// governor's clock over tokio's time, so that tests can pause it.
#[derive(Debug, Clone)]
pub struct TokioClock {
    start: tokio::time::Instant,
}

impl Default for TokioClock {
    fn default() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.start.elapsed().into()
    }
}

/// Tokens that one attempt will probably use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reservation {
    kind: Kind,
    text_bytes: f64,
    image_tokens: f64,
    input: f64,
    output: f64,
}

/// Gives leave to send.
pub struct Pace<C: Clock = TokioClock> {
    clock: C,
    start: C::Instant,
    state: Mutex<State>,
    /// Held by whoever is next, so that nobody overtakes.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    tokens: Bucket,
    throttle: Throttle,
    lengths: [Lengths; 3],
}

/// One allowance. Levels below zero are debts.
#[derive(Debug)]
struct Bucket {
    configured: Option<f64>,
    learned: Option<f64>,
    level: f64,
    filled_at: f64,
}

impl Bucket {
    fn new(per_minute: Option<u64>) -> Self {
        Self {
            configured: per_minute.map(|limit| limit as f64 / 60.0),
            learned: None,
            level: 0.0,
            filled_at: 0.0,
        }
    }

    /// Allowance a second; infinite where no limit is known.
    fn rate(&self) -> f64 {
        self.configured.unwrap_or(f64::INFINITY).min(self.learned.unwrap_or(f64::INFINITY))
    }

    fn fill(&mut self, now: f64, rate: f64) {
        let elapsed = (now - self.filled_at).max(0.0);
        self.filled_at = now;
        if rate.is_finite() {
            self.level = (self.level + elapsed * rate).min((rate * BUCKET_SECS).max(1.0));
        }
    }

    /// Seconds until `amount` may be taken; more than the bucket holds may be taken when it is full, as a debt.
    fn wait_secs(&self, amount: f64, rate: f64) -> f64 {
        if !rate.is_finite() {
            return 0.0;
        }
        let needed = amount.min((rate * BUCKET_SECS).max(1.0));
        ((needed - self.level) / rate).max(0.0)
    }

    fn take(&mut self, amount: f64) {
        if self.rate().is_finite() {
            self.level -= amount;
        }
    }
}

/// What refusals taught about the rate.
///
/// A refusal counts from when it was sent: what was sent and not refused was accepted, however long its reply takes. A
/// single refusal only makes a short pause. Several within a second are an event: their share says by how much to shrink.
/// Where the share stays the same although the rate was shrunk, the rate is not the cause; then it goes back to what it
/// was, and that share is taken as given for a while.
#[derive(Debug)]
struct Throttle {
    rate: f64,
    sent: VecDeque<f64>,
    refused: VecDeque<f64>,
    /// First refusal of the event that is being watched.
    event_at: Option<f64>,
    shrunk_at: f64,
    held_at: f64,
    grown_at: f64,
    /// Rate and share of refusals at the last shrinking.
    before: (f64, f64),
    /// Share of refusals that no rate prevents, and until when that is believed.
    noise: (f64, f64),
    total: u64,
}

/// What a refusal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Watched,
    Pause,
}

impl Throttle {
    fn new() -> Self {
        Self {
            rate: f64::INFINITY,
            sent: VecDeque::new(),
            refused: VecDeque::new(),
            event_at: None,
            shrunk_at: f64::MIN,
            held_at: f64::MIN,
            grown_at: 0.0,
            before: (f64::INFINITY, f64::INFINITY),
            noise: (0.0, f64::MIN),
            total: 0,
        }
    }

    fn send(&mut self, now: f64) {
        self.sent.push_back(now);
        drop_before(&mut self.sent, now - 3.0 * EVENT_SECS);
    }

    fn refuse(&mut self, now: f64, current: f64) -> Refusal {
        self.total += 1;
        self.held_at = now;
        let event_at = match self.event_at {
            Some(at) if now - at <= 3.0 * EVENT_SECS => at,
            _ => {
                self.refused.clear();
                *self.event_at.insert(now)
            }
        };
        self.refused.push_back(now);
        if now - event_at < EVENT_SECS {
            return Refusal::Watched;
        }
        self.event_at = None;
        let refused = self.refused.len() as f64;
        let sent = (self.sent.iter().filter(|at| **at >= event_at).count() as f64).max(refused);
        let share = refused / sent;
        if refused < 3.0 && share < 0.45 {
            return Refusal::Pause;
        }
        let noise = if now < self.noise.1 { self.noise.0 } else { 0.0 };
        let (before_rate, before_share) = self.before;
        if now - self.shrunk_at < QUIET_SECS && share > 0.6 * before_share {
            self.noise = (share.min(0.9), now + NOISE_SECS);
            self.rate = before_rate;
            self.before = (f64::INFINITY, f64::INFINITY);
            return Refusal::Watched;
        }
        if share <= 2.0 * noise {
            return Refusal::Watched;
        }
        self.before = (current, share);
        let accepted = sent / (now - event_at) * (1.0 - share + noise) * 0.975;
        self.rate = accepted.min(current).max(0.05);
        self.shrunk_at = now;
        self.grown_at = now;
        Refusal::Pause
    }

    fn grow(&mut self, now: f64, limit: f64) {
        if !self.rate.is_finite() || now - self.held_at < QUIET_SECS {
            self.grown_at = now;
            return;
        }
        self.rate *= (GROWTH_A_SEC * (now - self.grown_at)).exp();
        self.grown_at = now;
        if self.rate >= limit {
            self.rate = f64::INFINITY;
        }
    }
}

fn drop_before(times: &mut VecDeque<f64>, since: f64) {
    while times.front().is_some_and(|at| *at < since) {
        times.pop_front();
    }
}

/// Lengths learned from replies of one kind.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    input_tokens_per_byte: f64,
    output_tokens: f64,
    seen: u32,
}

impl Lengths {
    fn learn(&mut self, reservation: &Reservation, usage: &Usage) {
        self.seen = self.seen.saturating_add(1);
        let weight = (1.0 / f64::from(self.seen)).max(0.02);
        let input = (usage.input + usage.cache_write + usage.cache_read) as f64 - reservation.image_tokens;
        let ratio = (input / reservation.text_bytes.max(1.0)).clamp(0.02, 2.0);
        self.input_tokens_per_byte += weight * (ratio - self.input_tokens_per_byte);
        self.output_tokens += weight * (usage.output as f64 - self.output_tokens);
    }
}

impl Pace {
    /// A pace by tokio's time.
    pub fn new(limits: &LimitSettings, max_output_tokens: u32) -> Self {
        Self::with_clock(limits, max_output_tokens, TokioClock::default())
    }
}

impl<C: Clock> Pace<C> {
    /// A pace by another clock.
    pub fn with_clock(limits: &LimitSettings, max_output_tokens: u32, clock: C) -> Self {
        let guess = Lengths {
            input_tokens_per_byte: 0.25,
            output_tokens: f64::from(max_output_tokens.min(150)),
            seen: 0,
        };
        let state = State {
            requests: Bucket::new(limits.requests_per_minute),
            input: Bucket::new(limits.input_tokens_per_minute),
            output: Bucket::new(limits.output_tokens_per_minute),
            tokens: Bucket::new(None),
            throttle: Throttle::new(),
            lengths: [guess; 3],
        };
        let start = clock.now();
        Self { clock, start, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    fn now(&self) -> f64 {
        Duration::from(self.clock.now().duration_since(self.start)).as_secs_f64()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an attempt with a body of `text_bytes` (pictures apart) may leave.
    pub async fn take(&self, kind: Kind, text_bytes: usize, image_tokens: u64) -> Reservation {
        let _turn = self.turn.lock().await;
        loop {
            match self.try_take(kind, text_bytes, image_tokens) {
                Ok(reservation) => return reservation,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Takes the allowance of an attempt, or says how long to wait for it.
    pub fn try_take(
        &self,
        kind: Kind,
        text_bytes: usize,
        image_tokens: u64,
    ) -> Result<Reservation, Duration> {
        let now = self.now();
        let state = &mut *self.state();
        let lengths = state.lengths[kind.index()];
        let text_bytes = text_bytes as f64;
        let image_tokens = image_tokens as f64;
        let input = lengths.input_tokens_per_byte * text_bytes + image_tokens;
        let reservation =
            Reservation { kind, text_bytes, image_tokens, input, output: lengths.output_tokens };
        state.throttle.grow(now, state.requests.rate());
        let request_rate = state.requests.rate().min(state.throttle.rate);
        let (input_rate, output_rate, token_rate) =
            (state.input.rate(), state.output.rate(), state.tokens.rate());
        state.requests.fill(now, request_rate);
        state.input.fill(now, input_rate);
        state.output.fill(now, output_rate);
        state.tokens.fill(now, token_rate);
        let both = input + reservation.output;
        let wait = state
            .requests
            .wait_secs(1.0, request_rate)
            .max(state.input.wait_secs(input, input_rate))
            .max(state.output.wait_secs(reservation.output, output_rate))
            .max(state.tokens.wait_secs(both, token_rate));
        if wait > 0.0 {
            // Never less than the timer can do; a level hit by rounding must not spin.
            return Err(Duration::from_secs_f64(wait.clamp(0.000_5, 3_600.0)));
        }
        if request_rate.is_finite() {
            state.requests.level -= 1.0;
        }
        state.throttle.send(now);
        state.input.take(input);
        state.output.take(reservation.output);
        state.tokens.take(both);
        Ok(reservation)
    }

    /// Corrects a reservation by what the reply used.
    pub fn used(&self, reservation: Reservation, usage: &Usage) {
        let state = &mut *self.state();
        // Tokens read from the provider's cache do not count against the input allowance.
        let input = (usage.input + usage.cache_write) as f64;
        let output = usage.output as f64;
        state.input.take(input - reservation.input);
        state.output.take(output - reservation.output);
        state.tokens.take(input + usage.cache_read as f64 + output - reservation.input - reservation.output);
        state.lengths[reservation.kind.index()].learn(&reservation, usage);
    }

    /// Gives the tokens of a failed attempt back; its request stays spent.
    pub fn give_back(&self, reservation: Reservation) {
        let state = &mut *self.state();
        state.input.take(-reservation.input);
        state.output.take(-reservation.output);
        state.tokens.take(-reservation.input - reservation.output);
    }

    /// Shrinks the rate after a 429, where the rate was its cause.
    pub fn refused(&self, retry_after: Option<Duration>) {
        let now = self.now();
        let state = &mut *self.state();
        let current = state.requests.rate().min(state.throttle.rate);
        if state.throttle.refuse(now, current) == Refusal::Watched {
            return;
        }
        // The service's bucket is empty: let it fill a little. Only this item waits the whole retry-after.
        let rate = state.requests.rate().min(state.throttle.rate);
        if rate.is_finite() {
            let pause = retry_after.map_or(0.25, |wait| wait.as_secs_f64().min(0.25));
            state.requests.fill(now, rate);
            state.requests.level = state.requests.level.min(0.0) - rate * pause;
        }
        tracing::debug!(rate_per_minute = rate * 60.0, "429: pace");
    }

    /// Takes over the limits that a reply's headers told.
    pub fn learn(&self, limits: &Limits) {
        if *limits == Limits::default() {
            return;
        }
        let state = &mut *self.state();
        let told = [
            (&mut state.requests, limits.requests),
            (&mut state.input, limits.input_tokens),
            (&mut state.output, limits.output_tokens),
            (&mut state.tokens, limits.tokens),
        ];
        for (bucket, limit) in told {
            if let Some(limit) = limit {
                bucket.learned = Some(limit as f64 / 60.0);
            }
        }
    }

    /// Requests a minute that are allowed now; none where no limit is known.
    pub fn requests_per_minute(&self) -> Option<f64> {
        let state = self.state();
        let rate = state.requests.rate().min(state.throttle.rate);
        rate.is_finite().then_some(rate * 60.0)
    }

    /// Input and output tokens to expect of a request.
    pub fn expect(&self, kind: Kind, text_bytes: usize, image_tokens: u64) -> (f64, f64) {
        let lengths = self.state().lengths[kind.index()];
        (lengths.input_tokens_per_byte * text_bytes as f64 + image_tokens as f64, lengths.output_tokens)
    }

    /// Number of 429s so far.
    pub fn refusals(&self) -> u64 {
        self.state().throttle.total
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
