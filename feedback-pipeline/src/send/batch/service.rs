//! The calls of a batch API, each repeated until it succeeds or cannot: only an accepted batch is charged, and it is
//! looked up before it is sent again.

use super::line::{Ended, Listed, Page, Standing};
use super::lines::Lines;
use super::{anthropic, openai};
use crate::error::{Error, Result};
use crate::send::Session;
use crate::send::headers;
use crate::send::http::{HttpClient, Payload, Raw};
use crate::send::retry::{self, Decision, Effort, Failure};
use crate::send::spool::Spooled;
use crate::store::Batch;
use crate::teacher::ServiceError;
use schemas::TimestampMs;
use schemas::settings::Provider;
use std::time::{Duration, SystemTime};

/// Tolerated difference of the service's clock, in ms.
const CLOCKS_DIFFER_MS: i64 = 600_000;
/// A batch that is younger than this may not be in the service's list yet, in ms.
const LIST_LAGS_MS: i64 = 10_000;
/// Pages of the list that are looked through.
const MOST_PAGES: u32 = 100;

/// The service's batches.
#[derive(Clone, Copy)]
pub(super) struct Service<'a> {
    session: &'a Session,
    transport: &'a HttpClient,
    provider: Provider,
}

impl<'a> Service<'a> {
    pub(super) fn new(session: &'a Session, transport: &'a HttpClient) -> Self {
        Self { session, transport, provider: session.teacher.provider }
    }

    /// Address that batches are sent to.
    pub(super) fn address(&self) -> String {
        self.transport.address().root_shown()
    }

