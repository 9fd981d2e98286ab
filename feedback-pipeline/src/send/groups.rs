//! Whether a model answers requests about several items at all. If not, items are requested individually
//! before much money is wasted.

use super::Session;
use crate::reply::verdict::Verdict;
use crate::request::Question;
use crate::send::in_flight::Slot;
use crate::store::outcome;
use std::sync::atomic::{AtomicU32, Ordering};

/// Replies in a row without one usable answer after which items are asked about alone.
const MOST_USELESS: u32 = 3;

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
    fn saw(&self, is_useful: bool) -> bool {
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

impl Session {
    /// Asks about several items at once, and then alone about those that have no answer in the reply.
    pub(super) async fn resolve_group(&self, question: &Question, mut slot: Option<Slot>) {
        let Some(reply) = self.turn(question, &[], &mut slot).await else { return };
        drop(slot);
        let (ask, replies) = (self.ask_row(question), [reply]);
        let mut missing = Vec::new();
        for member in &question.members {
            match outcome::verdict_on(&ask, &member.item, &replies) {
                Verdict::Missing { reason } => {
                    tracing::info!(reason, item = member.item.subject_id, "asked about alone");
                    missing.push(member);
                }
                verdict => self.count(&verdict),
            }
        }
        if self.groups.saw(missing.len() < question.members.len()) {
            self.progress.say(&format!(
                "{MOST_USELESS} replies to requests about several samples contain no usable scores: from now on, each is requested individually"
            ));
        }
        for member in missing {
            // This is now the item's latest request, and continues individually.
            if let Err(error) = self.remember_alone(member) {
                return self.stop.because(error);
            }
            self.resolve_one(member, Vec::new(), None).await;
            if self.stop.is_set() {
                return;
            }
        }
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
