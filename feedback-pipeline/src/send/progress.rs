//! Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere.

use crate::items::Job;
use crate::teacher::Usage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts of one run.
pub struct Progress {
    label: String,
    total: u64,
    start: Instant,
    bar: ProgressBar,
    plain: bool,
    last_line: Mutex<Instant>,
    answered: AtomicU64,
    shared: AtomicU64,
    rejected: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    cache_read: AtomicU64,
    cache_write: AtomicU64,
    nano_dollars: AtomicU64,
    allowance: AtomicU64,
}

impl Progress {
    /// Progress of a job with `total` items.
    pub fn new(job: &Job, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left")
        {
            bar.set_style(style);
        }
        let label = format!("round {} {}", job.round, job.kind.as_str());
        bar.set_prefix(label.clone());
        let zero = AtomicU64::default;
        Self {
            label,
            total,
            start: Instant::now(),
            bar,
            plain: !terminal,
            last_line: Mutex::new(Instant::now()),
            answered: zero(),
            shared: zero(),
            rejected: zero(),
            sent: zero(),
            refused: zero(),
            input: zero(),
            output: zero(),
            cache_read: zero(),
            cache_write: zero(),
            nano_dollars: zero(),
            allowance: zero(),
        }
    }

    /// An item has its answer.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
        self.bar.inc(1);
    }

    /// An item shares a reply that is, or will be, in the cache.
    pub fn shared(&self) {
        self.shared.fetch_add(1, Relaxed);
        self.bar.inc(1);
    }

    /// An item will have no answer.
    pub fn rejected(&self, reason: &str) {
        tracing::info!(reason, "rejected");
        self.rejected.fetch_add(1, Relaxed);
        self.bar.inc(1);
    }

    /// An attempt is sent.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// An attempt was answered 429.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A reply used tokens and dollars.
    pub fn used(&self, usage: &Usage, dollars: Option<f64>) {
        self.input.fetch_add(usage.input + usage.cache_write + usage.cache_read, Relaxed);
        self.cache_read.fetch_add(usage.cache_read, Relaxed);
        self.cache_write.fetch_add(usage.cache_write, Relaxed);
        self.output.fetch_add(usage.output, Relaxed);
        self.nano_dollars.fetch_add((dollars.unwrap_or(0.0) * 1e9).round() as u64, Relaxed);
    }

    /// Sets the present allowance in requests per minute; 0 if none is known.
    pub fn allow(&self, requests_per_minute: Option<f64>) {
        self.allowance.store(requests_per_minute.unwrap_or(0.0) as u64, Relaxed);
    }

    /// Number of attempts sent.
    pub fn attempts(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Dollars of this run.
    pub fn dollars(&self) -> f64 {
        self.nano_dollars.load(Relaxed) as f64 / 1e9
    }

    /// Input tokens (all, read from the prompt cache, written to it) of this run.
    pub fn input_tokens(&self) -> (u64, u64, u64) {
        (self.input.load(Relaxed), self.cache_read.load(Relaxed), self.cache_write.load(Relaxed))
    }

    /// Redraws the bar, or prints a line if it is time.
    pub fn show(&self) {
        self.bar.set_message(self.message());
        if !self.plain {
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let done = self.answered.load(Relaxed) + self.shared.load(Relaxed) + self.rejected.load(Relaxed);
            schemas::warn!(
                "{}: {done}/{} done, {}{}",
                self.label,
                self.total,
                self.message(),
                self.time_left(done)
            );
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| schemas::warn!("{}: {line}", self.label));
    }

    fn time_left(&self, done: u64) -> String {
        if done == 0 || done >= self.total {
            return String::new();
        }
        let secs = self.start.elapsed().as_secs_f64() * (self.total - done) as f64 / done as f64;
        let secs = secs as u64;
        format!(", {:02}:{:02}:{:02} left", secs / 3_600, secs / 60 % 60, secs % 60)
    }

    fn message(&self) -> String {
        let minutes = (self.start.elapsed().as_secs_f64() / 60.0).max(1e-3);
        let per_minute = |count: u64| (count as f64 / minutes) as u64;
        let allowance = match self.allowance.load(Relaxed) {
            0 => String::new(),
            allowance => format!(" of {allowance}"),
        };
        format!(
            "{} cached, {} rejected, {}{allowance} req/min, {} tokens/min, ${:.4}",
            self.shared.load(Relaxed),
            self.rejected.load(Relaxed),
            per_minute(self.sent.load(Relaxed)),
            per_minute(self.input.load(Relaxed) + self.output.load(Relaxed)),
            self.dollars(),
        )
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
