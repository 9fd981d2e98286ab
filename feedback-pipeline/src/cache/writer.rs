//! The one thread that writes to `feedback.sqlite`, many changes to a commit.

use super::{Ask, Reply, Write, error};
use crate::error::{Error, Result};
use crate::teacher::Key;
use rusqlite::{Connection, Transaction, params};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

/// Changes after which a commit takes no more in.
const BATCH: usize = 2_048;
/// Changes that nobody waits for, held back at most.
const PENDING: usize = 1_024;

/// Hands changes to the thread.
pub struct Writer {
    sender: Option<mpsc::Sender<Vec<Write>>>,
    /// Changes that nobody waits for; they travel with the next that someone does, so that the thread is not woken for each.
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

    /// One that refuses whatever it is handed.
    pub(super) fn none(path: &Path) -> Self {
        Self { sender: None, pending: Mutex::default(), thread: None, path: path.to_path_buf() }
    }

    fn send(&self, write: Write) -> Result<()> {
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
        Error::Cache { path: self.path.clone(), message: "the thread that writes has ended".to_owned() }
    }

    /// Stores a reply, with its request where it is the first; returns when it is durable.
    pub async fn reply(&self, ask: Option<Arc<Ask>>, key: Key, reply: Reply) -> Result<()> {
        let (told, wait) = tokio::sync::oneshot::channel();
        self.send(Write::Reply(ask, key, Box::new(reply), told))?;
        wait.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Remembers which request an item has.
    pub fn subject(&self, scope: &Arc<str>, round: u32, subject_id: &str, key: Key) -> Result<()> {
        self.send(Write::Subject { scope: Arc::clone(scope), round, subject_id: subject_id.to_owned(), key })
    }

    /// Remembers dollars that an attempt without a reply may have cost.
    pub fn lost(&self, likely_usd: f64) -> Result<()> {
        self.send(Write::Lost(likely_usd))
    }

    /// Stores a system prompt.
    pub fn prompt(&self, hash: &str, text: &str) -> Result<()> {
        self.send(Write::Prompt { hash: hash.to_owned(), text: text.to_owned() })
    }

    /// Stores a reply that can be had again until its batch is done with; durable after the next flush.
    pub fn fetched(&self, key: Key, reply: Reply) -> Result<()> {
        self.send(Write::Fetched(key, Box::new(reply)))
    }

    /// Stores what happens to a batch; durable on return. Blocks.
    pub(super) fn batch(&self, change: super::batches::Change) -> Result<()> {
        self.send(Write::Batch(change))?;
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
            let _ = sender.send(pending); // the thread's loop ends when the sender goes
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut connection: Connection, receiver: &mpsc::Receiver<Vec<Write>>, path: &Path) {
    let mut batch = Vec::new();
    let mut failed: Option<String> = None; // changes that nobody waits for must not fail unheard
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
                Write::Reply(_, _, _, told) => {
                    let _ = told.send(outcome()); // whoever asked may have been told to stop
                }
                Write::Flush(told) => {
                    let _ = told.send(outcome());
                }
                Write::Subject { .. }
                | Write::Prompt { .. }
                | Write::Lost(_)
                | Write::Fetched(..)
                | Write::Batch(_) => {}
            }
        }
    }
    // Leaves one file behind instead of three.
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

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Reply(ask, key, reply, _) => {
            if let Some(ask) = ask {
                insert_ask(transaction, ask)?;
            }
            insert_reply(transaction, key, reply)?;
        }
        Write::Fetched(key, reply) => insert_reply(transaction, key, reply)?,
        Write::Batch(change) => super::batches::apply(transaction, change)?,
        Write::Subject { scope, round, subject_id, key } => {
            let mut statement = transaction.prepare_cached(
                "INSERT OR REPLACE INTO subjects (scope, round, subject_id, request_key) VALUES (?1, ?2, ?3, ?4)",
            )?;
            statement.execute(params![scope.as_ref(), round, subject_id, key.as_slice()])?;
        }
        Write::Prompt { hash, text } => {
            let mut statement =
                transaction.prepare_cached("INSERT OR IGNORE INTO prompts VALUES (?1, ?2)")?;
            statement.execute(params![hash, text])?;
        }
        Write::Lost(likely_usd) => {
            let mut statement = transaction.prepare_cached("INSERT INTO losses VALUES (?1)")?;
            statement.execute([likely_usd])?;
        }
        Write::Flush(_) => {}
    }
    Ok(())
}

pub(super) fn insert_ask(transaction: &Transaction<'_>, ask: &Ask) -> rusqlite::Result<()> {
    let mut statement = transaction
        .prepare_cached("INSERT OR IGNORE INTO asks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
    statement.execute(params![
        ask.key.as_slice(),
        ask.scope,
        ask.round,
        ask.subject_id,
        ask.problem_id,
        ask.provider.as_str(),
        ask.model,
        ask.prompt_version,
        ask.user_text,
        ask.image_sha256,
    ])?;
    Ok(())
}

fn insert_reply(transaction: &Transaction<'_>, key: &Key, reply: &Reply) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO replies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?;
    statement.execute(params![
        key.as_slice(),
        reply.turn,
        reply.sent_key.as_slice(),
        reply.attempts,
        reply.status,
        reply.headers,
        reply.body.as_ref(),
        reply.usage.input,
        reply.usage.cache_write,
        reply.usage.cache_read,
        reply.usage.output,
        reply.cost_usd,
        reply.started_at_ms,
        reply.replied_at_ms,
        reply.latency_ms,
    ])?;
    Ok(())
}
