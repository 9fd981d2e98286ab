//! A limit per minute, as a token bucket.

/// Capacity of a bucket, in seconds of allowance.
const BUCKET_SECS: f64 = 0.8;

/// One allowance. Levels below zero are debts.
#[derive(Debug)]
pub(super) struct Bucket {
    configured: Option<f64>,
    learned: Option<f64>,
    level: f64,
    filled_at: f64,
}

impl Bucket {
    pub(super) fn new(per_minute: Option<u64>) -> Self {
        Self {
            configured: per_minute.map(|limit| limit as f64 / 60.0),
            learned: None,
            level: 0.0,
            filled_at: 0.0,
        }
    }

    /// Adopts a limit reported by the service.
    pub(super) fn learn(&mut self, per_minute: u64) {
        self.learned = Some(per_minute as f64 / 60.0);
    }

    /// Allowance per second; infinite if no limit is known.
    pub(super) fn rate(&self) -> f64 {
        self.configured.unwrap_or(f64::INFINITY).min(self.learned.unwrap_or(f64::INFINITY))
    }

    /// Refills by `rate` since the last call.
    pub(super) fn fill(&mut self, now: f64, rate: f64) {
        let elapsed = (now - self.filled_at).max(0.0);
        self.filled_at = now;
        if rate.is_finite() {
            self.level = (self.level + elapsed * rate).min((rate * BUCKET_SECS).max(1.0));
        }
    }

    /// Seconds until `amount` may be taken; more than the bucket holds may be taken when it is full, as a debt.
    pub(super) fn wait_secs(&self, amount: f64, rate: f64) -> f64 {
        if !rate.is_finite() {
            return 0.0;
        }
        let needed = amount.min((rate * BUCKET_SECS).max(1.0));
        ((needed - self.level) / rate).max(0.0)
    }

    /// Takes `amount` if `rate` is a limit; a negative amount is returned to the bucket.
    pub(super) fn take(&mut self, amount: f64, rate: f64) {
        if rate.is_finite() {
            self.level -= amount;
        }
    }
}
