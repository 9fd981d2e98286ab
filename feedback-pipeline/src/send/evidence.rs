//! Service statistics of a run, to decide whose fault a failure is.

use crate::request::Question;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Minimum assumed fraction of failures.
const LEAST_SHARE: f64 = 0.05;
/// Time without a good reply after which the outage is reported.
const TROUBLE: Duration = Duration::from_secs(10);

/// Evidence collected in a run about who is at fault for failures.
#[derive(Debug, Default)]
pub struct Evidence {
    pub(super) state: Mutex<Seen>,
    /// Whether an item has a usable answer.
    pub(super) has_answer: AtomicBool,
    pub(super) probes: tokio::sync::Mutex<Probes>,
    /// Requests that were refused before any was accepted.
    pub(super) refused: AtomicU32,
}

#[derive(Debug, Default)]
pub(super) struct Probes {
    pub(super) answered: u32,
    pub(super) failed_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the latest request with a good reply was sent.
    pub(super) good: Option<Instant>,
    /// First attempts, and those that failed, of about the last 200.
    pub(super) first_attempts: (f64, f64),
    /// Text of a question without a picture that was answered.
    pub(super) answered: Option<Arc<str>>,
    /// When failures began after the last good reply, and whether that was reported.
    pub(super) trouble: Option<(Instant, bool)>,
}

impl Evidence {
    /// Counts a request that was refused before any was accepted; returns how many there are.
    pub(super) fn refused_before_any(&self) -> u32 {
        self.refused.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request sent at `departed` has a good reply. Returns whether that ends a reported outage.
    pub(super) fn good(&self, departed: Instant, question: Option<&Question>) -> bool {
        let mut seen = self.seen();
        seen.good = seen.good.max(Some(departed));
        if seen.answered.is_none() {
            let plain = question.filter(|question| question.image().is_none());
            seen.answered = plain.map(|question| question.text.as_str().into());
        }
        seen.trouble.take().is_some_and(|(_, told)| told)
    }

    /// Counts a first attempt.
    pub(super) fn first_attempt(&self, failed: bool) {
        let mut seen = self.seen();
        let (all, bad) = seen.first_attempts;
        let kept = 1.0 - 1.0 / 200.0;
        seen.first_attempts = (all * kept + 1.0, bad * kept + f64::from(u8::from(failed)));
    }

    /// An attempt failed. Returns whether a request sent after `before` has had a good reply.
    pub(super) fn failed(&self, before: Option<Instant>) -> bool {
        let mut seen = self.seen();
        seen.trouble.get_or_insert((Instant::now(), false));
        before.is_some_and(|before| seen.good.is_some_and(|good| good > before))
    }

    /// Probability of so many failures in a row by chance.
    pub(super) fn chance(&self, failures: u32) -> f64 {
        let (all, bad) = self.seen().first_attempts;
        (bad / all.max(1.0)).max(LEAST_SHARE).powf(f64::from(failures))
    }

    /// An outage that has lasted a while and was not reported yet.
    pub(super) fn trouble_to_tell(&self) -> Option<Duration> {
        let mut seen = self.seen();
        let (since, told) = seen.trouble.as_mut()?;
        let lasted = since.elapsed();
        (lasted >= TROUBLE && !std::mem::replace(told, *told || lasted >= TROUBLE)).then_some(lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_left_after_a_failure_contradicts_it() {
        let evidence = Evidence::default();
        let early = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let failed_at = Instant::now();
        evidence.good(early, None);
        assert!(!evidence.failed(Some(failed_at)), "it was under way when the service failed");
        tokio::time::sleep(Duration::from_secs(1)).await;
        evidence.good(Instant::now(), None);
        assert!(evidence.failed(Some(failed_at)));
        assert!(!evidence.failed(None));
    }

    #[test]
    fn the_more_fails_the_less_it_tells_about_an_item() {
        let evidence = Evidence::default();
        (0..200).for_each(|_| evidence.first_attempt(false));
        assert!(evidence.chance(6) < 1e-4);
        (0..400).for_each(|_| evidence.first_attempt(true));
        assert!(evidence.chance(6) > 0.5);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_once_and_its_end_too() {
        let evidence = Evidence::default();
        evidence.failed(None);
        assert_eq!(evidence.trouble_to_tell(), None);
        tokio::time::sleep(TROUBLE).await;
        assert_eq!(evidence.trouble_to_tell(), Some(TROUBLE));
        assert_eq!(evidence.trouble_to_tell(), None);
        assert!(evidence.good(Instant::now(), None));
        assert!(!evidence.good(Instant::now(), None));
    }
}
