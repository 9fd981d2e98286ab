//! One item's requests: attempts until a reply is durable, replies until there is a verdict.

use super::Session;
use crate::error::Error;
use crate::items::Item;
use crate::reply::verdict::Verdict;
use crate::request::Question;
use crate::request::samples::Samples;
use crate::request::tokens;
use crate::send::budget::{Cost, ReservedDollars};
use crate::send::fault::{After, status_of};
use crate::send::headers;
use crate::send::http::Raw;
use crate::send::in_flight::Slot;
use crate::send::pace::Reservation;
use crate::send::retry::{Effort, Failure};
use crate::store::{Attempt, Reply};
use crate::teacher::catalogue::Price;
use crate::teacher::{self, Body, FollowUp, Key, Refusal, Template, Unopened, Usage};
use schemas::TimestampMs;
use schemas::number::counted;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Number of replies after which the longest one is used to predict the length of others.
const ENOUGH_REPLIES: u64 = 20;

/// Number of unreadable paid replies, before any readable one, after which the run stops.
const UNREADABLE_BEFORE_ANY_SUCCESS: u64 = 10;

impl Session {
    /// Sends requests until there is a verdict on each item of a question, or the run ends.
    pub(super) async fn resolve(&self, question: &Question, replies: Vec<Reply>, slot: Option<Slot>) {
        match question.is_group() {
            true => self.resolve_group(question, slot).await,
            false => self.resolve_one(question, replies, slot).await,
        }
    }

    pub(super) async fn resolve_one(
        &self,
        question: &Question,
        mut replies: Vec<Reply>,
        mut slot: Option<Slot>,
    ) {
        loop {
            match self.judge(&question.item, &replies) {
                Verdict::Ask(follow_ups) => match self.turn(question, &follow_ups, &mut slot).await {
                    Some(reply) => replies.push(reply),
                    None => return,
                },
                verdict => return self.count(&verdict),
            }
        }
    }

