//! Periods in which everything is refused: only a probe is sent after each pause, since more would be refused as well,
//! and refusals alone do not reveal a rate. Afterwards the previous rate is restored.

use std::time::Duration;

/// Fraction of refusals above which they say nothing about the rate: the service accepts nothing.
const OUTAGE_SHARE: f64 = 0.9;
/// Number of requests that may be accepted during an outage: if there are more, the service limits the rate.
const OUTAGE_ACCEPTED: f64 = 2.0;
/// First pause of an outage, in seconds; it doubles with each probe that is refused.
const FIRST_PAUSE_SECS: f64 = 1.0;
/// Longest pause between two probes that the service does not ask for.
const LONGEST_PAUSE_SECS: f64 = 15.0;
/// Longest pause that the service can ask for.
const LONGEST_TOLD_PAUSE_SECS: f64 = 60.0;
/// Minimum seconds after which a probe that was not refused counts as accepted, even without a reply; or
/// twice the time that refusals take, if that is longer.
const PROBE_SECS: f64 = 1.0;
/// An outage this soon after another, in seconds, is caused by what was sent in between.
const SOON_SECS: f64 = 120.0;

/// Whether there is an outage, and what rate to go back to after it.
#[derive(Debug)]
pub(super) struct Outages {
    running: Option<Outage>,
    ended_at: f64,
    /// Rate before the outage; 0 if refusals have revealed another since.
    recovers_to: f64,
    accepted: Accepted,
    /// The longest time that a recent refusal took.
    refusal_secs: f64,
}

/// An ongoing outage.
#[derive(Debug, Clone, Copy)]
struct Outage {
    until: f64,
    pause: f64,
    probe_at: Option<f64>,
}

impl Outages {
    pub(super) fn new() -> Self {
        Self {
            running: None,
            ended_at: f64::MIN,
            recovers_to: 0.0,
            accepted: Accepted { second: 0, counts: [0.0; 60], since: None },
            refusal_secs: 0.0,
        }
    }

    /// Whether there is an outage.
    pub(super) fn lasts(&self) -> bool {
        self.running.is_some()
    }

    /// Whether this share of refusals means an outage.
    pub(super) fn is_one(sent: f64, refused: f64) -> bool {
        refused / sent >= OUTAGE_SHARE && sent - refused <= OUTAGE_ACCEPTED
    }

    /// An outage begins, at a rate of `current`. Returns the rate to start with after it.
    pub(super) fn begin(&mut self, now: f64, current: f64, told: Option<Duration>) -> f64 {
        let pause = FIRST_PAUSE_SECS;
        self.running = Some(Outage { until: now + pause_secs(pause, told), pause, probe_at: None });
        let accepted = self.accepted.rate(now);
        let comes_of_rate = now - self.ended_at < SOON_SECS;
        self.recovers_to = if comes_of_rate { accepted.min(current) } else { current.max(self.recovers_to) };
        current.min(accepted.max(1.0))
    }

    /// Whether a rate is still below the one before the outage.
    pub(super) fn recovers(&self, rate: f64) -> bool {
        rate < self.recovers_to
    }

    /// Refusals have revealed the rate: the previous one no longer applies.
    pub(super) fn forget_rate(&mut self) {
        self.recovers_to = 0.0;
    }

    /// Seconds during which nothing is sent; an outage ends when a probe is not refused in time.
    pub(super) fn wait_secs(&mut self, now: f64) -> f64 {
        let Some(outage) = self.running else { return 0.0 };
        let probing = PROBE_SECS.max(2.0 * self.refusal_secs);
        let wait = outage.probe_at.map_or(outage.until, |at| at + probing) - now;
        if wait <= 0.0 && outage.probe_at.is_some() {
            (self.running, self.ended_at) = (None, now);
        }
        wait.max(0.0)
    }

    /// A request leaves; in an outage it is the probe.
    pub(super) fn send(&mut self, now: f64) {
        if let Some(outage) = &mut self.running {
            outage.probe_at = Some(now);
        }
        self.accepted.add(now, 1.0);
    }

    /// A request was refused, this long after it was sent. Returns whether that belongs to the ongoing
    /// outage.
    pub(super) fn refuse(&mut self, now: f64, told: Option<Duration>, took: Duration) -> bool {
        self.refusal_secs = took.as_secs_f64().max(0.9 * self.refusal_secs);
        self.accepted.add(now, -1.0);
        let Some(outage) = &mut self.running else { return false };
        // If no probe is in flight, the refused request was sent before the outage began.
        if outage.probe_at.take().is_some() {
            outage.pause = (2.0 * outage.pause).min(LONGEST_PAUSE_SECS);
            outage.until = now + pause_secs(outage.pause, told);
        }
        true
    }
}

/// Our own pause, or the one that the service asks for.
fn pause_secs(own: f64, told: Option<Duration>) -> f64 {
    told.map_or(own, |told| told.as_secs_f64().min(LONGEST_TOLD_PAUSE_SECS).max(own))
}

/// Requests of the last minute that were not refused, by the second in which they were sent or refused.
#[derive(Debug)]
struct Accepted {
    second: u64,
    counts: [f64; 60],
    since: Option<f64>,
}

impl Accepted {
    fn add(&mut self, now: f64, count: f64) {
        self.since.get_or_insert(now);
        let second = now as u64;
        for stale in (self.second + 1..=second).take(60) {
            self.counts[(stale % 60) as usize] = 0.0;
        }
        self.second = second;
        self.counts[(second % 60) as usize] += count;
    }

    /// Accepted requests per second, averaged over the last minute.
    fn rate(&mut self, now: f64) -> f64 {
        self.add(now, 0.0);
        let secs = (now - self.since.unwrap_or(now)).clamp(1.0, 60.0);
        self.counts.iter().sum::<f64>().max(0.0) / secs
    }
}
