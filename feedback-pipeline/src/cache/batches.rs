//! Batches in `feedback.sqlite`. A batch is written down with its requests before it is sent, and its id before it is
//! polled, so that a kill at any moment leaves enough to find it again instead of paying for it twice.

use super::{Ask, Cache};
use crate::error::Result;
use crate::teacher::Key;
use rusqlite::{OptionalExtension, Transaction, params};
use schemas::settings::Provider;
use std::collections::HashSet;
use std::sync::Arc;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS batches (
    plan TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, address TEXT NOT NULL, requests INTEGER NOT NULL,
    planned_at_ms INTEGER NOT NULL, likely_usd REAL NOT NULL, file_id TEXT, batch_id TEXT, closed TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_requests (
    plan TEXT NOT NULL, sent_key BLOB NOT NULL, request_key BLOB NOT NULL, turn INTEGER NOT NULL,
    PRIMARY KEY (plan, sent_key)) WITHOUT ROWID;
";

/// Version 2 did not say what a batch would cost.
pub(super) const FROM_2: &str = "ALTER TABLE batches ADD COLUMN likely_usd REAL NOT NULL DEFAULT 0.0";

/// A batch that is not done with.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Our own name of it, made before it is sent.
    pub plan: String,
    /// Whose service.
    pub provider: Provider,
    /// Model that is asked.
    pub model: String,
    /// Address of the service.
    pub address: String,
    /// Number of requests in it.
    pub requests: u64,
    /// Moment it was written down, in ms since 1970.
    pub planned_at_ms: i64,
    /// Dollars that it will hardly go beyond; 0 where nothing caps them.
    pub likely_usd: f64,
    /// The uploaded file, where the service wants one.
    pub file_id: Option<String>,
    /// The service's name of it; none where it is not known whether the service has it.
    pub batch_id: Option<String>,
}

/// A request of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Key of what is sent, its `custom_id` in the batch.
    pub sent_key: Key,
    /// The first request, to which later turns belong.
    pub ask: Arc<Ask>,
    /// 0 for the first request, 1 and 2 for those after a malformed reply.
    pub turn: u32,
}

/// What happens to a batch.
pub(crate) enum Change {
    Planned(Batch, Vec<Entry>),
    Uploaded { plan: String, file_id: String },
    Sent { plan: String, batch_id: String },
    Closed { plan: String, how: &'static str },
}

impl Cache {
    /// Writes a batch down before it is sent.
    pub fn plan_batch(&self, batch: Batch, entries: Vec<Entry>) -> Result<()> {
        self.writer.batch(Change::Planned(batch, entries))
    }

    /// Remembers the uploaded file of a batch.
    pub fn batch_uploaded(&self, plan: &str, file_id: &str) -> Result<()> {
        self.writer.batch(Change::Uploaded { plan: plan.to_owned(), file_id: file_id.to_owned() })
    }

    /// Remembers the service's id of a batch.
    pub fn batch_sent(&self, plan: &str, batch_id: &str) -> Result<()> {
        self.writer.batch(Change::Sent { plan: plan.to_owned(), batch_id: batch_id.to_owned() })
    }

    /// Ends a batch; everything that came of it is durable on return.
    pub fn batch_closed(&self, plan: &str, how: &'static str) -> Result<()> {
        self.writer.batch(Change::Closed { plan: plan.to_owned(), how })
    }

    /// Batches of a provider that are not done with, the oldest first.
    pub fn open_batches(&self, provider: Provider) -> Result<Vec<Batch>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT plan, model, address, requests, planned_at_ms, file_id, batch_id, likely_usd FROM batches
                 WHERE provider = ?1 AND closed IS NULL ORDER BY planned_at_ms, plan",
            )?;
            let rows = statement.query_map([provider.as_str()], |row| {
                Ok(Batch {
                    plan: row.get(0)?,
                    provider,
                    model: row.get(1)?,
                    address: row.get(2)?,
                    requests: row.get(3)?,
                    planned_at_ms: row.get(4)?,
                    file_id: row.get(5)?,
                    batch_id: row.get(6)?,
                    likely_usd: row.get(7)?,
                })
            })?;
            rows.collect()
        })
    }

    /// First requests of all that lie in batches that are not done with.
    pub fn keys_in_batches(&self) -> Result<HashSet<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT request_key FROM batch_requests JOIN batches USING (plan) WHERE closed IS NULL",
            )?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Providers and models of batches that are not done with.
    pub fn models_in_batches(&self) -> Result<Vec<(String, String)>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT DISTINCT provider, model FROM batches WHERE closed IS NULL ORDER BY provider, model",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    /// Keys of all requests that a batch was sent with.
    pub fn batch_keys(&self, plan: &str) -> Result<Vec<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT sent_key FROM batch_requests WHERE plan = ?1")?;
            let rows = statement.query_map([plan], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Dollars that batches which are not done with will hardly go beyond.
    pub fn running_usd(&self) -> Result<f64> {
        self.read(|connection| {
            connection.query_row(
                "SELECT coalesce(sum(likely_usd), 0.0) FROM batches WHERE closed IS NULL",
                [],
                |row| row.get(0),
            )
        })
    }

    /// True where a batch of the service is one of ours.
    pub fn knows_batch(&self, batch_id: &str) -> Result<bool> {
        self.read(|connection| {
            connection.query_row("SELECT count(*) > 0 FROM batches WHERE batch_id = ?1", [batch_id], |row| {
                row.get(0)
            })
        })
    }

    /// First request and turn of what a batch calls `sent_key`.
    pub fn batch_request(&self, plan: &str, sent_key: &Key) -> Result<Option<(Key, u32)>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT request_key, turn FROM batch_requests WHERE plan = ?1 AND sent_key = ?2",
            )?;
            statement
                .query_row(params![plan, sent_key.as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
    }
}

pub(super) fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Planned(batch, entries) => {
            transaction.execute(
                "INSERT INTO batches (plan, provider, model, address, requests, planned_at_ms, likely_usd)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    batch.plan,
                    batch.provider.as_str(),
                    batch.model,
                    batch.address,
                    batch.requests,
                    batch.planned_at_ms,
                    batch.likely_usd
                ],
            )?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO batch_requests VALUES (?1, ?2, ?3, ?4)")?;
            for entry in entries {
                // Who pays is settled now: results come without the items.
                super::writer::insert_ask(transaction, &entry.ask)?;
                insert.execute(params![
                    batch.plan,
                    entry.sent_key.as_slice(),
                    entry.ask.key.as_slice(),
                    entry.turn
                ])?;
            }
        }
        Change::Uploaded { plan, file_id } => {
            transaction.execute("UPDATE batches SET file_id = ?2 WHERE plan = ?1", params![plan, file_id])?;
        }
        Change::Sent { plan, batch_id } => {
            transaction
                .execute("UPDATE batches SET batch_id = ?2 WHERE plan = ?1", params![plan, batch_id])?;
        }
        Change::Closed { plan, how } => {
            transaction.execute("UPDATE batches SET closed = ?2 WHERE plan = ?1", params![plan, how])?;
            transaction.execute("DELETE FROM batch_requests WHERE plan = ?1", [plan])?;
        }
    }
    Ok(())
}
