//! Learns the rate from refusals.

use super::outage::Outages;
use std::collections::VecDeque;
use std::time::Duration;

/// Seconds over which refusals are observed before they are evaluated.
const EVENT_SECS: f64 = 1.0;
/// Seconds for which a share of refusals is considered independent of the rate.
const NOISE_SECS: f64 = 60.0;
/// Larger fractions are never considered independent of the rate.
const MOST_NOISE: f64 = 0.3;
/// Seconds without a refusal before a shrunk rate grows again.
const QUIET_SECS: f64 = 10.0;
/// Growth of a reduced rate: 18 % per minute.
const GROWTH_A_SEC: f64 = 0.003;
/// Seconds without a refusal after which it grows ten times as fast: the service accepts more than estimated.
const LONG_QUIET_SECS: f64 = 30.0;
/// Growth after an outage, up to the rate before it: twofold in 5 s.
const RECOVERY_A_SEC: f64 = 0.14;

/// A rate found by refusals.
///
/// A refusal counts from when its request was sent: what was sent and not refused was accepted, however long its reply
/// takes. A single refusal only causes a short pause. Several within a second are an event: their fraction says by how
/// much to reduce the rate. If the fraction stays the same at a lower rate, the rate is not the cause; the previous
/// rate is then restored, and that fraction is tolerated for a while.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Requests per second; infinite if unknown.
    pub(super) rate: f64,
    outages: Outages,
    sent: VecDeque<f64>,
    /// Refusals of the event that is being watched, and when its first one came.
    refused: u64,
    event_at: Option<f64>,
    shrunk_at: f64,
    held_at: f64,
    grown_at: f64,
    /// Rate and share of refusals at the last shrinking.
    before: (f64, f64),
    /// Share of refusals that no rate prevents, and until when that is believed.
    noise: (f64, f64),
}

/// What a refusal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing yet.
    Watched,
    /// The service's bucket is empty: let it fill a little.
    Pause,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            rate: f64::INFINITY,
            outages: Outages::new(),
            sent: VecDeque::new(),
            refused: 0,
            event_at: None,
            shrunk_at: f64::MIN,
            held_at: f64::MIN,
            grown_at: 0.0,
            before: (f64::INFINITY, f64::INFINITY),
            noise: (0.0, f64::MIN),
        }
    }

    /// Seconds during which an outage blocks requests.
    pub(super) fn wait_secs(&mut self, now: f64) -> f64 {
        self.outages.wait_secs(now)
    }

    /// A request leaves.
    pub(super) fn send(&mut self, now: f64) {
        self.outages.send(now);
        self.sent.push_back(now);
        while self.sent.front().is_some_and(|at| *at < now - 3.0 * EVENT_SECS) {
            self.sent.pop_front();
        }
    }

    /// A request sent `took` ago at a rate of `current` was refused; the service may have said how long to wait.
    pub(super) fn refuse(
        &mut self,
        now: f64,
        current: f64,
        told: Option<Duration>,
        took: Duration,
    ) -> Refusal {
        self.held_at = now;
        if self.outages.refuse(now, told, took) {
            return Refusal::Watched;
        }
        let event_at = match self.event_at {
            Some(at) if now - at <= 3.0 * EVENT_SECS => at,
            _ => {
                self.refused = 0;
                *self.event_at.insert(now)
            }
        };
        self.refused += 1;
        if now - event_at < EVENT_SECS {
            return Refusal::Watched;
        }
        self.event_at = None;
        self.judge(now, event_at, current, told)
    }

    /// Interpretation of a second of refusals.
    fn judge(&mut self, now: f64, event_at: f64, current: f64, told: Option<Duration>) -> Refusal {
        let refused = self.refused as f64;
        let sent = (self.sent.iter().filter(|at| **at >= event_at).count() as f64).max(refused);
        let share = refused / sent;
        if refused < 3.0 && share < 0.45 {
            self.outages.forget_rate();
            return Refusal::Pause;
        }
        if Outages::is_one(sent, refused) {
            self.rate = self.outages.begin(now, current, told);
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
        // A second of refusals does not justify more than this.
        self.rate = accepted.max(0.1 * current.min(sent / (now - event_at))).min(current).max(0.05);
        self.outages.forget_rate();
        self.shrunk_at = now;
        self.grown_at = now;
        Refusal::Pause
    }

    /// Lets the rate grow after quiet, up to `limit`.
    pub(super) fn grow(&mut self, now: f64, limit: f64) {
        let quiet = now - self.held_at;
        let recovers = self.outages.recovers(self.rate);
        if !self.rate.is_finite() || self.outages.lasts() || (quiet < QUIET_SECS && !recovers) {
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
