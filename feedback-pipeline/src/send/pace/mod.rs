//! Rate limiting: requests and tokens per minute, used by every attempt, retries included.
//!
//! Requests are paced by governor, tokens by buckets, since those can be given back. Both hold about a second
//! of allowance, so that there is no burst at the start of a minute. A request reserves what it will probably
//! use, by the lengths seen so far; its reply corrects the reservation, and a failure releases it. Limits
//! come from the settings and from reply headers, whichever is lower; 429s reduce the rate to what the
//! service accepted; it recovers gradually (`throttle.rs`). If everything is refused, probes detect when the
//! service is back (`outage.rs`).

mod bucket;
mod lengths;
mod outage;
mod requests;
mod throttle;

use crate::items::Kind;
use crate::send::headers::Limits;
use crate::teacher::Usage;
use bucket::Bucket;
use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use lengths::Lengths;
pub use lengths::Reservation;
use requests::Requests;
use schemas::settings::LimitSettings;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use throttle::{Refusal, Throttle};

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

/// Grants permission to send.
pub struct Pace<C: Clock = TokioClock> {
    clock: C,
    start: C::Instant,
    state: Mutex<State<C>>,
    /// Held by the next request, so that requests leave in order.
    turn: tokio::sync::Mutex<()>,
}

struct State<C: Clock> {
    requests: Requests<C>,
    input: Bucket,
    output: Bucket,
    tokens: Bucket,
    throttle: Throttle,
    lengths: [Lengths; 3],
}

impl<C: Clock + Clone> State<C> {
    /// Requests per second that are allowed now.
    fn request_rate(&self) -> f64 {
        self.requests.rate().min(self.throttle.rate)
    }

    /// Takes input tokens, output tokens, and their sum if they have a common limit.
    fn take_tokens(&mut self, input: f64, output: f64, both: f64) {
        for (bucket, amount) in
            [(&mut self.input, input), (&mut self.output, output), (&mut self.tokens, both)]
        {
            let rate = bucket.rate();
            bucket.take(amount, rate);
        }
    }
}

impl Pace {
    /// A pace by tokio's time.
    pub fn new(limits: &LimitSettings, max_output_tokens: u32) -> Self {
        Self::with_clock(limits, max_output_tokens, TokioClock::default())
    }
}

impl<C: Clock + Clone> Pace<C> {
    /// A pace by another clock.
    pub fn with_clock(limits: &LimitSettings, max_output_tokens: u32, clock: C) -> Self {
        let state = State {
            requests: Requests::new(clock.clone(), limits.requests_per_minute),
            input: Bucket::new(limits.input_tokens_per_minute),
            output: Bucket::new(limits.output_tokens_per_minute),
            tokens: Bucket::new(None),
            throttle: Throttle::new(),
            lengths: [Lengths::new(max_output_tokens); 3],
        };
        let start = clock.now();
        Self { clock, start, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    fn now(&self) -> f64 {
        Duration::from(self.clock.now().duration_since(self.start)).as_secs_f64()
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
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

    /// Takes the allowance of an attempt, or returns how long to wait for it.
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
        let request_rate = state.request_rate();
        let (input_rate, output_rate, token_rate) =
            (state.input.rate(), state.output.rate(), state.tokens.rate());
        state.input.fill(now, input_rate);
        state.output.fill(now, output_rate);
        state.tokens.fill(now, token_rate);
        let both = input + reservation.output;
        let wait = state
            .throttle
            .wait_secs(now)
            .max(state.input.wait_secs(input, input_rate))
            .max(state.output.wait_secs(reservation.output, output_rate))
            .max(state.tokens.wait_secs(both, token_rate));
        // Checked last, since it takes the request immediately if it can.
        let taken = match wait > 0.0 {
            true => Err(wait),
            false => state.requests.take(request_rate).map_err(|wait| wait.as_secs_f64()),
        };
        if let Err(wait) = taken {
            // Never less than the timer's resolution, so that rounding does not cause a busy loop.
            return Err(Duration::from_secs_f64(wait.clamp(0.000_5, 3_600.0)));
        }
        state.throttle.send(now);
        state.take_tokens(input, reservation.output, both);
        Ok(reservation)
    }

    /// Corrects a reservation by what the reply used.
    pub fn used(&self, reservation: Reservation, usage: &Usage) {
        let state = &mut *self.state();
        // Tokens read from the provider's cache do not count against the input allowance.
        let input = (usage.input + usage.cache_write) as f64;
        let output = usage.output as f64;
        let both = input + usage.cache_read as f64 + output;
        state.take_tokens(
            input - reservation.input,
            output - reservation.output,
            both - reservation.input - reservation.output,
        );
        state.lengths[reservation.kind.index()].learn(&reservation, usage);
    }

    /// Releases the tokens of a failed attempt; its request stays counted.
    pub fn give_back(&self, reservation: Reservation) {
        let (input, output) = (reservation.input, reservation.output);
        self.state().take_tokens(-input, -output, -input - output);
    }

    /// Reduces the rate after a 429 that arrived `took` after its request, if the rate was the cause.
    pub fn refused(&self, retry_after: Option<Duration>, took: Duration) {
        let now = self.now();
        let state = &mut *self.state();
        let current = state.request_rate();
        if state.throttle.refuse(now, current, retry_after, took) == Refusal::Watched {
            return;
        }
        // Only this item waits for the full retry-after.
        let longest = Duration::from_millis(250);
        state.requests.pause(retry_after.map_or(longest, |wait| wait.min(longest)));
        tracing::debug!(rate_per_minute = state.request_rate() * 60.0, "429: pace");
    }

    /// Adopts the limits in a reply's headers.
    pub fn learn(&self, limits: &Limits) {
        if *limits == Limits::default() {
            return;
        }
        let state = &mut *self.state();
        if let Some(limit) = limits.requests {
            state.requests.learn(limit);
        }
        let told = [
            (&mut state.input, limits.input_tokens),
            (&mut state.output, limits.output_tokens),
            (&mut state.tokens, limits.tokens),
        ];
        for (bucket, limit) in told {
            if let Some(limit) = limit {
                bucket.learn(limit);
            }
        }
    }

    /// Requests per minute that are allowed now; `None` if no limit is known.
    pub fn requests_per_minute(&self) -> Option<f64> {
        let rate = self.state().request_rate();
        rate.is_finite().then_some(rate * 60.0)
    }

    /// Input and output tokens to expect of a request.
    pub fn expect(&self, kind: Kind, text_bytes: usize, image_tokens: u64) -> (f64, f64) {
        let lengths = self.state().lengths[kind.index()];
        (lengths.input_tokens_per_byte * text_bytes as f64 + image_tokens as f64, lengths.output_tokens)
    }
}

#[cfg(test)]
mod tests;
