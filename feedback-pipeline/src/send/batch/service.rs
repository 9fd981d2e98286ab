//! The calls of a batch API, each made until it succeeds or there is no point: nothing here is charged but a batch that
//! was taken, and that one is looked for before it is sent again.

use super::chunk::boundary;
use super::line::{Listed, Page, Standing};
use super::{anthropic, openai};
use crate::error::{Error, Result};
use crate::send::Session;
use crate::send::headers;
use crate::send::http::{self, HttpClient, Payload, Raw};
use crate::send::retry::{self, Decision, Effort, Failure};
use crate::store::Batch;
use crate::teacher::ServiceError;
use bytes::{Bytes, BytesMut};
use schemas::TimestampMs;
use schemas::interrupt;
use schemas::settings::Provider;
use std::time::{Duration, SystemTime};

/// By how much the service's clock may be off, in ms.
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

    /// Sends a batch that is written down; returns the service's id of it.
    pub(super) async fn submit(&self, batch: &mut Batch, body: Payload) -> Result<String> {
        let mut effort = self.effort();
        loop {
            let failure = match self.try_to_submit(batch, &body).await? {
                Ok(id) => return Ok(id),
                Err(failure) => failure,
            };
            if let Err(error) = self.wait_after(&failure, &mut effort).await {
                if is_refusal(&failure) {
                    self.session.cache.batch_closed(&batch.plan, "refused")?;
                }
                return Err(error);
            }
            // It may have been taken all the same.
            if !is_refusal(&failure)
                && let Some(id) = self.find(batch, TimestampMs::now().0).await?
            {
                return Ok(id);
            }
        }
    }

    async fn try_to_submit(&self, batch: &mut Batch, body: &Payload) -> Result<Result<String, Failure>> {
        if self.provider == Provider::Anthropic {
            let answer = self.once(self.batches(), Some((body.clone(), None))).await;
            return Ok(answer.and_then(|raw| anthropic::created(&raw.body).map_err(Failure::Broken)));
        }
        let file_id = match &batch.file_id {
            Some(id) => id.clone(),
            None => {
                let kind = format!("multipart/form-data; boundary={}", boundary(&batch.plan));
                let answer = self.once("/files", Some((body.clone(), Some(kind)))).await;
                let id = match answer.and_then(|raw| openai::created(&raw.body).map_err(Failure::Broken)) {
                    Ok(id) => id,
                    Err(failure) => return Ok(Err(failure)),
                };
                self.session.cache.batch_uploaded(&batch.plan, &id)?;
                batch.file_id.insert(id).clone()
            }
        };
        let body = Payload::Plain(openai::creation(&file_id, &batch.plan));
        let answer = self.once(self.batches(), Some((body, None))).await;
        Ok(answer.and_then(|raw| openai::created(&raw.body).map_err(Failure::Broken)))
    }

    /// Looks whether the service has a batch that was written down and sent at the latest at `sent_at_ms`.
    pub(super) async fn find(&self, batch: &Batch, sent_at_ms: i64) -> Result<Option<String>> {
        if self.provider == Provider::OpenAi && batch.file_id.is_none() {
            return Ok(None); // without its file it cannot have been taken
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
            let raw = self.call(&format!("{}?limit=100{cursor}", self.batches()), None).await?;
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

    /// Whether a batch of the list is the one that was written down. Anthropic's list tells neither names nor requests,
    /// so one that fits by time and size is told by the first of its results.
    async fn is_it(&self, batch: &Batch, listed: &Listed) -> Result<bool> {
        if let Some(plan) = &listed.plan {
            return Ok(*plan == batch.plan);
        }
        if self.provider != Provider::Anthropic
            || listed.requests != batch.requests
            || listed.created_at_ms < batch.planned_at_ms - CLOCKS_DIFFER_MS
            || self.session.cache.knows_batch(&listed.id)?
        {
            return Ok(false);
        }
        let mut wait = super::FIRST_LOOK;
        let mut standing = Standing::Running { done: 0, of: listed.requests };
        if listed.ended {
            standing = self.standing(batch, &listed.id).await?;
        }
        while let Standing::Running { .. } = standing {
            self.session.progress.say(&format!(
                "batch {} may be the one that was being sent when the last run ended; its results will tell",
                listed.id
            ));
            self.pause(wait).await?;
            wait = wait.mul_f64(1.5).min(super::LONGEST_LOOK);
            standing = self.standing(batch, &listed.id).await?;
        }
        let Standing::Ended { paths } = standing else { return Ok(false) };
        for path in paths {
            let mut lines = self.lines(&path);
            while let Some(line) = lines.next().await? {
                if let Ok(line) = anthropic::line(&line) {
                    return Ok(self.session.cache.batch_request(&batch.plan, &line.sent_key)?.is_some());
                }
            }
        }
        Ok(false)
    }

    /// How a batch stands.
    pub(super) async fn standing(&self, batch: &Batch, id: &str) -> Result<Standing> {
        let raw = self.call(&format!("{}/{id}", self.batches()), None).await?;
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
        Lines {
            service: self,
            path: path.to_owned(),
            response: None,
            buffer: BytesMut::new(),
            handed_out: 0,
            to_skip: 0,
            effort: self.effort(),
        }
    }

    /// A call with all its attempts; 404 is an answer.
    async fn call(&self, path: &str, body: Option<(Payload, Option<String>)>) -> Result<Raw> {
        let mut effort = self.effort();
        loop {
            match self.once(path, body.clone()).await {
                Ok(raw) => return Ok(raw),
                Err(failure) => self.wait_after(&failure, &mut effort).await?,
            }
        }
    }

    async fn once(&self, path: &str, body: Option<(Payload, Option<String>)>) -> Result<Raw, Failure> {
        let is_look = body.is_none();
        let call = self.transport.call(path, body);
        let raw = match is_look {
            // What is only looked at can be looked at again; what is sent is waited for.
            true => self.unless_stopped(call).await??,
            false => call.await?,
        };
        match raw.status {
            200 | 201 => Ok(raw),
            404 if is_look => Ok(raw),
            status => Err(Failure::Status {
                status,
                hints: headers::hints(raw.header_pairs(), SystemTime::now()),
                error: ServiceError::read(&raw.body),
            }),
        }
    }

    /// What `work` comes to; a failure where the run is to end first.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.session.stop.wait() => Err(Failure::Unreachable("the run ends".to_owned())),
            done = work => Ok(done),
        }
    }

    fn effort(&self) -> Effort {
        let patience = Duration::from_secs(self.session.teacher.timeout_secs);
        Effort { jitter: 0.5, ..Effort::new(patience) }
    }

    /// Waits before another attempt; an error where there should be none.
    async fn wait_after(&self, failure: &Failure, effort: &mut Effort) -> Result<()> {
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
                (why, Some("run the same command again when the service answers; nothing is bought twice"))
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

    /// An error where the run is to end.
    pub(super) fn check_stop(&self) -> Result<()> {
        if self.session.stop.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// What `work` comes to; a failure where Ctrl-C is pressed first. Whatever else ends the run, results that are paid for are
/// read to their end.
async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let interrupted = async {
        while !interrupt::noted() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        biased;
        () = interrupted => Err(Failure::Unreachable("the run ends".to_owned())),
        done = work => Ok(done),
    }
}

/// True where the service surely did not take what it was sent.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Status { status: 400..=407 | 410..=499, .. })
}

