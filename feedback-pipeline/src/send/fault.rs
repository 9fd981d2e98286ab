//! Whose fault a failed attempt is: the item's, a setting's, the service's or our own load's; and what follows from it.

use super::Session;
use crate::error::Error;
use crate::reply::verdict::NOT_SENT;
use crate::send::in_flight::Slot;
use crate::send::retry::{self, Decision, Effort, Failure};
use crate::teacher;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A service that refuses this many attempts of a request before it took any is asked no more.
const BAD_REQUESTS_BEFORE_ANY_SUCCESS: u32 = 5;

impl Session {
    /// What a failed attempt, which had `slot`, leads to; waits without the slot where it is to be made again.
    pub(super) async fn after(&self, slot: Slot, failure: &Failure, effort: &mut Effort) -> After {
        slot.failed(failure);
        effort.failed(failure);
        if let Failure::Picture(why) = failure {
            return After::Keep(why.clone()); // the item's own fault, whatever the service does with others
        }
        // Where others had good replies since this request failed the time before, the service answers, and the fault is
        // the request's; else the service's.
        let good_replies = self.stats.good_replies.load(Ordering::Relaxed);
        let before = effort.good_replies.replace(good_replies);
        let any_success = self.stats.any_good();
        let others_get_through = before.is_some_and(|before| good_replies > before);
        let wait = match retry::decide(failure, *effort) {
            Decision::Again { after } => after,
            Decision::Reject { reason } if any_success || reason == teacher::TOO_LARGE => {
                return After::Keep(reason);
            }
            // The first requests of all are refused: their fault, or that of the settings? Others will tell.
            Decision::Reject { .. } if effort.attempts < BAD_REQUESTS_BEFORE_ANY_SUCCESS => {
                Duration::from_secs(1)
            }
            Decision::Reject { reason } => {
                let hint = Some(
                    "every request so far was refused: check --model, --base-url and the settings of [teacher]",
                );
                self.stop.because(Error::Service { why: reason, hint });
                return After::End;
            }
            Decision::Stop { why, hint } => {
                self.stop.because(Error::Service { why, hint });
                return After::End;
            }
            Decision::GiveUp { why, may_be_the_items: true } if others_get_through => {
                return After::Keep(format!("no answer: {why}"));
            }
            Decision::GiveUp { why, .. } => {
                let hint =
                    Some("run the same command again when the service answers; nothing is bought twice");
                self.stop.because(Error::Service { why, hint });
                return After::End;
            }
        };
        tracing::debug!(?failure, ?wait, attempts = effort.attempts, "asked again");
        effort.waited += wait;
        tokio::select! {
            () = tokio::time::sleep(wait) => After::Again,
            () = self.stop.wait() => After::End,
        }
    }
}

/// What follows a failed attempt.
pub(super) enum After {
    /// The same request again, now.
    Again,
    /// The run ends.
    End,
    /// The item is rejected for this reason.
    Keep(String),
}

/// Status under which a failure for good is stored; a body that came broken counts as 502, as a gateway would say it.
pub(super) fn status_of(failure: &Failure) -> u16 {
    match failure {
        Failure::Status { status, .. } => *status,
        Failure::Unreachable(_) => 503,
        Failure::TimedOut => 504,
        Failure::Broken(_) => 502,
        Failure::Picture(_) => NOT_SENT,
    }
}
