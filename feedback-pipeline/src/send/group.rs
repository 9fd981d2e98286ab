//! A request about several items.

use super::Session;
use super::groups::MOST_USELESS;
use crate::reply::verdict::Verdict;
use crate::request::Question;
use crate::send::in_flight::Slot;
use crate::store::outcome;

impl Session {
    /// Sends one request about several items, then individual requests for those without an answer in the reply.
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
