//! Requests one by one: each pending item is answered from the store, or sent within the pace and the budget.
//!
//! Items leave in the order of the tables. Of several items with the same request the first one pays, and the others
//! share its reply; this rule does not depend on timing, so an interrupted run produces the same tables.

use super::{Next, Session};
use crate::error::Result;
use crate::items::Item;
use crate::items::samples::Listed;
use crate::reply::verdict::{self, Verdict};
use crate::request::samples::Samples;
use crate::request::{Question, prompt};
use crate::store::outcome::{self, AskedWith};
use crate::store::{Ask, Member, Reply};
use crate::teacher::Usage;
use schemas::TimestampMs;
use schemas::settings::Provider;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Minimum number of open items: items that fail repeatedly must not block all others.
const FEWEST_OPEN: usize = 256;

/// How long to wait for in-flight replies after the run was stopped.
const GRACE: Duration = Duration::from_secs(30);

impl Session {
    /// Sends the pending items as decided by the plan; ends early if [`Session::stop`] is set.
    pub async fn all(self: &Arc<Self>, plan: impl Iterator<Item = Result<Next>>) {
        if let Err(error) = self.send_all(plan).await {
            self.stop.because(error);
        }
    }

    async fn send_all(self: &Arc<Self>, plan: impl Iterator<Item = Result<Next>>) -> Result<()> {
        self.keep_prompts()?;
        // Items waiting for another attempt hold no slot, so more are open than in flight; this bounds them.
        let open = Arc::new(Semaphore::new(self.slots.ceiling().saturating_mul(3).max(FEWEST_OPEN)));
        let mut tasks = JoinSet::new();
        let mut in_batches = 0;
        let fed: Result<()> = async {
            for next in plan {
                if self.stop.is_set() {
                    break;
                }
                let (question, replies, claim) = match next? {
                    Next::Send(question, replies, claim) => (question, replies, claim),
                    other => {
                        in_batches += usize::from(matches!(other, Next::InBatch(_)));
                        self.note(other, true).await?;
                        continue;
                    }
                };
                self.remember(&question)?;
                let permit = tokio::select! {
                    permit = Arc::clone(&open).acquire_owned() => permit,
                    () = self.stop.wait() => break,
                };
                // Nothing is prepared before it can be sent: waiting items stay in the tables, not in memory.
                let slot = tokio::select! {
                    slot = self.slots.slot() => slot,
                    () = self.stop.wait() => break,
                };
                // Until the service has accepted such a request, each is sent alone: it determines the dialect and the
                // rate limits, and fills the provider's prompt cache for the others.
                let has_picture = question.image().is_some();
                let goes_alone = self.transport.is_some()
                    && !self.dialects.is_accepted(has_picture && !self.is_known_to_see());
                let mut ended = self.attempts_ended.subscribe();
                let session = Arc::clone(self);
                tasks.spawn(async move {
                    session.resolve(&question, replies, Some(slot)).await;
                    drop((claim, permit));
                });
                if goes_alone {
                    tokio::select! {
                        _ = tasks.join_next() => {}
                        _ = ended.changed() => {}
                        // In a known dialect, a request counts as accepted if no refusal arrives.
                        () = tokio::time::sleep(self.refusal_takes()) => self.dialects.accept(has_picture),
                        () = self.stop.wait() => {}
                    }
                }
                while tasks.try_join_next().is_some() {}
            }
            Ok(())
        }
        .await;
        // Requests in flight are paid for, even if the run failed.
        if let Err(error) = fed {
            self.stop.because(error);
        }
        self.join(tasks).await?;
        if in_batches > 0 {
            let are = if in_batches == 1 {
                "is in a batch at the service and was"
            } else {
                "are in a batch at the service and were"
            };
            schemas::warn!("note: {} {are} skipped", self.job.counted(in_batches));
        }
        Ok(())
    }

    /// Keeps the instructions.
    pub(super) fn keep_prompts(&self) -> Result<()> {
        let several = self.questions.grouped.as_ref().map(|_| self.prompt.for_samples().text);
        for text in [Some(&self.prompt.text), several.as_ref()].into_iter().flatten() {
            self.cache.writer().prompt(&prompt::version_of(text), text)?;
        }
        Ok(())
    }

