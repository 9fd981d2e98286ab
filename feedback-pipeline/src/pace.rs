//! When the next request may leave: requests and tokens a minute, spent by every attempt, retries included.
//!
//! Buckets hold about a second of allowance, so that there is no burst at the start of a minute. A request takes what it
//! will probably use, by the lengths seen so far; its reply corrects that, a failure gives it back. Limits come from the
//! settings and from reply headers, whichever is lower; 429s shrink the rate to what the service really let through, and
//! quiet lets it grow again. Where everything is refused, a probe after each pause tells when the service is back; then
//! the rate goes back to what it was.

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
/// Larger shares are never taken for such.
const MOST_NOISE: f64 = 0.3;
/// Seconds without a refusal before a shrunk rate grows again.
const QUIET_SECS: f64 = 10.0;
/// Growth of a shrunk rate: 18 % a minute.
const GROWTH_A_SEC: f64 = 0.003;
/// Seconds without a refusal after which it grows ten times as fast: the service lets through more than was thought.
const LONG_QUIET_SECS: f64 = 30.0;
/// Growth after an outage, up to the rate before it: twofold in 5 s.
const RECOVERY_A_SEC: f64 = 0.14;
/// Share of refusals from which nothing is said about the rate: the service lets nothing through.
const OUTAGE_SHARE: f64 = 0.9;
/// Requests that may get through all the same: where more do, the service limits the rate.
const OUTAGE_ACCEPTED: f64 = 2.0;
/// First pause of an outage, in seconds; it doubles with each probe that is refused.
const FIRST_PAUSE_SECS: f64 = 1.0;
/// Longest pause between two probes that the service does not ask for.
const LONGEST_PAUSE_SECS: f64 = 15.0;
/// Longest pause that it can ask for.
const LONGEST_TOLD_PAUSE_SECS: f64 = 60.0;
/// Seconds after which a probe that was not refused was accepted, however long its reply takes: so many, or twice as long
/// as refusals take.
const PROBE_SECS: f64 = 1.0;
/// An outage so soon after another, in seconds, comes of what was sent between them.
const SOON_SECS: f64 = 120.0;

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
    /// While nothing is let through.
    outage: Option<Outage>,
    outage_ended_at: f64,
    /// Rate before the outage, which the rate goes back to.
    recovers_to: f64,
    recent: Recent,
    /// The longest that a refusal took lately.
    refusal_secs: f64,
    total: u64,
}

/// A time in which everything is refused. Nothing is sent but a probe after each pause, as many more would only be refused
/// too, and a rate cannot be told from refusals alone.
#[derive(Debug, Clone, Copy)]
struct Outage {
    until: f64,
    pause: f64,
    probe_at: Option<f64>,
}

/// Requests of the last minute that were not refused, by the second they were sent in or refused in.
#[derive(Debug)]
struct Recent {
    second: u64,
    accepted: [f64; 60],
    since: Option<f64>,
}

impl Recent {
    fn add(&mut self, now: f64, count: f64) {
        self.since.get_or_insert(now);
        let second = now as u64;
        for stale in (self.second + 1..=second).take(60) {
            self.accepted[(stale % 60) as usize] = 0.0;
        }
        self.second = second;
        self.accepted[(second % 60) as usize] += count;
    }

