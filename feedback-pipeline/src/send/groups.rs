//! Whether a model answers requests about several items at all. If not, items are requested individually
//! before much money is wasted.

use std::sync::atomic::{AtomicU32, Ordering};

/// Replies in a row without one usable answer after which items are asked about alone.
pub(super) const MOST_USELESS: u32 = 3;

/// Outcomes of a run's requests about several items.
#[derive(Debug, Default)]
pub struct Groups {
    useless: AtomicU32,
}

impl Groups {
    /// Whether items are asked about alone from here on.
    pub fn are_off(&self) -> bool {
        self.useless.load(Ordering::Relaxed) >= MOST_USELESS
    }

    /// Counts a reply; returns whether it is the one after which items are asked about alone.
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
