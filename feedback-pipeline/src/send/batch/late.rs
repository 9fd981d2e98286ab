//! Results that arrive after their batch has ended: services may name or fill the files minutes later. They
//! were paid for, so the run waits for them, and a batch is not closed without them.

use super::tally::Tally;
use std::time::Duration;
use tokio::time::Instant;

/// How long results may arrive after their batch was first seen to have ended.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// A batch that has ended and whose results have not all come.
pub(super) struct Late {
    since: Instant,
    /// Number of results that have arrived.
    pub(super) tally: Tally,
}

impl Late {
    /// A batch that was just seen to have ended.
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), tally: Tally::default() }
    }

    /// Whether nothing more is to be expected.
    pub(super) fn is_over(&self) -> bool {
        self.since.elapsed() >= LONGEST_DELAY
    }

    /// Minutes spent waiting for it.
    pub(super) fn minutes(&self) -> u64 {
        self.since.elapsed().as_secs() / 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn results_are_waited_for_some_minutes() {
        let late = Late::new();
        assert!(!late.is_over());
        tokio::time::sleep(Duration::from_secs(540)).await;
        assert!(!late.is_over());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(late.is_over());
        assert_eq!(late.minutes(), 10);
    }
}