    /// Accepted a second, in the mean of the last minute.
    fn rate(&mut self, now: f64) -> f64 {
        self.add(now, 0.0);
        let secs = (now - self.since.unwrap_or(now)).clamp(1.0, 60.0);
        self.accepted.iter().sum::<f64>().max(0.0) / secs
    }
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
            outage: None,
            outage_ended_at: f64::MIN,
            recovers_to: 0.0,
            recent: Recent { second: 0, accepted: [0.0; 60], since: None },
            refusal_secs: 0.0,
            total: 0,
        }
    }

    /// Seconds for which an outage lets nothing leave.
    fn wait_secs(&mut self, now: f64) -> f64 {
        let Some(outage) = self.outage else { return 0.0 };
        let probing = PROBE_SECS.max(2.0 * self.refusal_secs);
        let wait = outage.probe_at.map_or(outage.until, |at| at + probing) - now;
        if wait <= 0.0 && outage.probe_at.is_some() {
            (self.outage, self.outage_ended_at, self.grown_at) = (None, now, now);
        }
        wait.max(0.0)
    }

    fn send(&mut self, now: f64) {
        if let Some(outage) = &mut self.outage {
            outage.probe_at = Some(now);
        }
        self.recent.add(now, 1.0);
        self.sent.push_back(now);
        drop_before(&mut self.sent, now - 3.0 * EVENT_SECS);
    }

    fn refuse(&mut self, now: f64, current: f64, told: Option<Duration>, took: Duration) -> Refusal {
        self.total += 1;
        self.refusal_secs = took.as_secs_f64().max(0.9 * self.refusal_secs);
        self.held_at = now;
        self.recent.add(now, -1.0);
        if let Some(outage) = &mut self.outage {
            // Before a probe: of those that left when it began.
            if outage.probe_at.take().is_some() {
                outage.pause = (2.0 * outage.pause).min(LONGEST_PAUSE_SECS);
                outage.until = now + pause_secs(outage.pause, told);
            }
            return Refusal::Watched;
        }
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
            self.recovers_to = 0.0;
            return Refusal::Pause;
        }
        if share >= OUTAGE_SHARE && sent - refused <= OUTAGE_ACCEPTED {
            let pause = FIRST_PAUSE_SECS;
            self.outage = Some(Outage { until: now + pause_secs(pause, told), pause, probe_at: None });
            let accepted = self.recent.rate(now);
            let comes_of_rate = now - self.outage_ended_at < SOON_SECS;
            self.recovers_to =
                if comes_of_rate { accepted.min(current) } else { current.max(self.recovers_to) };
            self.rate = current.min(accepted.max(1.0));
            return Refusal::Watched;
        }
        let noise = if now < self.noise.1 { self.noise.0 } else { 0.0 };
        let (before_rate, before_share) = self.before;
        if now - self.shrunk_at < QUIET_SECS && share > 0.6 * before_share && share <= MOST_NOISE {
            self.noise = (share, now + NOISE_SECS);
            self.rate = before_rate;
            self.before = (f64::INFINITY, f64::INFINITY);
            return Refusal::Watched;
        }
        if share <= 2.0 * noise {
            return Refusal::Watched;
        }
        self.before = (current, share);
        let accepted = sent / (now - event_at) * (1.0 - share + noise) * 0.975;
        // What a second of refusals tells is not worth more than this.
        self.rate = accepted.max(0.1 * current.min(sent / (now - event_at))).min(current).max(0.05);
        self.recovers_to = 0.0;
        self.shrunk_at = now;
        self.grown_at = now;
        Refusal::Pause
    }

    fn grow(&mut self, now: f64, limit: f64) {
        let quiet = now - self.held_at;
        let recovers = self.rate < self.recovers_to;
        if !self.rate.is_finite() || self.outage.is_some() || (quiet < QUIET_SECS && !recovers) {
            self.grown_at = now;
            return;
        }
        let growth = match quiet {
            _ if recovers => RECOVERY_A_SEC,
            LONG_QUIET_SECS.. => 10.0 * GROWTH_A_SEC,
            _ => GROWTH_A_SEC,
        };
        self.rate *= (growth * (now - self.grown_at)).exp();
        self.grown_at = now;
        if self.rate >= limit {
            self.rate = f64::INFINITY;
        }
    }
}

/// A pause of our own, or as long as the service asks for.
fn pause_secs(own: f64, told: Option<Duration>) -> f64 {
    told.map_or(own, |told| told.as_secs_f64().min(LONGEST_TOLD_PAUSE_SECS).max(own))
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
            .throttle
            .wait_secs(now)
            .max(state.requests.wait_secs(1.0, request_rate))
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

    /// Shrinks the rate after a 429 that came so long after its request, where the rate was its cause.
    pub fn refused(&self, retry_after: Option<Duration>, took: Duration) {
        let now = self.now();
        let state = &mut *self.state();
        let current = state.requests.rate().min(state.throttle.rate);
        if state.throttle.refuse(now, current, retry_after, took) == Refusal::Watched {
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
