//! Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere; and interruption.

use crate::error::{Error, Result};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// From now on Ctrl-C asks the running stage to stop at the next safe point; a second one ends the process.
pub fn catch_interrupts() {
    schemas::interrupt::catch(
        "interrupted: stopping at the next safe point (press Ctrl-C again to stop immediately)",
    );
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    schemas::interrupt::noted()
}

/// Fails if Ctrl-C was pressed.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check_interrupt() -> Result<()> {
    if interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Progress of one stage.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    label: String,
    plain: bool,
    last_line: Instant,
    /// Units done at the first update, and its time.
    first: Option<(u64, Instant)>,
}

impl Progress {
    /// Progress over `total` units.
    pub fn new(label: &str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        // With several ranks, one shows the progress of all.
        let is_hidden = plain || schemas::say::is_muted();
        let target = if is_hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg} ({per_sec}, {eta} left)")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label.to_owned());
        Self { bar, label: label.to_owned(), plain, last_line: Instant::now(), first: None }
    }

    /// Sets the number of units done, with a short remark.
    pub fn set(&mut self, done: u64, remark: impl Into<String>) {
        let remark = remark.into();
        let total = self.bar.length().unwrap_or_default();
        let (first, began) = *self.first.get_or_insert((done, Instant::now()));
        if self.plain && (self.last_line.elapsed() > Duration::from_secs(5)) {
            // Work of an earlier run does not count towards the rate.
            let rate = done.saturating_sub(first) as f64 / began.elapsed().as_secs_f64();
            let left = total.saturating_sub(done) as f64 / rate;
            let left = Duration::try_from_secs_f64(left.round());
            let left = left.map_or_else(|_| String::new(), |left| format!(", {} left", HumanDuration(left)));
            schemas::warn!("{}: {done}/{total} {remark} ({rate:.2}/s{left})", self.label);
            self.last_line = Instant::now();
        }
        self.bar.set_message(remark);
        self.bar.set_position(done);
        if done == first {
            self.bar.reset_eta();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
