//! The account's allowance: token buckets of about a second, as providers keep them.

use std::time::Instant;

/// Rate limits of the account; 0 means no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowance {
    /// Requests per minute.
    pub requests_per_minute: f64,
    /// Input tokens per minute.
    pub input_tokens_per_minute: f64,
}

/// The current allowance.
#[derive(Debug)]
pub struct Limiter {
    requests: Bucket,
    tokens: Bucket,
}

#[derive(Debug)]
struct Bucket {
    per_sec: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_minute: f64) -> Self {
        let per_sec = per_minute / 60.0;
        Self { per_sec, level: per_sec.max(1.0), at: Instant::now() }
    }

    fn has(&mut self, amount: f64) -> bool {
        let elapsed = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        self.level = (self.level + elapsed * self.per_sec).min(self.per_sec.max(1.0));
        self.per_sec <= 0.0 || self.level >= amount.min(self.per_sec)
    }
}

impl Limiter {
    /// A full allowance.
    pub fn new(allowance: Allowance) -> Self {
        Self {
            requests: Bucket::new(allowance.requests_per_minute),
            tokens: Bucket::new(allowance.input_tokens_per_minute),
        }
    }

    /// Takes a request of this many tokens, if the allowance suffices.
    pub fn take(&mut self, tokens: u64) -> bool {
        let tokens = tokens as f64;
        if !self.requests.has(1.0) || !self.tokens.has(tokens) {
            return false;
        }
        self.requests.level -= 1.0;
        self.tokens.level -= tokens;
        true
    }
}
