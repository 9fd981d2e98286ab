//! Asking what is due: every item goes once through picture → key → cache → pace → purse → Teacher → cache.
//!
//! Items leave in the order of the tables. Of several with the same request the first pays, the others share its reply;
//! that rule does not depend on timing, so a run that was killed ends in the same tables as one that was not.

mod turn;

use crate::cache::{Ask, Cache, Reply};
use crate::collect::{self, Asks};
use crate::due::{Item, Job};
use crate::error::Result;
use crate::image::{Images, Prepared, Shown};
use crate::money::{Price, Purse};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::prompt::{self, SystemPrompt};
use crate::stop::Stop;
use crate::teacher::{Key, Template, Usage, anthropic};
use crate::transport::Transport;
use crate::verdict::{self, Verdict};
use schemas::settings::{Provider, TeacherSettings};
use schemas::{Problem, TimestampMs};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
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
    pub slots: Arc<Semaphore>,
    /// What the user sees.
    pub progress: Progress,
    /// Ends the run early.
    pub stop: Stop,
    /// Learned in this run.
    pub seen: Seen,
    /// Whether what was rejected is asked anew.
    pub retry_rejects: bool,
    /// Batches that are given up.
    pub abandoned: Vec<String>,
}

/// What this run has seen of the service.
#[derive(Debug, Default)]
pub struct Seen {
    pub(crate) good_replies: AtomicU64,
    /// Paid replies in an envelope that cannot be opened.
    pub(crate) unreadable: AtomicU64,
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
        let mut warm = !self.template_is_worth_warming() && !self.limit_is_unknown();
        let in_batches = self.cache.keys_in_batches(self.teacher.provider)?;
        let mut waiting = 0;
        let fed: Result<()> = async {
            for item in items {
                if self.stop.is_set() {
                    break;
                }
                let question = self.due_question(item?)?;
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
                if in_batches.contains(&question.key) {
                    waiting += 1; // it is paid for already
                    continue;
                }
                if !lock(&running).insert(question.key) {
                    self.progress.shared();
                    continue;
                }
                let replies = self.cache.replies(&question.key)?;
                if !matches!(self.judge(&question.item, &replies), Verdict::Ask(_))
                    || self.is_answered_already(&question)?
                {
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
                if warm {
                    tasks.spawn(settle);
                } else {
                    settle.await; // the first request writes the provider's prompt cache for all others, and learns the limits
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
        self.join(tasks).await;
        if waiting > 0 {
            eprintln!("note: {waiting} {} lie in a batch at the service and were left out", self.job.items());
            eprintln!("note: to collect it: {} --batch", self.job.command());
        }
        Ok(())
    }

    /// Whether a run that was cut off bought an answer of this model and prompt with other settings; it stands.
    pub(crate) fn is_answered_already(&self, question: &Question) -> Result<bool> {
        if self.retry_rejects {
            return Ok(false);
        }
        let found = collect::settled(&self.cache, &self.job, &question.item, Some(self.asks()))?;
        Ok(found.is_some_and(|settled| settled.ask.key != question.key))
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

    /// The question that an item is due with: another than one whose reply was rejected, where such are asked anew.
    pub(crate) fn due_question(&self, item: Item) -> Result<Question> {
        let mut question = self.question(item)?;
        while self.retry_rejects && question.unsent.is_none() {
            let replies = self.cache.replies(&question.key)?;
            if !matches!(self.judge(&question.item, &replies), Verdict::Reject { .. }) {
                break;
            }
            // The same for whoever asks after the same reject, so that a run that was killed goes on with it.
            let mut hash = Sha256::new();
            hash.update(b"asked anew after ");
            hash.update(question.key);
            question.key = hash.finalize().into();
        }
        Ok(question)
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

    /// Model and version of the prompt that this run asks with.
    pub(crate) fn asks(&self) -> Asks<'_> {
        Asks { model: &self.model, prompt_version: &self.prompt.version }
    }

    pub(crate) fn judge(&self, item: &Item, replies: &[Reply]) -> Verdict {
        let replies = replies.iter().map(|reply| (reply.status, reply.body.as_ref()));
        verdict::judge(self.teacher.provider, &item.content, replies)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
