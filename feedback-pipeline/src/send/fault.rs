//! Whose fault a failed attempt is, and what follows from it.
//!
//! | fault of | evidence | effect |
//! | --- | --- | --- |
//! | an item | it keeps failing while others, sent later, get good replies | the item is rejected |
//! | a setting, the account | the service says so, or refuses every request | the run ends |
//! | the service | there are no good replies | the run waits, bounded by patience, and rejects nothing |
//! | our own load | too much is in flight for replies to arrive in time | fewer in flight; repeated, and not counted |
//!
//! If no other item is left as evidence, an answered question is asked again as a probe.

use super::Session;
use crate::error::Error;
use crate::reply::verdict::NOT_SENT;
use crate::request::Question;
use crate::request::samples::Samples;
use crate::send::in_flight::Slot;
use crate::send::retry::{self, Decision, Effort, Failure};
use crate::teacher;
use schemas::number::counted;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// If a service refuses this many requests before it has accepted any, the run stops.
const BAD_REQUESTS_BEFORE_ANY_SUCCESS: u32 = 5;
/// Attempts after a refusal that may concern the key or the item, while other requests are evaluated.
const MOST_FORBIDDEN: u32 = 5;
/// Failures before which an item is not blamed.
const FEWEST_FAILURES: u32 = 6;
/// Number of times the service answered others between two failures of an item, before the item is blamed early.
const FEWEST_CONTRADICTIONS: u32 = 3;
/// Maximum probability of a series of failures, by the fraction of first attempts that fail, before the item is blamed
/// early.
const CHANCE: f64 = 1e-4;
/// Maximum answered probes of one run.
const MOST_PROBES: u32 = 12;
/// Failures of an item before an answered one is sent again as a probe.
const FAILURES_BEFORE_PROBE: u32 = 4;
/// Longest wait of an item that fails while the service answers others.
const WHILE_OTHERS_ANSWER: Duration = Duration::from_secs(2);

const RUN_AGAIN: &str = "run the same command again when the service answers; nothing is paid for twice";
const ALL_REFUSED: &str =
    "every request so far was refused: check --model, --base-url and the settings of [teacher]";

impl Session {
    /// A good reply came to an attempt that had `slot`.
    pub(super) fn answered(&self, slot: &mut Slot, question: &Question, attempts: u32) {
        if attempts == 1 {
            self.evidence.first_attempt(false);
        }
        if let Some(departed) = slot.answered()
            && self.evidence.good(departed, Some(question))
        {
            self.progress.say("the service answers again");
        }
    }

    /// An item has a usable answer: the settings are correct, and more requests may be in flight.
    pub(super) fn has_answer(&self) {
        if !self.evidence.has_answer.swap(true, Ordering::Relaxed) {
            self.slots.prove(self.pace.requests_per_minute().is_some());
        }
    }

    /// Decides what follows a failed attempt, which had `slot`; waits without the slot if it is to be
    /// repeated.
    pub(super) async fn after(&self, slot: Slot, failure: &Failure, effort: &mut Effort) -> After {
        let is_load = slot.failed(failure);
        if let Failure::Picture(why) = failure {
            return After::Keep(why.clone()); // the item's own fault, regardless of others
        }
        if effort.attempts == 1 {
            self.evidence.first_attempt(true);
        }
        // If a request sent after this one's last failure had a good reply, the service works.
        let contradicted = self.evidence.failed(effort.failed_at.replace(Instant::now()));
        effort.failed(failure, is_load, contradicted);
        self.tell(failure);
        let any_success = self.stats.any_good();
        let decision = retry::decide(failure, *effort);
        let is_items = contradicted || effort.contradicted >= FEWEST_CONTRADICTIONS;
        let wait = match decision {
            Decision::Again { after } if effort.may_be_the_items(failure) => {
                let is_sure = contradicted && effort.contradicted >= FEWEST_CONTRADICTIONS;
                if is_sure && self.is_unlikely(effort) {
                    return After::Keep(no_answer(failure));
                }
                let is_in_doubt = any_success && effort.counted() >= FAILURES_BEFORE_PROBE;
                match contradicted || (is_in_doubt && self.probe(effort.failed_at).await) {
                    true => after.min(WHILE_OTHERS_ANSWER), // there is no outage to wait for
                    false => after,
                }
            }
            Decision::Again { after } => after,
            Decision::Reject { reason }
                if any_success || reason == teacher::TOO_LARGE || failure.is_about_the_input() =>
            {
                return After::Keep(reason);
            }
            // The first requests are refused: either they or the settings are at fault, which other requests
            // will show.
            Decision::Reject { .. }
                if self.evidence.refused_before_any() < BAD_REQUESTS_BEFORE_ANY_SUCCESS =>
            {
                Duration::from_secs(1)
            }
            Decision::Reject { reason } => return self.end(reason, ALL_REFUSED),
            Decision::Stop { why, hint } => {
                self.stop.because(Error::Service { why, hint });
                return After::End;
            }
            Decision::Forbidden { why, .. } if contradicted => {
                return After::Keep(format!("no answer: {why}"));
            }
            Decision::Forbidden { .. } if effort.attempts < MOST_FORBIDDEN && any_success => {
                Duration::from_millis(250) * effort.attempts
            }
            Decision::Forbidden { .. } if any_success && self.probe(effort.failed_at).await => Duration::ZERO,
            // A first refusal about permissions concerns the key.
            Decision::Forbidden { .. }
                if effort.attempts < MOST_FORBIDDEN && !any_success && !failure.is_about_rights() =>
            {
                Duration::from_secs(1)
            }
            Decision::Forbidden { why, hint } => return self.end(why, hint),
            Decision::GiveUp { may_be_the_items: true, .. } if is_items => {
                return After::Keep(no_answer(failure));
            }
            Decision::GiveUp { may_be_the_items: true, .. }
                if any_success && self.probe(effort.failed_at).await =>
            {
                Duration::ZERO // try once more: the service answers now
            }
            Decision::GiveUp { why, .. } => return self.end(why, RUN_AGAIN),
        };
        tracing::debug!(?failure, ?wait, attempts = effort.attempts, is_load, "asked again");
        if !is_load {
            effort.waited += wait;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => After::Again,
            () = self.stop.wait() => After::End,
        }
    }

