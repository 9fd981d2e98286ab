//! The only thread that writes to `feedback.sqlite`, with many changes per commit.

use super::apply::apply;
use super::error::error;
use super::row::{Ask, Reply};
use super::write::{Attempt, Change, Write};
use crate::error::{Error, Result};
use crate::teacher::Key;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

/// Maximum changes in a commit.
const BATCH: usize = 2_048;
/// Maximum deferred changes without a waiter.
const PENDING: usize = 1_024;

/// Sends changes to the thread.
pub struct Writer {
    sender: Option<mpsc::Sender<Vec<Write>>>,
    /// Changes without a waiter; they are sent together with the next one that is awaited, so the thread is not
    /// woken for each.
    pending: Mutex<Vec<Write>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Writer {
    pub(super) fn start(connection: Connection, path: &Path) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let owned = path.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("feedback-sqlite".to_owned())
            .spawn(move || run(connection, &receiver, &owned))
            .map_err(Error::io("start a thread for", path))?;
        Ok(Self {
            sender: Some(sender),
            pending: Mutex::default(),
            thread: Some(thread),
            path: path.to_path_buf(),
        })
    }

    /// A writer that refuses everything.
    pub(super) fn none(path: &Path) -> Self {
        Self { sender: None, pending: Mutex::default(), thread: None, path: path.to_path_buf() }
    }

    pub(super) fn send(&self, write: Write) -> Result<()> {
        if self.sender.is_none() {
            return Err(self.gone());
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let awaited = write.is_awaited();
        pending.push(write);
        if !awaited && pending.len() < PENDING {
            return Ok(());
        }
        let sent = self.sender.as_ref().map(|sender| sender.send(std::mem::take(&mut *pending)));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    fn gone(&self) -> Error {
        Error::Cache { path: self.path.clone(), message: "the writer thread has ended".to_owned() }
    }

    /// Stores a reply, with its request if it is the first; returns when it is durable.
    pub async fn reply(&self, ask: Option<Arc<Ask>>, key: Key, reply: Reply) -> Result<()> {
        let (told, wait) = tokio::sync::oneshot::channel();
        self.send(Write::Reply(ask, key, Box::new(reply), told))?;
        wait.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Stores a reply that could not be used and is asked for again; returns when it is durable. What it may have cost counts
    /// as spent, as [`Writer::lost`] does: only one of the two is called.
    pub async fn unusable(&self, attempt: Attempt) -> Result<()> {
        let (told, wait) = tokio::sync::oneshot::channel();
        self.send(Write::Unusable(Box::new(attempt), told))?;
        wait.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Records the request of an item.
    pub fn subject(&self, scope: &Arc<str>, round: u32, subject_id: &str, key: Key) -> Result<()> {
        self.send(Write::Subject { scope: Arc::clone(scope), round, subject_id: subject_id.to_owned(), key })
    }

    /// Records dollars that an attempt without a reply may have cost.
    pub fn lost(&self, likely_usd: f64) -> Result<()> {
        self.send(Write::Lost(likely_usd))
    }

    /// Stores a system prompt.
    pub fn prompt(&self, hash: &str, text: &str) -> Result<()> {
        self.send(Write::Prompt { hash: hash.to_owned(), text: text.to_owned() })
    }

    /// Stores a reply that can be downloaded again until its batch is closed; durable after the next flush.
    pub fn fetched(&self, key: Key, reply: Reply) -> Result<()> {
        self.send(Write::Fetched(key, Box::new(reply)))
    }

    /// Stores what happens to a batch; durable on return. Blocks.
    pub(super) fn batch(&self, change: Change) -> Result<()> {
        self.durable(Write::Batch(change))
    }

    /// Stores a change; durable on return. Blocks.
    pub(super) fn durable(&self, write: Write) -> Result<()> {
        self.send(write)?;
        self.flush()
    }

    /// Returns when everything before is durable. Blocks.
    pub fn flush(&self) -> Result<()> {
        let (told, wait) = mpsc::channel();
        self.send(Write::Flush(told))?;
        wait.recv().unwrap_or_else(|_| Err(self.gone()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let pending = std::mem::take(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(pending); // the thread's loop ends when the sender is dropped
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut connection: Connection, receiver: &mpsc::Receiver<Vec<Write>>, path: &Path) {
    let mut batch = Vec::new();
    let mut failed: Option<String> = None; // deferred changes must not fail silently
    while let Ok(first) = receiver.recv() {
        batch.extend(first);
        while batch.len() < BATCH
            && let Ok(next) = receiver.try_recv()
        {
            batch.extend(next);
        }
        let committed = commit(&mut connection, &batch);
        if let Err(source) = &committed {
            failed = Some(source.to_string());
        }
        let outcome = || match (&committed, &failed) {
            (Err(source), _) => Err(error(path)(copy(source))),
            (Ok(()), Some(message)) => {
                Err(Error::Cache { path: path.to_path_buf(), message: message.clone() })
            }
            (Ok(()), None) => Ok(()),
        };
        for write in batch.drain(..) {
            match write {
                Write::Reply(_, _, _, told) | Write::Unusable(_, told) => {
                    let _ = told.send(outcome()); // the caller may have been stopped
                }
                Write::Flush(told) => {
                    let _ = told.send(outcome());
                }
                Write::Subject { .. }
                | Write::Prompt { .. }
                | Write::Lost(_)
                | Write::Fetched(..)
                | Write::Batch(_)
                | Write::Discard { .. }
                | Write::Undiscard { .. }
                | Write::Rewritten { .. } => {}
            }
        }
    }
    // Leaves one file instead of three.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

/// The parts of an SQLite error that matter to a user.
fn copy(source: &rusqlite::Error) -> rusqlite::Error {
    match source.sqlite_error() {
        Some(code) => rusqlite::Error::SqliteFailure(*code, Some(source.to_string())),
        None => rusqlite::Error::ToSqlConversionFailure(source.to_string().into()),
    }
}

fn commit(connection: &mut Connection, batch: &[Write]) -> rusqlite::Result<()> {
    if batch.iter().all(|write| matches!(write, Write::Flush(_))) {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for write in batch {
        apply(&transaction, write)?;
    }
    transaction.commit()
}
