//! Asking what is due: every item goes once through picture → key → cache → pace → purse → Teacher → cache.
//!
//! Items leave in the order of the tables. Of several with the same request the first pays, the others share its reply;
//! that rule does not depend on timing, so a run that was killed ends in the same tables as one that was not.

use crate::cache::{Ask, Cache, Reply};
use crate::due::{Item, Job};
use crate::error::{Error, Result};
use crate::headers;
use crate::image::{Images, Prepared, Shown};
use crate::money::{Price, Purse, SetAside};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::prompt::{self, SystemPrompt};
use crate::retry::{self, Decision, Effort, Failure};
use crate::stop::Stop;
use crate::teacher::{self, FollowUp, Key, Template, Usage, anthropic};
use crate::tokens;
use crate::transport::{Raw, Transport};
use crate::verdict::{self, Verdict};
use schemas::settings::{Provider, TeacherSettings};
use schemas::{Problem, TimestampMs};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long paid replies are waited for after the run was told to end.
const GRACE: Duration = Duration::from_secs(30);
/// A service that refuses this many attempts of a request before it took any is asked no more.
const BAD_REQUESTS_BEFORE_ANY_SUCCESS: u32 = 5;

/// What a run asks with.
pub struct Asker {
    /// What is asked for.
    pub job: Job,
    /// Who is asked, and how.
    pub teacher: TeacherSettings,
    /// Model that is asked.
    pub model: String,
    /// Instructions.
    pub prompt: SystemPrompt,
    /// The part of a request that all share.
    pub template: Template,
    /// Pictures.
    pub images: Images,
    /// Replies.
    pub cache: Cache,
    /// When the next request may leave.
    pub pace: Pace,
    /// Dollars.
    pub purse: Purse,
    /// Prices of the model.
    pub price: Option<Price>,
    /// HTTP; none for the embedded Teacher.
    pub transport: Option<Transport>,
    /// Requests that may be in flight.
    pub slots: Semaphore,
    /// What the user sees.
    pub progress: Progress,
    /// Ends the run early.
    pub stop: Stop,
    /// Learned in this run.
    pub seen: Seen,
}

/// What this run has seen of the service.
#[derive(Debug, Default)]
pub struct Seen {
    pub(crate) good_replies: AtomicU64,
    pub(crate) longest_output: AtomicU64,
}

/// An item with everything that its request needs.
pub(crate) struct Question {
    pub(crate) item: Item,
    pub(crate) key: Key,
    pub(crate) text: String,
    pub(crate) image: Option<Arc<Prepared>>,
    /// Why it cannot be sent.
    pub(crate) unsent: Option<String>,
}

impl Asker {
    /// Asks all items; ends early where [`Asker::stop`] is set.
    pub async fn all(self: &Arc<Self>, items: impl Iterator<Item = Result<Item>>) {
        if let Err(error) = self.ask_all(items).await {
            self.stop.because(error);
        }
    }

    async fn ask_all(self: &Arc<Self>, items: impl Iterator<Item = Result<Item>>) -> Result<()> {
        self.cache.writer().prompt(&self.prompt.version, &self.prompt.text)?;
        let scope: Arc<str> = self.job.scope().into();
        // Items that wait for another attempt hold no slot, so more are open than in flight; this bounds them.
        let open = Arc::new(Semaphore::new(self.slots.available_permits().saturating_mul(3)));
        let running = Arc::new(Mutex::new(HashSet::new()));
        let mut tasks = JoinSet::new();
        let mut warm = !self.template_is_worth_warming();
        let in_batches = self.cache.keys_in_batches(self.teacher.provider)?;
        let mut waiting = 0;
        for item in items {
            if self.stop.is_set() {
                break;
            }
            let question = self.question(item?)?;
            self.cache.writer().subject(&scope, self.job.round, &question.item.subject_id, question.key)?;
            if let Some(reason) = &question.unsent {
                self.keep_unsent(&question, reason).await?;
                continue;
            }
            if in_batches.contains(&question.key) {
                waiting += 1; // it is paid for already
                continue;
            }
            if !lock(&running).insert(question.key) {
                self.progress.shared();
                continue;
            }
            let replies = self.cache.replies(&question.key)?;
            if !matches!(self.judge(&question.item, &replies), Verdict::Ask(_)) {
                lock(&running).remove(&question.key);
                self.progress.shared();
                continue;
            }
            let permit = tokio::select! {
                permit = Arc::clone(&open).acquire_owned() => permit,
                () = self.stop.wait() => break,
            };
            let (asker, running) = (Arc::clone(self), Arc::clone(&running));
            let settle = async move {
                asker.settle(&question, replies).await;
                lock(&running).remove(&question.key);
                drop(permit);
            };
            if warm {
                tasks.spawn(settle);
            } else {
                settle.await; // the first request writes the provider's prompt cache for all others
                warm = true;
            }
            while tasks.try_join_next().is_some() {}
        }
        self.join(tasks).await;
        if waiting > 0 {
            eprintln!("note: {waiting} {} lie in a batch at the service and were left out", self.job.items());
            eprintln!("note: to collect it: {} --batch", self.job.command());
        }
        Ok(())
    }

