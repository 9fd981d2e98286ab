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
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A service that refuses this many requests before it accepted any is asked no more.
const BAD_REQUESTS_BEFORE_ANY_SUCCESS: u32 = 5;
/// Attempts after a refusal that may concern the key or the item, until other requests decide.
const MOST_FORBIDDEN: u32 = 5;
/// Failures before which an item is not blamed.
const FEWEST_FAILURES: u32 = 6;
/// Number of times the service answered others between two failures of an item, before the item is blamed early.
const FEWEST_CONTRADICTIONS: u32 = 3;
/// Maximum probability of a series of failures, by the fraction of first attempts that fail, before the item is blamed
/// early.
const CHANCE: f64 = 1e-4;
/// Minimum assumed fraction of failures.
const LEAST_SHARE: f64 = 0.05;
/// Answered probes of one run.
const MOST_PROBES: u32 = 12;
/// Failures of an item before one that was answered is asked again to tell.
const FAILURES_BEFORE_PROBE: u32 = 4;
/// Longest wait of an item that fails while the service answers others.
const WHILE_OTHERS_ANSWER: Duration = Duration::from_secs(2);
/// Time without a good reply after which the outage is reported.
const TROUBLE: Duration = Duration::from_secs(10);

const RUN_AGAIN: &str = "run the same command again when the service answers; nothing is paid for twice";
const ALL_REFUSED: &str =
    "every request so far was refused: check --model, --base-url and the settings of [teacher]";

/// Evidence of a run about whose fault a failure is.
#[derive(Debug, Default)]
pub struct Evidence {
    state: Mutex<Seen>,
    /// Whether an item has a usable answer.
    has_answer: AtomicBool,
    probes: tokio::sync::Mutex<Probes>,
    /// Requests that were refused before any was accepted.
    refused: AtomicU32,
}

#[derive(Debug, Default)]
struct Probes {
    answered: u32,
    failed_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the latest request with a good reply was sent.
    good: Option<Instant>,
    /// First attempts, and those that failed, of about the last 200.
    first_attempts: (f64, f64),
    /// Text of a question without a picture that was answered.
    answered: Option<Arc<str>>,
    /// When failures began after the last good reply, and whether that was reported.
    trouble: Option<(Instant, bool)>,
}

impl Evidence {
    /// Counts a request that was refused before any was accepted; returns how many there are.
    fn refused_before_any(&self) -> u32 {
        self.refused.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request sent at `departed` has a good reply. Returns whether that ends a reported outage.
    fn good(&self, departed: Instant, question: Option<&Question>) -> bool {
        let mut seen = self.seen();
        seen.good = seen.good.max(Some(departed));
        if seen.answered.is_none() {
            let plain = question.filter(|question| question.image().is_none());
            seen.answered = plain.map(|question| question.text.as_str().into());
        }
        seen.trouble.take().is_some_and(|(_, told)| told)
    }

    /// Counts a first attempt.
    fn first_attempt(&self, failed: bool) {
        let mut seen = self.seen();
        let (all, bad) = seen.first_attempts;
        let kept = 1.0 - 1.0 / 200.0;
        seen.first_attempts = (all * kept + 1.0, bad * kept + f64::from(u8::from(failed)));
    }

    /// An attempt failed. Returns whether a request sent after `before` has had a good reply.
    fn failed(&self, before: Option<Instant>) -> bool {
        let mut seen = self.seen();
        seen.trouble.get_or_insert((Instant::now(), false));
        before.is_some_and(|before| seen.good.is_some_and(|good| good > before))
    }

    /// Probability of so many failures in a row by chance.
    fn chance(&self, failures: u32) -> f64 {
        let (all, bad) = self.seen().first_attempts;
        (bad / all.max(1.0)).max(LEAST_SHARE).powf(f64::from(failures))
    }

    /// An outage that has lasted and was not reported yet.
    fn trouble_to_tell(&self) -> Option<Duration> {
        let mut seen = self.seen();
        let (since, told) = seen.trouble.as_mut()?;
        let lasted = since.elapsed();
        (lasted >= TROUBLE && !std::mem::replace(told, *told || lasted >= TROUBLE)).then_some(lasted)
    }
}

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

    /// An item has a usable answer: the settings are right, and more requests may be in flight.
    pub(super) fn has_answer(&self) {
        if !self.evidence.has_answer.swap(true, Ordering::Relaxed) {
            self.slots.prove(self.pace.requests_per_minute().is_some());
        }
    }

    /// What follows a failed attempt, which had `slot`; waits without the slot if it is to be repeated.
    pub(super) async fn after(&self, slot: Slot, failure: &Failure, effort: &mut Effort) -> After {
        let is_load = slot.failed(failure);
        if let Failure::Picture(why) = failure {
            return After::Keep(why.clone()); // the item's own fault, whatever happens to others
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
            // The very first requests are refused: their fault, or that of the settings? Others will show.
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
            // A first refusal that speaks of rights is about the key.
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
                Duration::ZERO // once more: the service answers now
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
                "replies time out: at most {limit} requests in flight from here on, more again once replies arrive in time"
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

    /// Asks an answered question again, to see whether the service answers at all. Returns whether any request sent
    /// after `since` had a good reply.
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
        assert!(evidence.chance(6) < CHANCE);
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