fn no_batches(why: String) -> Error {
    Error::Service { why, hint: Some("does this service have a batch API? Run without --batch") }
}

/// A file of results, line by line as it comes. Where the connection breaks it is begun again; lines that were handed
/// out are passed over.
pub(super) struct Lines<'s> {
    service: &'s Service<'s>,
    path: String,
    response: Option<http::Reply>,
    buffer: BytesMut,
    handed_out: usize,
    to_skip: usize,
    effort: Effort,
}

impl Lines<'_> {
    /// The next line that is not empty.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.try_next().await {
                Ok(line) => {
                    self.handed_out += 1;
                    return Ok(line);
                }
                Err(Failure::Status { status: 404 | 410, .. }) => {
                    let why = "the results of a batch are at the service no more".to_owned();
                    return Err(Error::Service { why, hint: Some(super::RESULTS_ARE_GONE) });
                }
                Err(failure) => {
                    (self.response, self.to_skip) = (None, self.handed_out);
                    self.buffer.clear();
                    self.service.wait_after(&failure, &mut self.effort).await?;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                if self.to_skip > 0 {
                    self.to_skip -= 1;
                    continue;
                }
                return Ok(Some(line));
            }
            if self.response.is_none() {
                let open = self.service.transport.open(&self.path);
                let response = unless_interrupted(open).await??;
                let status = response.status().as_u16();
                if status != 200 {
                    let hints = Default::default();
                    let body = response.bytes().await.unwrap_or_default();
                    return Err(Failure::Status { status, hints, error: ServiceError::read(&body) });
                }
                self.response = Some(response);
            }
            let Some(response) = &mut self.response else { return Ok(None) };
            match unless_interrupted(response.chunk()).await? {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) if self.buffer.trim_ascii().is_empty() => return Ok(None),
                Ok(None) => return Ok(Some(self.buffer.split().freeze())),
                Err(error) => return Err(Failure::Broken(http::describe(error))),
            }
        }
    }
}