    async fn join(&self, mut tasks: JoinSet<()>) {
        let all = async { while tasks.join_next().await.is_some() {} };
        let grace = async {
            self.stop.wait().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = all => {}
            () = grace => tracing::warn!("replies in flight did not come in time; they are asked for again next time"),
        }
    }

    /// A prompt below the model's minimum is not cached by the provider; then there is nothing to warm.
    fn template_is_worth_warming(&self) -> bool {
        self.teacher.provider == Provider::Anthropic
            && self.prompt_tokens() >= anthropic::prompt_cache_minimum(&self.model)
    }

    /// About as many tokens as the system prompt has.
    fn prompt_tokens(&self) -> u64 {
        self.prompt.text.len() as u64 / 4
    }

    /// What is to be said about the provider's prompt cache after a run.
    pub fn prompt_cache_note(&self) -> Option<String> {
        if self.teacher.provider != Provider::Anthropic || self.progress.attempts() < 2 {
            return None;
        }
        let (input, read, _) = self.progress.input_tokens();
        let (tokens, minimum) = (self.prompt_tokens(), anthropic::prompt_cache_minimum(&self.model));
        if tokens < minimum {
            let model = &self.model;
            return Some(format!(
                "the instructions have about {tokens} tokens; {model} caches prompts from {minimum} on, so every request pays for them in full"
            ));
        }
        (read == 0).then(|| {
            format!("no reply reported tokens read from the prompt cache, out of {input} input tokens")
        })
    }

    pub(crate) fn question(&self, item: Item) -> Result<Question> {
        // The embedded Teacher looks at no picture, so it misses none.
        let (shown, unsent) = match self.teacher.provider {
            Provider::Reference => (Shown::None, None),
            _ => match self.images.shown(&item.problem) {
                Ok(shown) => (shown, None),
                Err(reason) => (Shown::None, Some(reason)),
            },
        };
        let mut text = prompt::user_text(&item, &shown);
        if self.teacher.provider == Provider::Reference {
            // It also reads what no other Teacher is shown, so that belongs to the request.
            let Problem { solution, lecture, caption, .. } = item.problem.as_ref();
            text.push_str(&format!("\n<gold>\n{solution}\n{lecture}\n{caption}\n</gold>"));
        }
        let image = shown.picture().map(Arc::clone);
        // An audit asks anew what was asked before, so its seed belongs to the request.
        let keyed = match self.job.audit {
            Some(seed) => format!("{text}\naudit {seed}"),
            None => text.clone(),
        };
        // Without its picture an item has a request of its own that is never sent.
        let key = match &unsent {
            None => self.template.key(image.as_deref(), &keyed, &[]),
            Some(reason) => self.template.key(None, &format!("{keyed}\n{}\n{reason}", item.subject_id), &[]),
        };
        Ok(Question { item, key, text, image, unsent })
    }

    pub(crate) async fn keep_unsent(&self, question: &Question, reason: &str) -> Result<()> {
        let now = TimestampMs::now().0;
        let reply = Reply {
            turn: 0,
            sent_key: question.key,
            attempts: 0,
            status: verdict::NOT_SENT,
            headers: "{}".to_owned(),
            body: reason.to_owned().into(),
            usage: Usage::default(),
            cost_usd: Some(0.0),
            started_at_ms: now,
            replied_at_ms: now,
            latency_ms: 0,
        };
        if self.cache.replies(&question.key)?.is_empty() {
            self.cache.writer().reply(Some(self.ask_row(question)), question.key, reply).await?;
        }
        self.progress.rejected(reason);
        Ok(())
    }

