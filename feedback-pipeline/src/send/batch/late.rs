//! Results that come after their batch has ended: services name the files minutes later, or fill them then. They were paid
//! for, so they are waited for, and a batch without them is never taken for one that has none.

use super::tally::Tally;
use std::time::Duration;
use tokio::time::Instant;

/// Time that results may come after their batch was first seen to have ended.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// A batch that has ended and whose results have not all come.
pub(super) struct Late {
    since: Instant,
    /// Those that have come.
    pub(super) tally: Tally,
}

impl Late {
    /// It was seen to have ended just now.
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