    /// Counts the outcome of an item that was sent.
    pub(super) fn count(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Answer(_) => {
                self.has_answer();
                self.rejects.answered();
                self.progress.answered();
            }
            Verdict::Reject { reason, .. } => {
                if let Some(error) = self.rejects.rejected(reason) {
                    self.stop.because(error);
                }
                self.progress.rejected(reason);
            }
            Verdict::Ask(_) | Verdict::Missing { .. } => {}
        }
    }

    /// One request with all its attempts; the reply is durable on return. `None` if the run ends. The first
    /// attempt uses `first` if it holds a slot.
    pub(super) async fn turn(
        &self,
        question: &Question,
        follow_ups: &[FollowUp],
        first: &mut Option<Slot>,
    ) -> Option<Reply> {
        let image = question.image();
        let image_tokens = image
            .map_or(0, |image| tokens::of_picture(&self.known, &self.dialects.spoken().dialect, image.size));
        let started_at_ms = TimestampMs::now().0;
        let mut effort = Effort::new(Duration::from_secs(self.teacher.timeout_secs));
        loop {
            let mut slot = self.slot(first).await?;
            // Created for each attempt, so that waiting items hold no copy of the instructions.
            let (lessons, template) = self.template(question.is_group());
            let sent_key = self.sent_key(question, follow_ups, lessons, &template);
            let body = template.body(image, &question.text, follow_ups);
            let text_bytes = body.text_len();
            let (reserved, reservation) = self.leave(text_bytes, image_tokens, question.is_group()).await?;
            effort.attempts += 1;
            effort.jitter = f64::from(sent_key[effort.attempts as usize % sent_key.len()]) / 255.0;
            let most = self.dollars(text_bytes, image_tokens, question.is_group()).most;
            self.progress.sent();
            slot.departs();
            let in_flight = self.in_flight(most);
            let start = Instant::now();
            let outcome = self.attempt(question, body).await;
            let latency = start.elapsed();
            let mut reply = Reply {
                turn: follow_ups.len() as u32,
                sent_key,
                attempts: effort.attempts,
                status: 200,
                headers: "{}".to_owned(),
                body: bytes::Bytes::new(),
                usage: Usage::default(),
                cost_usd: Some(0.0),
                started_at_ms,
                replied_at_ms: TimestampMs::now().0,
                latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
                dialect: Some(template.dialect().to_string()),
            };
            match outcome {
                Ok((raw, usage)) => {
                    self.dialects.accept(image.is_some());
                    self.attempts_ended.send_modify(|ended| *ended += 1);
                    (reply.headers, reply.body) = (raw.headers_json(), raw.body);
                    reply.cost_usd = self.cost(usage.as_ref());
                    reply.usage = usage.unwrap_or_default();
                    if let Some(usage) = &usage {
                        self.pace.used(reservation, usage);
                        self.progress.used(usage, reply.cost_usd);
                    }
                    let charged = reply.cost_usd.unwrap_or(most);
                    self.charge(reserved, charged, reply.cost_usd.is_none())?;
                    self.answered(&mut slot, question, effort.attempts);
                    // The slot is held until the reply is durable, so no more replies than slots can be lost.
                    let kept = self.keep(question, reply, in_flight).await;
                    drop(slot);
                    return kept;
                }
                Err((raw, failure)) => {
                    self.pace.give_back(reservation);
                    // A damaged or late reply may have been charged; it counts towards the budget, in later
                    // runs too.
                    let may_be_charged = matches!(failure, Failure::Broken(_) | Failure::TimedOut);
                    let reply_body = raw.as_ref().filter(|raw| raw.is_reply()).map(|raw| &raw.body);
                    let told = reply_body.and_then(|body| teacher::usage_of_unreadable(body));
                    let charged = match (may_be_charged, told) {
                        (true, _) => most,
                        (false, told) => told.and_then(|usage| self.cost(Some(&usage))).unwrap_or(0.0),
                    };
                    match raw.as_ref().filter(|raw| raw.is_reply()) {
                        // Every reply is durable before it is acted on.
                        Some(raw) => {
                            self.budget.charge(reserved, charged);
                            self.keep_unusable(question, &reply, raw, charged).await?;
                        }
                        None => self.charge(reserved, charged, may_be_charged)?,
                    }
                    self.no_longer_in_flight(in_flight);
                    match self.learn(&failure, lessons, image.is_some(), question.is_group()) {
                        Some(After::Again) => {
                            effort.attempts -= 1; // not the item's fault
                            continue;
                        }
                        Some(_) => return None,
                        None => self.attempts_ended.send_modify(|ended| *ended += 1),
                    }
                    let reason = match self.after(slot, &failure, &mut effort).await {
                        After::Again => continue,
                        After::End => return None,
                        After::Keep(reason) => reason,
                    };
                    reply.status = status_of(&failure);
                    (reply.headers, reply.body) = match raw {
                        // An unreadable reply is stored together with the reason.
                        Some(raw) if matches!(failure, Failure::Broken(_)) => (raw.as_json(), reason.into()),
                        Some(raw) => (raw.headers_json(), raw.body),
                        None => (reply.headers, reason.into()),
                    };
                    return self.keep(question, reply, Dollars(0)).await;
                }
            }
        }
    }

    /// Key of the request that is sent: that of the item's request, unless the dialect has changed or it
    /// follows earlier replies.
    pub(super) fn sent_key(
        &self,
        question: &Question,
        follow_ups: &[FollowUp],
        lessons: u32,
        template: &Template,
    ) -> Key {
        match (follow_ups, lessons) {
            ([], 0) => question.key,
            _ => template.key(question.image(), &question.text, follow_ups),
        }
    }

    /// What a refusal implies for the request's dialect, after this many lessons; `None` if nothing.
    pub(super) fn learn(
        &self,
        failure: &Failure,
        lessons: u32,
        has_picture: bool,
        is_group: bool,
    ) -> Option<After> {
        let Failure::Status { status, error, .. } = failure else { return None };
        let (why, hint) =
            match self.dialects.refuse(lessons, *status, error, has_picture, self.is_long(is_group)) {
                Refusal::Other => return None,
                Refusal::Again(what) => {
                    if let Some(what) = what {
                        self.progress.say(&format!("{what}: the service answered HTTP {status}, {error}"));
                    }
                    return Some(After::Again);
                }
                Refusal::Pinned(setting) => (
                    format!("{setting} is set, and the service refuses it: HTTP {status}, {error}"),
                    "unset it, or choose another --model",
                ),
                Refusal::CannotSee => (
                    format!("{} cannot see pictures: HTTP {status}, {error}", self.model),
                    "choose a --model that can; no item is asked without its picture",
                ),
            };
        self.stop.because(Error::Service { why, hint: Some(hint) });
        Some(After::End)
    }

    /// A slot for a request in flight: `first`, if it has one.
    async fn slot(&self, first: &mut Option<Slot>) -> Option<Slot> {
        if let Some(slot) = first.take() {
            return Some(slot);
        }
        tokio::select! {
            biased;
            () = self.stop.wait() => None,
            slot = self.slots.slot() => Some(slot),
        }
    }

    /// The same for an optional request: `None` if the budget does not allow it.
    pub(super) async fn leave_with_room(&self, text_bytes: usize) -> Option<(ReservedDollars, Reservation)> {
        if self.dollars(text_bytes, 0, true).most > self.budget.room() {
            return None;
        }
        self.leave(text_bytes, 0, true).await
    }

    /// Budget and rate limit of an attempt. The budget comes first: if requests waited for the budget with a
    /// rate reservation, they would later leave in a burst.
    async fn leave(
        &self,
        text_bytes: usize,
        image_tokens: u64,
        is_group: bool,
    ) -> Option<(ReservedDollars, Reservation)> {
        let reserved = tokio::select! {
            biased;
            () = self.stop.wait() => return None,
            reserved = self.budget.reserve(|| self.dollars(text_bytes, image_tokens, is_group)) => reserved,
        };
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(error) => {
                self.stop.because(error);
                return None;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.wait() => None,
            reservation = self.pace.take(self.job.kind, text_bytes, image_tokens) => Some((reserved, reservation)),
        }
    }

    /// Stores a reply; it is durable on return. `None` if the write fails.
    async fn keep(&self, question: &Question, reply: Reply, in_flight: Dollars) -> Option<Reply> {
        let ask = (reply.turn == 0).then(|| self.ask_row(question));
        let kept = self.cache.writer().reply(ask, question.key, reply.clone());
        // There is no await between this and the first poll, which hands the reply over.
        self.no_longer_in_flight(in_flight);
        match kept.await {
            Ok(()) => Some(reply),
            Err(error) => {
                self.stop.because(error);
                None
            }
        }
    }

    /// Stores an unusable reply unchanged; it is durable on return. `None` if the write fails.
    async fn keep_unusable(&self, question: &Question, reply: &Reply, raw: &Raw, charged: f64) -> Option<()> {
        let attempt = Attempt {
            request_key: question.key,
            turn: reply.turn,
            sent_key: reply.sent_key,
            status: raw.status,
            headers: raw.headers_json(),
            body: raw.body.clone(),
            received_at_ms: reply.replied_at_ms,
            likely_usd: self.price.as_ref().map(|_| charged),
        };
        match self.cache.writer().unusable(attempt).await {
            Ok(()) => Some(()),
            Err(error) => {
                self.stop.because(error);
                None
            }
        }
    }

    /// The cost of a reply; `None` if it is unknown.
    pub(crate) fn cost(&self, usage: Option<&Usage>) -> Option<f64> {
        cost_at(self.price.as_ref(), usage)
    }

    /// Registers an attempt that may cost this much.
    fn in_flight(&self, most: f64) -> Dollars {
        let dollars = Dollars((most * 1e9).ceil() as u64);
        self.stats.in_flight.fetch_add(dollars.0, Ordering::Relaxed);
        dollars
    }

    /// The attempt is no longer in flight.
    fn no_longer_in_flight(&self, Dollars(nano): Dollars) {
        self.stats.in_flight.fetch_sub(nano, Ordering::Relaxed);
    }

    /// Charges an attempt. A charge without a reply counts in later runs too.
    pub(super) fn charge(&self, reserved: ReservedDollars, charged: f64, is_lost: bool) -> Option<()> {
        self.budget.charge(reserved, charged);
        if is_lost
            && charged > 0.0
            && let Err(error) = self.cache.writer().lost(charged)
        {
            self.stop.because(error);
            return None;
        }
        Some(())
    }
    /// Tokens of the longest reply of this run, if there are enough.
    pub(crate) fn longest_output(&self) -> Option<u64> {
        let seen = self.stats.told.load(Ordering::Relaxed) >= ENOUGH_REPLIES;
        seen.then(|| self.stats.longest_output.load(Ordering::Relaxed))
    }

    /// The possible cost of an attempt: at most with a reply as long as the limit, and likely with one no
    /// more than a quarter longer than the longest so far.
    fn dollars(&self, text_bytes: usize, image_tokens: u64, is_group: bool) -> Cost {
        let Some(price) = &self.price else { return Cost { most: 0.0, likely: 0.0 } };
        let (input, _) = self.pace.expect(self.job.kind, text_bytes, image_tokens);
        let limit = self.reply_limit(is_group);
        let longest = self.longest_output().map_or(limit, |longest| (longest as f64 * 1.25 + 8.0).min(limit));
        let with = |output: f64| price.most(input * 1.25, output);
        Cost { most: with(limit), likely: with(longest) }
    }

    async fn attempt(
        &self,
        question: &Question,
        body: Body,
    ) -> Result<(Raw, Option<Usage>), (Option<Raw>, Failure)> {
        let Some(transport) = &self.transport else {
            let body = embedded_answer(question, self.questions.reasons).into();
            let usage = Some(Usage::default());
            self.saw_good(usage.as_ref());
            return Ok((Raw { status: 200, headers: Default::default(), body }, usage));
        };
        let sent = tokio::time::Instant::now();
        let raw = transport.send(body).await.map_err(|failure| (None, failure))?;
        self.pace.learn(&headers::limits(raw.header_pairs(), transport.counts_by_the_minute()));
        let (status, error) = match raw.is_reply() {
            true => match self.paid_usage(&raw.body) {
                Ok(usage) => return Ok((raw, usage)),
                Err(Unopened::NotAReply(why)) => return Err((Some(raw), Failure::Broken(why))),
                Err(Unopened::Error { status, error }) => (status, error),
            },
            false => {
                let error = teacher::ServiceError::read(&raw.body);
                (error.effective_status(raw.status), error)
            }
        };
        let hints = headers::hints(raw.header_pairs(), SystemTime::now());
        if status == 429 {
            self.progress.refused();
            self.pace.refused(hints.retry_after, sent.elapsed());
        }
        Err((Some(raw), Failure::Status { status, hints, error }))
    }

    /// Usage of a paid reply, if reported; the reply is counted. A reply in an unexpected envelope was paid
    /// for too, and a later version may be able to read it; but if the first replies of a service are all of
    /// that kind, the run stops.
    ///
    /// # Errors
    /// If the reply is incomplete or contains an error: requesting it again may succeed.
    pub(crate) fn paid_usage(&self, body: &[u8]) -> Result<Option<Usage>, Unopened> {
        let why = match teacher::open(self.teacher.provider, body) {
            Ok(envelope) => {
                self.saw_good(envelope.usage.as_ref());
                return Ok(envelope.usage);
            }
            Err(why) => why,
        };
        if matches!(why, Unopened::Error { .. }) {
            return Err(why);
        }
        let Some(usage) = teacher::usage_of_unreadable(body) else { return Err(why) };
        let unreadable = self.stats.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        let any_good = self.stats.any_good();
        if unreadable >= UNREADABLE_BEFORE_ANY_SUCCESS && !any_good {
            let hint = Some("is this the API that --teacher names? The replies are kept");
            let why = format!("{}, none readable: {why}", counted(unreadable, "reply"));
            self.stop.because(Error::Service { why, hint });
        }
        Ok(Some(usage))
    }

    /// Counts a reply towards the service statistics.
    fn saw_good(&self, usage: Option<&Usage>) {
        self.stats.good_replies.fetch_add(1, Ordering::Relaxed);
        let Some(usage) = usage else {
            let is_first = self.stats.without_usage.fetch_add(1, Ordering::Relaxed) == 0;
            if is_first && self.price.as_ref().is_some_and(|price| !price.is_free()) {
                self.progress.say(
                    "replies contain no usage data: their cost is unknown, and --max-usd assumes the \
                     maximum",
                );
            }
            return;
        };
        self.stats.told.fetch_add(1, Ordering::Relaxed);
        self.stats.longest_output.fetch_max(usage.output, Ordering::Relaxed);
    }
}

/// The embedded Teacher's reply to a question.
fn embedded_answer(question: &Question, reasons: bool) -> Vec<u8> {
    match Samples::read(&question.text).filter(|_| question.is_group()) {
        Some(samples) => {
            let items: Vec<&Item> = question.members.iter().map(|member| &member.item).collect();
            teacher::embedded_answer_to_samples(&items, samples.asked_for(), reasons)
        }
        None => teacher::embedded_answer(&question.item, reasons),
    }
}

/// The cost of a reply at a price; `None` if it is unknown.
pub(super) fn cost_at(price: Option<&Price>, usage: Option<&Usage>) -> Option<f64> {
    match usage {
        Some(usage) => price.map(|price| price.cost(usage)),
        None => price.filter(|price| price.is_free()).map(|_| 0.0),
    }
}

/// 1e-9 dollars.
struct Dollars(u64);
