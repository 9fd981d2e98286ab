//! The calls of a batch API, each repeated until it succeeds or fails permanently. Only an accepted batch is
//! charged, and it is looked up before it is sent again.

use super::line::Standing;
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

/// The service's batches.
#[derive(Clone, Copy)]
pub(super) struct Service<'a> {
    pub(super) session: &'a Session,
    transport: &'a HttpClient,
    pub(super) provider: Provider,
}

impl<'a> Service<'a> {
    pub(super) fn new(session: &'a Session, transport: &'a HttpClient) -> Self {
        Self { session, transport, provider: session.teacher.provider }
    }

    /// Address that batches are sent to.
    pub(super) fn address(&self) -> String {
        self.transport.address().root_shown()
    }

    pub(super) fn batches(&self) -> &'static str {
        if self.provider == Provider::Anthropic { "/messages/batches" } else { "/batches" }
    }

    /// Sends a recorded batch; returns the service's id. Without `upload`, its file was uploaded before. A
    /// batch that was certainly not accepted is closed.
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
            // It may still have been accepted.
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

    /// Whether the service may have a recorded batch: without an uploaded file, it cannot have been accepted.
    pub(super) fn may_have(batch: &Batch) -> bool {
        batch.provider != Provider::OpenAi || batch.file_id.is_some()
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

    /// Opens a result file.
    pub(super) async fn open(&self, path: &str) -> Result<reqwest::Response, Failure> {
        self.transport.open(path).await
    }

    /// A poll with all its attempts; 404 is an answer.
    pub(super) async fn get(&self, path: &str) -> Result<Raw> {
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

    /// Waits, unless the run is ending.
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

/// The id in the answer to a submission.
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

pub(super) fn no_batches(why: String) -> Error {
    Error::Service { why, hint: Some("does this service have a batch API? Run without --batch") }
}