    fn end(&self, why: String, hint: &'static str) -> After {
        self.stop.because(Error::Service { why, hint: Some(hint) });
        After::End
    }

    /// Whether an item failed too often for chance.
    fn is_unlikely(&self, effort: &Effort) -> bool {
        let failures = effort.counted();
        failures >= FEWEST_FAILURES && self.evidence.chance(failures) < CHANCE
    }

    /// Reports the outage, once.
    fn tell(&self, failure: &Failure) {
        if let Some(limit) = self.slots.news() {
            self.progress.say(&format!(
                "replies time out: now at most {} in flight, more again once replies arrive in time",
                counted(limit, "request")
            ));
        }
        if let Some(lasted) = self.evidence.trouble_to_tell() {
            let (secs, patience) = (lasted.as_secs(), self.teacher.timeout_secs);
            self.progress.say(&format!(
                "waiting: no good reply for {secs} s ({}); each request is retried after up to {} s, for {patience} s in total",
                failure.why(),
                retry::LONGEST_WAIT.as_secs()
            ));
        }
    }

    /// Sends an answered question again as a probe, to see whether the service answers at all. Returns
    /// whether any request sent after `since` had a good reply.
    async fn probe(&self, since: Option<Instant>) -> bool {
        let Some(since) = since else { return false };
        let mut probes = tokio::select! {
            biased;
            () = self.stop.wait() => return false,
            probes = self.evidence.probes.lock() => probes,
        };
        let answers = || self.evidence.seen().good.is_some_and(|good| good > since);
        if answers() {
            return true;
        }
        if probes.answered >= MOST_PROBES || probes.failed_at.is_some_and(|at| at > since) {
            return false;
        }
        let Some(text) = self.answered_text() else { return false };
        let Some(transport) = &self.transport else { return false };
        let is_group = Samples::read(&text).is_some();
        let body = self.template(is_group).1.body(None, &text, &[]);
        let Some((reserved, reservation)) = self.leave_with_room(body.text_len()).await else { return false };
        self.progress.sent();
        let departed = Instant::now();
        let raw = transport.send(body).await;
        let usage = match &raw {
            Ok(raw) if (200..300).contains(&raw.status) => {
                teacher::open(self.teacher.provider, &raw.body).ok()
            }
            _ => None,
        };
        tracing::debug!(answered = usage.is_some(), "probe");
        let Some(envelope) = usage else {
            probes.failed_at = Some(Instant::now());
            self.pace.give_back(reservation);
            self.budget.charge(reserved, 0.0);
            return false;
        };
        let cost = self.cost(envelope.usage.as_ref());
        if let Some(usage) = &envelope.usage {
            self.pace.used(reservation, usage);
            self.progress.used(usage, cost);
        }
        probes.answered += 1;
        self.evidence.good(departed, None);
        // It answers no item, so it is recorded as a loss.
        self.charge(reserved, cost.unwrap_or(0.0), true).is_some()
    }

    /// Text of a question without a picture that was answered in this run or an earlier one.
    fn answered_text(&self) -> Option<Arc<str>> {
        if let Some(text) = &self.evidence.seen().answered {
            return Some(Arc::clone(text));
        }
        let text = self.cache.answered_text(&self.model, &self.prompt.version).ok().flatten();
        text.map(Into::into)
    }
}

fn no_answer(failure: &Failure) -> String {
    format!("no answer: {}", failure.why())
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

/// Status stored for a permanent failure; a damaged body counts as 502, as a gateway would report it.
pub(super) fn status_of(failure: &Failure) -> u16 {
    match failure {
        Failure::Status { status, .. } => *status,
        Failure::Unreachable(_) => 503,
        Failure::TimedOut => 504,
        Failure::Broken(_) => 502,
        Failure::Picture(_) => NOT_SENT,
    }
}