    pub(crate) fn ask_row(&self, question: &Question) -> Arc<Ask> {
        Arc::new(Ask {
            key: question.key,
            scope: self.job.scope(),
            round: self.job.round,
            subject_id: question.item.subject_id.clone(),
            problem_id: question.item.problem.problem_id.clone(),
            provider: self.teacher.provider,
            model: self.model.clone(),
            prompt_version: self.prompt.version.clone(),
            user_text: question.text.clone(),
            image_sha256: question.image.as_ref().map(|image| image.sha256.clone()),
        })
    }

    pub(crate) fn judge(&self, item: &Item, replies: &[Reply]) -> Verdict {
        let replies = replies.iter().map(|reply| (reply.status, reply.body.as_ref()));
        verdict::judge(self.teacher.provider, &item.content, replies)
    }

    /// Asks until the replies amount to something, or the run ends.
    async fn settle(&self, question: &Question, mut replies: Vec<Reply>) {
        loop {
            match self.judge(&question.item, &replies) {
                Verdict::Answer(_) => return self.progress.answered(),
                Verdict::Reject { reason, .. } => return self.progress.rejected(&reason),
                Verdict::Ask(follow_ups) => {
                    if follow_ups.len() < replies.len() {
                        // A reply that an older parser could read and this one cannot: its place is taken.
                        replies.truncate(follow_ups.len());
                    }
                    match self.turn(question, &follow_ups).await {
                        Some(reply) => replies.push(reply),
                        None => return,
                    }
                }
            }
        }
    }

    /// One request with all its attempts; the reply is durable on return. None where the run ends.
    async fn turn(&self, question: &Question, follow_ups: &[FollowUp]) -> Option<Reply> {
        let body = self.template.body(question.image.as_deref(), &question.text, follow_ups);
        let picture = question.image.as_ref().map_or(0, |image| image.base64.len());
        let text_bytes = body.len().saturating_sub(picture);
        let image_tokens = question
            .image
            .as_ref()
            .map_or(0, |image| tokens::of_image(self.teacher.provider, &self.model, image.size));
        let image = question.image.as_deref();
        let sent_key = self.template.sent_key(&question.key, image, &question.text, follow_ups);
        let started_at_ms = TimestampMs::now().0;
        let patience = Duration::from_secs(self.teacher.timeout_secs);
        let mut effort = Effort { attempts: 0, waited: Duration::ZERO, patience, jitter: 0.0 };
        loop {
            let slot = tokio::select! {
                biased;
                () = self.stop.wait() => return None,
                slot = self.slots.acquire() => slot,
            };
            let reservation = tokio::select! {
                biased;
                () = self.stop.wait() => return None,
                reservation = self.pace.take(self.job.kind, text_bytes, image_tokens) => reservation,
            };
            let aside = tokio::select! {
                biased;
                () = self.stop.wait() => return None,
                aside = self.purse.set_aside(|| self.most_dollars(text_bytes, image_tokens)) => aside,
            };
            let mut aside = match aside {
                Ok(aside) => Some(aside),
                Err(error) => {
                    self.stop.because(error);
                    return None;
                }
            };
            effort.attempts += 1;
            effort.jitter = f64::from(sent_key[effort.attempts as usize % sent_key.len()]) / 255.0;
            self.progress.sent();
            let start = Instant::now();
            let outcome = self.attempt(&question.item, body.clone()).await;
            let latency = start.elapsed();
            let (status, headers, body_read, usage, rejected) = match outcome {
                Ok((raw, usage)) => {
                    self.pace.used(reservation, &usage);
                    self.seen.good_replies.fetch_add(1, Ordering::Relaxed);
                    self.seen.longest_output.fetch_max(usage.output, Ordering::Relaxed);
                    (200, raw.headers_json(), raw.body, usage, None)
                }
                Err((raw, failure)) => {
                    // A paid reply holds its slot until it is durable, so that no more than the slots can be lost.
                    drop(slot);
                    self.pace.give_back(reservation);
                    self.settle_dollars(&mut aside, 0.0);
                    match self.after(&failure, &mut effort).await {
                        After::Again => continue,
                        After::End => return None,
                        After::Keep(reason) => {
                            let (headers, body) = raw.map_or_else(
                                || ("{}".to_owned(), bytes::Bytes::from(reason.clone())),
                                |raw| (raw.headers_json(), raw.body),
                            );
                            (status_of(&failure), headers, body, Usage::default(), Some(()))
                        }
                    }
                }
            };
            let reply = Reply {
                turn: follow_ups.len() as u32,
                sent_key,
                attempts: effort.attempts,
                status,
                headers,
                body: body_read,
                usage,
                cost_usd: if rejected.is_some() {
                    Some(0.0)
                } else {
                    self.price.map(|price| price.cost(&usage))
                },
                started_at_ms,
                replied_at_ms: TimestampMs::now().0,
                latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
            };
            let ask = follow_ups.is_empty().then(|| self.ask_row(question));
            let kept = self.cache.writer().reply(ask, question.key, reply.clone()).await;
            if rejected.is_none() {
                self.progress.used(&usage, reply.cost_usd);
                self.settle_dollars(&mut aside, reply.cost_usd.unwrap_or(0.0));
            }
            if let Err(error) = kept {
                self.stop.because(error);
                return None;
            }
            return Some(reply);
        }
    }

