//! Requests per minute, paced by governor.

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::time::Duration;

/// Seconds of allowance that may leave at once.
const BURST_SECS: f64 = 0.8;
/// The limiter is recreated if the rate is off by more than this fraction.
const TOLERANCE: f64 = 0.01;

/// The allowance of requests. Rates are requests per second.
pub(super) struct Requests<C: Clock> {
    clock: C,
    configured: Option<f64>,
    learned: Option<f64>,
    limiter: Option<Limiter<C>>,
    /// Part of a request that was saved when the limiter was recreated.
    remainder: f64,
    /// Nothing is sent before this time.
    paused_until: Option<C::Instant>,
}

struct Limiter<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    rate: f64,
    burst: NonZeroU32,
}

impl<C: Clock + Clone> Limiter<C> {
    /// A limiter that allows only `saved` requests at once.
    fn new(clock: &C, rate: f64, saved: u32) -> Option<Self> {
        let period = Duration::try_from_secs_f64(1.0 / rate).ok()?;
        let burst = NonZeroU32::new((rate * BURST_SECS).round() as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        // A new limiter would start with a full burst.
        if let Some(spent) = NonZeroU32::new(burst.get().saturating_sub(saved)) {
            let _ = limiter.check_n(spent); // no more than the burst
        }
        Some(Self { limiter, rate, burst })
    }

    /// Number of requests that could be sent immediately; uses up the limiter.
    fn into_saved(self, now: C::Instant) -> f64 {
        let burst = f64::from(self.burst.get());
        match self.limiter.check_n(self.burst) {
            Ok(Err(not_until)) => burst - not_until.wait_time_from(now).as_secs_f64() * self.rate,
            Ok(Ok(())) | Err(_) => burst,
        }
    }
}

impl<C: Clock + Clone> Requests<C> {
    pub(super) fn new(clock: C, per_minute: Option<u64>) -> Self {
        let configured = per_minute.map(|limit| limit as f64 / 60.0);
        let limiter = configured.and_then(|rate| Limiter::new(&clock, rate, 0));
        Self { clock, configured, learned: None, limiter, remainder: 0.0, paused_until: None }
    }

    /// Adopts a limit reported by the service.
    pub(super) fn learn(&mut self, per_minute: u64) {
        self.learned = Some(per_minute as f64 / 60.0);
    }

    /// Allowance per second; infinite if no limit is known.
    pub(super) fn rate(&self) -> f64 {
        self.configured.unwrap_or(f64::INFINITY).min(self.learned.unwrap_or(f64::INFINITY))
    }

    /// Takes one request at `rate`, or returns how long to wait for it.
    pub(super) fn take(&mut self, rate: f64) -> Result<(), Duration> {
        let now = self.clock.now();
        if let Some(until) = self.paused_until {
            let wait: Duration = until.duration_since(now).into();
            if wait > Duration::ZERO {
                return Err(wait);
            }
            self.paused_until = None;
            (self.limiter, self.remainder) = (None, 0.0); // allowance accumulated during a pause is dropped
        }
        self.set(rate, now);
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.limiter.check().map_err(|not_until| not_until.wait_time_from(now))
    }

    /// Blocks for this long, without accumulating allowance.
    pub(super) fn pause(&mut self, wait: Duration) {
        self.paused_until = Some(self.clock.now() + wait.into());
    }

    /// Recreates the limiter if the rate has changed: without a burst, keeping unspent allowance.
    fn set(&mut self, rate: f64, now: C::Instant) {
        if !rate.is_finite() {
            self.limiter = None;
            return;
        }
        if self.limiter.as_ref().is_some_and(|limiter| (rate / limiter.rate - 1.0).abs() <= TOLERANCE) {
            return;
        }
        let saved =
            self.limiter.take().map_or(0.0, |limiter| limiter.into_saved(now)).max(0.0) + self.remainder;
        self.remainder = saved.fract();
        self.limiter = Limiter::new(&self.clock, rate, saved as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    #[test]
    fn a_changed_rate_brings_no_burst_and_loses_nothing() {
        let clock = FakeRelativeClock::default();
        let mut requests = Requests::new(clock.clone(), Some(6_000));
        let count =
            |requests: &mut Requests<_>, rate| (0..1_000).take_while(|_| requests.take(rate).is_ok()).count();
        assert_eq!(count(&mut requests, 100.0), 0, "nothing is saved up at the start");
        clock.advance(Duration::from_secs(10));
        assert_eq!(count(&mut requests, 100.0), 80, "a burst of 0.8 s");
        assert_eq!(count(&mut requests, 50.0), 0, "what is spent stays spent");
        clock.advance(Duration::from_millis(400));
        assert_eq!(count(&mut requests, 50.0), 20);
        clock.advance(Duration::from_millis(400));
        assert_eq!(count(&mut requests, 25.0), 20, "what is saved stays saved, as far as a burst holds it");
        requests.pause(Duration::from_millis(250));
        assert_eq!(requests.take(25.0), Err(Duration::from_millis(250)));
        clock.advance(Duration::from_millis(250));
        assert_eq!(count(&mut requests, 25.0), 0);
        clock.advance(Duration::from_millis(40));
        assert_eq!(count(&mut requests, 25.0), 1);
        assert_eq!(count(&mut requests, f64::INFINITY), 1_000);
    }

    /// A steadily growing rate recreates the limiter continually.
    #[test]
    fn a_growing_rate_loses_no_part_of_a_request() {
        let clock = FakeRelativeClock::default();
        let mut requests = Requests::new(clock.clone(), Some(600));
        let (mut rate, mut allowed, mut sent) = (2.0, 0.0, 0);
        for _ in 0..2_000 {
            clock.advance(Duration::from_millis(10));
            allowed += rate * 0.01;
            sent += usize::from(requests.take(rate).is_ok());
            rate *= 1.001_5;
        }
        assert!((f64::from(sent as u32) - allowed).abs() < 3.0, "{sent} of {allowed}");
    }
}
