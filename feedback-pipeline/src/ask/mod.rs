//! Asking what is due: every item goes once through picture → key → cache → purse → pace → Teacher → cache.
//!
//! Items leave in the order of the tables. Of several with the same request the first pays, the others share its reply;
//! that rule does not depend on timing, so a run that was killed ends in the same tables as one that was not.

mod question;
mod turn;

pub(crate) use question::Question;
pub use question::Questions;

use crate::cache::{Ask, Cache, Reply};
use crate::due::{Item, Job};
use crate::error::Result;
use crate::money::{Price, Purse};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::prompt::{self, SystemPrompt};
use crate::settled::{self, Asks};
use crate::stop::Stop;
use crate::teacher::{Key, Usage, anthropic};
use crate::transport::Transport;
use crate::verdict::{self, Verdict};
use schemas::TimestampMs;
use schemas::settings::{Provider, TeacherSettings};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long paid replies are waited for after the run was told to end.
const GRACE: Duration = Duration::from_secs(30);

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
    /// What items are asked with.
    pub questions: Questions,
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
    pub slots: Arc<Semaphore>,
    /// What the user sees.
    pub progress: Progress,
    /// Ends the run early.
    pub stop: Stop,
    /// Learned in this run.
    pub seen: Seen,
    /// Batches that are given up.
    pub abandoned: Vec<String>,
}

/// What this run has seen of the service.
#[derive(Debug, Default)]
pub struct Seen {
    pub(crate) good_replies: AtomicU64,
    /// Paid replies in an envelope that cannot be opened.
    pub(crate) unreadable: AtomicU64,
    /// Replies that told their tokens and those that did not, and the most output tokens of one.
    pub(crate) told: AtomicU64,
    pub(crate) untold: AtomicU64,
    pub(crate) longest_output: AtomicU64,
    /// Whether an earlier run had good replies to the same questions, and so few are left that all of them may be bad.
    pub(crate) good_before: bool,
    /// Most that the attempts in flight may cost, in 1e-9 dollars.
    pub(crate) in_flight: AtomicU64,
}

impl Seen {
    /// Whether the service has answered: what it refuses then is the request's fault.
    pub(crate) fn any_good(&self) -> bool {
        self.good_before || self.good_replies.load(Ordering::Relaxed) > 0
    }
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
        let mut warm = !self.template_is_worth_warming() && !self.limit_is_unknown();
        let in_batches = self.cache.keys_in_batches()?;
        let mut waiting = 0;
        let fed: Result<()> = async {
            for item in items {
                if self.stop.is_set() {
                    break;
                }
                let question = self.questions.due(item?, &self.cache)?;
                if self.is_answered_already(&question)? {
                    self.progress.shared();
                    continue;
                }
                self.cache.writer().subject(
                    &scope,
                    self.job.round,
                    &question.item.subject_id,
                    question.key,
                )?;
                if let Some(reason) = &question.unsent {
                    self.keep_unsent(&question, reason).await?;
                    continue;
                }
                if self.lies_in_batch(&question, &in_batches)? {
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
                // Nothing is made ready that could not leave: what waits here waits in the tables, not in memory.
                let slot = tokio::select! {
                    slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
                    () = self.stop.wait() => break,
                };
                let (asker, running) = (Arc::clone(self), Arc::clone(&running));
                let settle = async move {
                    asker.settle(&question, replies, slot).await;
                    lock(&running).remove(&question.key);
                    drop(permit);
                };
                tasks.spawn(settle);
                if !warm {
                    // The first request writes the provider's prompt cache for all others, and learns the limits.
                    tokio::select! {
                        _ = tasks.join_next() => {}
                        () = self.stop.wait() => {}
                    }
                    warm = true;
                }
                while tasks.try_join_next().is_some() {}
            }
            Ok(())
        }
        .await;
        // Whatever went wrong, requests in flight are paid for.
        if let Err(error) = fed {
            self.stop.because(error);
        }
        self.join(tasks).await?;
        if waiting > 0 {
            let (items, command) = (self.job.items(), self.job.command());
            schemas::warn!("note: {waiting} {items} lie in a batch at the service and were left out");
            for (provider, model) in self.cache.models_in_batches()? {
                schemas::warn!("note: to collect it: {command} --batch --teacher {provider} --model {model}");
            }
        }
        Ok(())
    }

    /// Whether an answer of this model and prompt was bought with other settings, or with a picture that went away since; it
    /// stands, and is the item's latest request again.
    pub(crate) fn is_answered_already(&self, question: &Question) -> Result<bool> {
        if self.questions.retry_rejects {
            return Ok(false);
        }
        let item = &question.item;
        let found = settled::latest(&self.cache, &self.job, item, Some(self.asks()))?;
        let Some(found) = found.filter(|found| found.ask.key != question.key) else { return Ok(false) };
        let scope = self.job.scope().into();
        self.cache.writer().subject(&scope, item.round, &item.subject_id, found.ask.key)?;
        Ok(true)
    }

    /// Whether an item's request lies in a batch at the service, with these settings or others: it is paid for. Another
    /// prompt, or another text, is another request.
    pub(crate) fn lies_in_batch(&self, question: &Question, in_batches: &HashSet<Key>) -> Result<bool> {
        if in_batches.contains(&question.key) {
            return Ok(true);
        }
        if in_batches.is_empty() {
            return Ok(false); // the usual case asks nothing of the cache
        }
        let item = &question.item;
        for key in self.cache.keys_of(&self.job.scope(), item.round, &item.subject_id)? {
            if in_batches.contains(&key)
                && let Some(ask) = self.cache.ask(&key)?
                && ask.prompt_version == self.prompt.version
                && prompt::is_about(&ask.user_text, item)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn join(&self, mut tasks: JoinSet<()>) -> Result<()> {
        let all = async { while tasks.join_next().await.is_some() {} };
        let grace = async {
            self.stop.wait().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = all => {}
            () = grace => {
                self.progress.say("not all replies in flight came in time; they are asked for again next time");
            }
        }
        tasks.shutdown().await;
        // What did not come in time may be charged; the cap must hold all the same, in later runs too.
        let lost = self.seen.in_flight.load(Ordering::Relaxed) as f64 / 1e9;
        if lost > 0.0 { self.cache.writer().lost(lost) } else { Ok(()) }
    }

    /// A prompt below the model's minimum is not cached by the provider; then there is nothing to warm.
    fn template_is_worth_warming(&self) -> bool {
        self.teacher.provider == Provider::Anthropic
            && self.prompt_tokens() >= anthropic::prompt_cache_minimum(&self.model)
    }

    /// Where nobody said how fast requests may leave, the headers of the first reply may.
    fn limit_is_unknown(&self) -> bool {
        self.transport.is_some() && self.pace.requests_per_minute().is_none()
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
            image_sha256: question.image().map(|image| image.sha256.clone()),
        })
    }

    /// Model and version of the prompt that this run asks with.
    pub(crate) fn asks(&self) -> Asks<'_> {
        Asks { model: &self.model, prompt_version: &self.prompt.version }
    }

    pub(crate) fn judge(&self, item: &Item, replies: &[Reply]) -> Verdict {
        verdict::of(self.teacher.provider, &item.content, replies)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