    fn settle_dollars(&self, aside: &mut Option<SetAside>, cost: f64) {
        if let Some(aside) = aside.take() {
            self.purse.settle(aside, cost);
        }
    }

    /// The most that an attempt may cost: replies as long as the limit until some were seen, then a quarter longer than
    /// the longest.
    fn most_dollars(&self, text_bytes: usize, image_tokens: u64) -> f64 {
        let Some(price) = self.price else { return 0.0 };
        let (input, _) = self.pace.expect(self.job.kind, text_bytes, image_tokens);
        let limit = f64::from(self.teacher.max_output_tokens);
        let output = match self.seen.good_replies.load(Ordering::Relaxed) {
            0..20 => limit,
            _ => (self.seen.longest_output.load(Ordering::Relaxed) as f64 * 1.25 + 8.0).min(limit),
        };
        (input * 1.25 * price.input.max(price.cache_write) + output * price.output) / 1e6
    }

    async fn attempt(&self, item: &Item, body: bytes::Bytes) -> Result<(Raw, Usage), (Option<Raw>, Failure)> {
        let Some(transport) = &self.transport else {
            let body = teacher::embedded_answer(item).into();
            return Ok((Raw { status: 200, headers: Default::default(), body }, Usage::default()));
        };
        let raw = transport.send(body).await.map_err(|failure| (None, failure))?;
        self.pace.learn(&headers::limits(raw.header_pairs()));
        if raw.status == 200 {
            return match teacher::open(self.teacher.provider, &raw.body) {
                Ok(envelope) => Ok((raw, envelope.usage)),
                Err(why) => Err((None, Failure::Broken(why))),
            };
        }
        let hints = headers::hints(raw.header_pairs(), SystemTime::now());
        if raw.status == 429 {
            self.progress.refused();
            self.pace.refused(hints.retry_after);
        }
        let error = teacher::ServiceError::read(&raw.body);
        let failure = Failure::Status { status: raw.status, hints, error };
        Err((Some(raw), failure))
    }

    /// What a failed attempt leads to; waits where it is to be made again.
    async fn after(&self, failure: &Failure, effort: &mut Effort) -> After {
        let any_success = self.seen.good_replies.load(Ordering::Relaxed) > 0;
        let wait = match retry::decide(failure, *effort) {
            Decision::Again { after } => after,
            Decision::Reject { reason } if any_success => return After::Keep(reason),
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
            Decision::GiveUp { why } if any_success && !matches!(failure, Failure::Unreachable(_)) => {
                return After::Keep(format!("no answer: {why}"));
            }
            Decision::GiveUp { why } => {
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
enum After {
    Again,
    End,
    Keep(String),
}

/// Status under which a failure for good is stored; a body that came broken counts as 502, as a gateway would say it.
fn status_of(failure: &Failure) -> u16 {
    match failure {
        Failure::Status { status, .. } => *status,
        Failure::Unreachable(_) => 503,
        Failure::Broken(_) => 502,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