    fn batches(&self) -> &'static str {
        if self.provider == Provider::Anthropic { "/messages/batches" } else { "/batches" }
    }

    /// Sends a recorded batch; returns the service's id of it. Without `upload`, its file is there already. A batch
    /// that is surely not taken is closed.
    pub(super) async fn submit(&self, batch: &mut Batch, upload: Option<&Spooled>) -> Result<String> {
        let mut effort = self.effort();
        loop {
            let failure = match self.try_to_submit(batch, upload).await? {
                Ok(id) => return Ok(id),
                Err(failure) => failure,
            };
            if let Err(error) = self.wait_after(&failure, &mut effort).await {
                if is_refusal(&failure) {
                    self.session.cache.batch_closed(&batch.plan, "refused")?;
                }
                return Err(error);
            }
            // It may have been accepted nevertheless.
            if !is_refusal(&failure)
                && let Some(id) = self.find(batch, TimestampMs::now().0).await?
            {
                return Ok(id);
            }
        }
    }

    async fn try_to_submit(
        &self,
        batch: &mut Batch,
        upload: Option<&Spooled>,
    ) -> Result<Result<String, Failure>> {
        if let (Provider::Anthropic, Some(upload)) = (self.provider, upload) {
            let answer = self.once(self.batches(), Some(Payload::Spooled(upload.clone())));
            return Ok(made(answer, anthropic::created).await);
        }
        let file_id = match (&batch.file_id, upload) {
            (Some(id), _) => id.clone(),
            (None, Some(upload)) => {
                let (name, content) = (format!("ares-{}.jsonl", batch.plan), upload.clone());
                let file = Payload::File { purpose: "batch", name, kind: "application/jsonl", content };
                let answer = self.once("/files", Some(file));
                let id = match made(answer, openai::created).await {
                    Ok(id) => id,
                    Err(failure) => return Ok(Err(failure)),
                };
                self.session.cache.batch_uploaded(&batch.plan, &id)?;
                batch.file_id.insert(id).clone()
            }
            (None, None) => return Ok(Err(Failure::Broken("there is no file to send".to_owned()))),
        };
        let body = openai::creation(&file_id, &batch.plan);
        let answer = self.once(self.batches(), Some(Payload::Plain(body)));
        Ok(made(answer, openai::created).await)
    }

    /// Whether the service may have a batch that was written down: without its file it cannot have been accepted.
    pub(super) fn may_have(batch: &Batch) -> bool {
        batch.provider != Provider::OpenAi || batch.file_id.is_some()
    }

    /// Looks up whether the service has a recorded batch that was sent no later than `sent_at_ms`.
    pub(super) async fn find(&self, batch: &Batch, sent_at_ms: i64) -> Result<Option<String>> {
        if !Self::may_have(batch) {
            return Ok(None);
        }
        let mut wait = Duration::from_secs(1);
        loop {
            let is_listed = TimestampMs::now().0 - sent_at_ms > LIST_LAGS_MS;
            let found = self.look(batch).await?;
            if found.is_some() || is_listed {
                return Ok(found);
            }
            self.pause(wait).await?;
            wait *= 2;
        }
    }

    async fn look(&self, batch: &Batch) -> Result<Option<String>> {
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let cursor = match (self.provider, after.is_empty()) {
                (_, true) => String::new(),
                (Provider::Anthropic, false) => format!("&after_id={after}"),
                (_, false) => format!("&after={after}"),
            };
            let raw = self.get(&format!("{}?limit=100{cursor}", self.batches())).await?;
            let page = match self.provider {
                Provider::Anthropic => anthropic::page(&raw.body),
                _ => openai::page(&raw.body),
            };
            let Page { batches, next } = page.map_err(no_batches)?;
            let oldest = batches.last().map_or(i64::MIN, |batch| batch.created_at_ms);
            for listed in batches {
                if self.is_it(batch, &listed).await? {
                    return Ok(Some(listed.id));
                }
            }
            match next {
                Some(next) if oldest > batch.planned_at_ms - CLOCKS_DIFFER_MS => after = next,
                _ => return Ok(None),
            }
        }
        let why = format!("a batch that may have been sent is not among the latest {}", MOST_PAGES * 100);
        Err(Error::Service { why, hint: Some("run the same command again") })
    }

    /// Whether a batch of the list is the recorded one. Anthropic's list contains neither names nor requests, so a
    /// candidate by time and size is identified by the first of its results.
    async fn is_it(&self, batch: &Batch, listed: &Listed) -> Result<bool> {
        if let Some(plan) = &listed.plan {
            return Ok(*plan == batch.plan);
        }
        if listed.file_id.is_some() && listed.file_id == batch.file_id {
            return Ok(true);
        }
        if self.provider != Provider::Anthropic
            || listed.requests.is_some_and(|requests| requests != batch.requests)
            || listed.created_at_ms < batch.planned_at_ms - CLOCKS_DIFFER_MS
            || self.session.cache.knows_batch(&listed.id)?
        {
            return Ok(false);
        }
        let mut wait = super::FIRST_LOOK;
        let mut standing = Standing::Running { done: 0, of: batch.requests };
        if listed.ended {
            standing = self.standing(batch, &listed.id).await?;
        }
        while let Standing::Running { .. } = standing {
            self.session.progress.say(&format!(
                "batch {} may be the one that was being sent when the last run ended; its results will show",
                listed.id
            ));
            self.pause(wait).await?;
            wait = wait.mul_f64(1.5).min(super::LONGEST_LOOK);
            standing = self.standing(batch, &listed.id).await?;
        }
        let Standing::Ended(Ended { paths, .. }) = standing else { return Ok(false) };
        for path in paths {
            let mut lines = self.lines(&path);
            while let Some(line) = lines.next().await?.line() {
                if let Ok(line) = anthropic::line(&line) {
                    return Ok(self.session.cache.batch_request(&batch.plan, &line.sent_key)?.is_some());
                }
            }
        }
        Ok(false)
    }

    /// State of a batch.
    pub(super) async fn standing(&self, batch: &Batch, id: &str) -> Result<Standing> {
        let raw = self.get(&format!("{}/{id}", self.batches())).await?;
        if raw.status == 404 {
            return Ok(Standing::Gone);
        }
        let standing = match batch.provider {
            Provider::Anthropic => anthropic::standing(&raw.body),
            _ => openai::standing(&raw.body),
        };
        standing.map_err(no_batches)
    }

    /// The lines of a file of results.
    pub(super) fn lines(&self, path: &str) -> Lines<'_> {
        Lines::new(self, path)
    }

    /// Opens a file of results.
    pub(super) async fn open(&self, path: &str) -> Result<reqwest::Response, Failure> {
        self.transport.open(path).await
    }

    /// A look with all its attempts; 404 is an answer.
    async fn get(&self, path: &str) -> Result<Raw> {
        let mut effort = self.effort();
        loop {
            match self.once(path, None).await {
                Ok(raw) => return Ok(raw),
                Err(failure) => self.wait_after(&failure, &mut effort).await?,
            }
        }
    }

    async fn once(&self, path: &str, payload: Option<Payload>) -> Result<Raw, Failure> {
        let is_look = payload.is_none();
        let call = self.transport.call(path, payload);
        let raw = match is_look {
            // Reads can be repeated and may be cancelled; submissions are awaited.
            true => self.unless_stopped(call).await??,
            false => call.await?,
        };
        match raw.status {
            200..300 => Ok(raw),
            404 if is_look => Ok(raw),
            status => Err(Failure::Status {
                status,
                hints: headers::hints(raw.header_pairs(), SystemTime::now()),
                error: ServiceError::read(&raw.body),
            }),
        }
    }

    /// Result of `work`; an error if the run is stopped first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.session.stop.wait() => Err(Failure::Unreachable("the run ends".to_owned())),
            done = work => Ok(done),
        }
    }

    pub(super) fn effort(&self) -> Effort {
        let patience = Duration::from_secs(self.session.teacher.timeout_secs);
        Effort { jitter: 0.5, ..Effort::new(patience) }
    }

    /// Waits before another attempt; an error if there should be none.
    pub(super) async fn wait_after(&self, failure: &Failure, effort: &mut Effort) -> Result<()> {
        effort.attempts += 1;
        effort.failed(failure, false, false);
        let (why, hint) = match retry::decide(failure, *effort) {
            Decision::Again { after } => {
                tracing::debug!(?failure, ?after, "asked again");
                effort.waited += after;
                return self.pause(after).await;
            }
            Decision::Stop { why, hint } => (why, hint),
            Decision::Forbidden { why, hint } => (why, Some(hint)),
            Decision::Reject { reason } => {
                (reason, Some("does this service have a batch API? Run without --batch"))
            }
            Decision::GiveUp { why, .. } => {
                (why, Some("run the same command again when the service answers; nothing is paid for twice"))
            }
        };
        Err(Error::Service { why, hint })
    }

    /// Waits, unless the run is to end.
    pub(super) async fn pause(&self, time: Duration) -> Result<()> {
        tokio::select! {
            biased;
            () = self.session.stop.wait() => Err(Error::Interrupted),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// An error if the run is stopping.
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.session.stop.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The id in an answer to what was sent.
async fn made(
    answer: impl Future<Output = Result<Raw, Failure>>,
    read: fn(&[u8]) -> Result<String, String>,
) -> Result<String, Failure> {
    read(&answer.await?.body).map_err(Failure::Broken)
}

/// True if the service certainly did not accept the submission.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Status { status: 400..=407 | 410..=499, .. })
}

fn no_batches(why: String) -> Error {
    Error::Service { why, hint: Some("does this service have a batch API? Run without --batch") }
}
