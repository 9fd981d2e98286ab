//! A result file, line by line as it arrives.

use super::service::Service;
use crate::error::Result;
use crate::send::http;
use crate::send::retry::{Effort, Failure};
use crate::teacher::ServiceError;
use bytes::{Bytes, BytesMut};
use schemas::interrupt;
use std::time::Duration;

/// The next part of a result file.
pub(super) enum Next {
    /// A line that is not empty.
    Line(Bytes),
    /// The end of the file.
    End,
    /// The file does not exist, or does not exist yet.
    NotThere,
}

impl Next {
    /// The line, if there is one.
    pub(super) fn line(self) -> Option<Bytes> {
        match self {
            Self::Line(line) => Some(line),
            Self::End | Self::NotThere => None,
        }
    }
}

/// A file of results. If the connection breaks, the download starts over, and lines that were already
/// returned are skipped.
pub(super) struct Lines<'s> {
    service: &'s Service<'s>,
    path: String,
    response: Option<http::Reply>,
    buffer: BytesMut,
    handed_out: usize,
    to_skip: usize,
    effort: Effort,
}

impl<'s> Lines<'s> {
    /// The lines of the file at an API path.
    pub(super) fn new(service: &'s Service<'s>, path: &str) -> Self {
        Self {
            service,
            path: path.to_owned(),
            response: None,
            buffer: BytesMut::new(),
            handed_out: 0,
            to_skip: 0,
            effort: service.effort(),
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// If the file cannot be read to its end.
    pub(super) async fn next(&mut self) -> Result<Next> {
        loop {
            match self.try_next().await {
                Ok(Some(line)) => {
                    self.handed_out += 1;
                    return Ok(Next::Line(line));
                }
                Ok(None) => return Ok(Next::End),
                Err(Failure::Status { status: 404 | 410, .. }) => return Ok(Next::NotThere),
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
                let open = self.service.open(&self.path);
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
                Ok(None) if self.to_skip > 0 => return Ok(None), // it was returned before
                Ok(None) => return Ok(Some(self.buffer.split().freeze())),
                Err(error) => return Err(Failure::Broken(http::describe(error))),
            }
        }
    }
}

/// Result of `work`; an error if Ctrl-C is pressed first. If the run ends for another reason, paid results
/// are still read completely.
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