    /// Whether the catalogue lists the model as one that takes pictures.
    fn is_known_to_see(&self) -> bool {
        self.known.is_listed && self.known.takes_pictures
    }

    /// How long to wait for the refusal of a request: briefly if both the model and the rate limit are known.
    fn refusal_takes(&self) -> Duration {
        match self.known.is_listed && self.pace.requests_per_minute().is_some() {
            true => Duration::from_millis(500),
            false => Duration::from_secs(3_600),
        }
    }

    /// Records the outcome of an item for which nothing is sent; counts it as progress if it `is_news`.
    pub(super) async fn note(&self, next: Next, is_news: bool) -> Result<()> {
        match next {
            Next::Answered(question, key) => {
                // It becomes the item's latest request again.
                self.cache.writer().subject(&self.scope, self.job.round, &question.item.subject_id, key)?;
            }
            Next::Unsendable(question) => {
                self.remember(&question)?;
                return if is_news { self.keep_unsent(&question).await } else { Ok(()) };
            }
            Next::InBatch(question) | Next::Send(question, ..) => return self.remember(&question),
            Next::Shared(question) => self.remember(&question)?,
        }
        if is_news {
            self.progress.shared();
        }
        Ok(())
    }

    /// Records the request of an item.
    pub(super) fn remember(&self, question: &Question) -> Result<()> {
        for member in &question.members {
            self.remember(member)?;
        }
        if question.is_group() {
            return Ok(());
        }
        // The individual request first: it follows if the group request does not answer the item.
        self.remember_alone(question)?;
        let Some(group) = question.asked_in else { return Ok(()) };
        self.cache.writer().subject(&self.scope, self.job.round, &question.item.subject_id, group)
    }

    /// Records the individual request of an item.
    pub(super) fn remember_alone(&self, question: &Question) -> Result<()> {
        self.cache.writer().subject(&self.scope, self.job.round, &question.item.subject_id, question.key)
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
                self.progress.say("some in-flight replies did not arrive in time; they will be requested again");
            }
        }
        tasks.shutdown().await;
        // A reply that did not arrive in time may be charged, so it counts towards the budget, in later runs
        // too.
        let lost = self.stats.in_flight.load(Ordering::Relaxed) as f64 / 1e9;
        if lost > 0.0 { self.cache.writer().lost(lost) } else { Ok(()) }
    }

    /// About as many tokens as the system prompt has.
    fn prompt_tokens(&self) -> u64 {
        self.prompt.text.len() as u64 / 4
    }

    /// Note about the provider's prompt cache after a run.
    pub fn prompt_cache_note(&self) -> Option<String> {
        if self.teacher.provider != Provider::Anthropic || self.progress.attempts() < 2 {
            return None;
        }
        let (input, read, _) = self.progress.input_tokens();
        let minimum = self.known.prompt_cache_minimum?;
        let tokens = self.prompt_tokens();
        if tokens < minimum {
            let model = &self.model;
            return Some(format!(
                "the instructions have about {tokens} tokens; {model} caches prompts of {minimum} or more, so every request pays for them in full"
            ));
        }
        (read == 0).then(|| {
            format!("no reply reported tokens read from the prompt cache, out of {input} input tokens")
        })
    }

    async fn keep_unsent(&self, question: &Question) -> Result<()> {
        let Some(reason) = &question.unsent else { return Ok(()) };
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
            dialect: None,
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
            members: members(question),
        })
    }

    /// Model and version of the prompt that this run asks with.
    pub(crate) fn asked_with(&self) -> AskedWith<'_> {
        AskedWith { model: &self.model, prompt_version: &self.prompt.version }
    }

    pub(crate) fn judge(&self, item: &Item, replies: &[Reply]) -> Verdict {
        outcome::verdict(self.teacher.provider, &item.content, replies)
    }
}

/// The items of a question about several, each with a share of the cost in proportion to its listed
/// sentences.
fn members(question: &Question) -> Vec<Member> {
    let list = Samples::read(&question.text).filter(|_| question.is_group()).map(|samples| samples.list);
    let members = question.members.iter().zip(list.iter().flatten());
    let of = |(member, listed): (&Question, &Listed)| Member {
        subject_id: member.item.subject_id.clone(),
        item_key: member.key,
        weight: u32::try_from(listed.own()).unwrap_or(u32::MAX).max(1),
    };
    members.map(of).collect()
}
