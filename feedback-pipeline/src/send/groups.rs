//! Whether a model answers requests about several items at all. If not, items are requested individually
//! before much money is wasted.

use std::sync::atomic::{AtomicU32, Ordering};

/// Consecutive replies without a usable answer after which items are requested individually.
pub(super) const MOST_USELESS: u32 = 3;

/// Outcomes of a run's requests about several items.
#[derive(Debug, Default)]
pub struct Groups {
    useless: AtomicU32,
}

impl Groups {
    /// Whether items are requested individually from now on.
    pub fn are_off(&self) -> bool {
        self.useless.load(Ordering::Relaxed) >= MOST_USELESS
    }

    /// Counts a reply; returns whether items are requested individually from this one on.
    pub(super) fn saw(&self, is_useful: bool) -> bool {
        if self.are_off() {
            return false;
        }
        match is_useful {
            true => self.useless.store(0, Ordering::Relaxed),
            false => return self.useless.fetch_add(1, Ordering::Relaxed) + 1 == MOST_USELESS,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_never_answers_several_is_asked_about_each() {
        let groups = Groups::default();
        for is_useful in [false, false, true, false, false] {
            assert!(!groups.saw(is_useful) && !groups.are_off());
        }
        assert!(groups.saw(false), "told once");
        assert!(groups.are_off() && !groups.saw(false));
        groups.saw(true);
        assert!(groups.are_off(), "for the rest of the run");
    }
}
