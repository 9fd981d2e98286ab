//! Batches in `feedback.sqlite`. A batch is recorded with its requests before it is sent, and its id before it is
//! polled, so that after a kill at any time it can be found again and is not paid for twice.

use super::cache::Cache;
use super::error::error;
use super::row::provider;
use super::write::{Batch, Change, Entry};
use crate::error::Result;
use crate::items::Kind;
use crate::teacher::Key;
use rusqlite::{Connection, OptionalExtension, params};
use schemas::settings::Provider;
use std::collections::HashSet;
use std::path::Path;

/// Open batches to one Teacher, with requests of one scope and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InProgress {
    /// Who is asked.
    pub provider: Provider,
    /// Model that is asked.
    pub model: String,
    /// Root of the API that they were sent to.
    pub address: String,
    /// Scope of the items that pay.
    pub scope: String,
    /// Their round.
    pub round: u32,
    /// Number of batches.
    pub batches: u64,
    /// Requests of this scope and round in them.
    pub requests: u64,
}

impl InProgress {
    fn all(connection: &Connection) -> rusqlite::Result<Vec<Self>> {
        let exists = "SELECT count(*) FROM sqlite_master WHERE name = 'batches'";
        if connection.query_row(exists, [], |row| row.get::<_, u32>(0))? == 0 {
            return Ok(Vec::new()); // a file of the first version
        }
        let mut statement = connection.prepare(
            "SELECT batches.provider, batches.model, address, scope, round, count(DISTINCT plan), count(*)
             FROM batches JOIN batch_requests USING (plan) JOIN asks USING (request_key) WHERE closed IS NULL
             GROUP BY 1, 2, 3, 4, 5 ORDER BY round, scope, 1, 2, 3",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Self {
                provider: provider(row, 0)?,
                model: row.get(1)?,
                address: row.get(2)?,
                scope: row.get(3)?,
                round: row.get(4)?,
                batches: row.get(5)?,
                requests: row.get(6)?,
            })
        })?;
        rows.collect()
    }
}

impl Cache {
    /// Open batches by Teacher, scope and round.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn in_progress(&self) -> Result<Vec<InProgress>> {
        self.read(InProgress::all)
    }

    /// The same of a file opened read-only: another process may be writing to it, and it may be of an older version.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn in_progress_at(path: &Path) -> Result<Vec<InProgress>> {
        InProgress::all(&Self::read_connection(path)?).map_err(error(path))
    }

    /// Records a batch before it is sent.
    pub fn plan_batch(&self, batch: Batch, entries: Vec<Entry>) -> Result<()> {
        self.writer.batch(Change::Planned(batch, entries))
    }

    /// Records the uploaded file of a batch.
    pub fn batch_uploaded(&self, plan: &str, file_id: &str) -> Result<()> {
        self.writer.batch(Change::Uploaded { plan: plan.to_owned(), file_id: file_id.to_owned() })
    }

    /// Records the service's id of a batch.
    pub fn batch_sent(&self, plan: &str, batch_id: &str) -> Result<()> {
        self.writer.batch(Change::Sent { plan: plan.to_owned(), batch_id: batch_id.to_owned() })
    }

    /// Closes a batch; its results are durable on return.
    pub fn batch_closed(&self, plan: &str, how: &'static str) -> Result<()> {
        self.writer.batch(Change::Closed { plan: plan.to_owned(), how })
    }

    /// Open batches of a provider, the oldest first.
    pub fn open_batches(&self, provider: Provider) -> Result<Vec<Batch>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT plan, model, address, requests, planned_at_ms, file_id, batch_id, likely_usd, dialect
                 FROM batches
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
                    dialect: row.get(8)?,
                })
            })?;
            rows.collect()
        })
    }

    /// First requests of all open batches.
    pub fn keys_in_batches(&self) -> Result<HashSet<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT request_key FROM batch_requests JOIN batches USING (plan) WHERE closed IS NULL",
            )?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Keys of all requests in a batch.
    pub fn batch_keys(&self, plan: &str) -> Result<Vec<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT sent_key FROM batch_requests WHERE plan = ?1")?;
            let rows = statement.query_map([plan], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Dollars that open batches are unlikely to exceed.
    pub fn running_usd(&self) -> Result<f64> {
        self.read(|connection| {
            connection.query_row(
                "SELECT coalesce(sum(likely_usd), 0.0) FROM batches WHERE closed IS NULL",
                [],
                |row| row.get(0),
            )
        })
    }

    /// Number of a model's replies to a version of the prompt in one dialect, and output tokens of the
    /// longest of them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn longest_output(
        &self,
        kind: Kind,
        model: &str,
        prompt_version: &str,
        dialect: &str,
    ) -> Result<(u64, u64)> {
        self.read(|connection| {
            connection.query_row(
                "SELECT count(*), coalesce(max(output_tokens), 0) FROM replies JOIN asks USING (request_key)
                 WHERE model = ?1 AND prompt_version = ?2 AND (scope = ?3 OR scope LIKE ?3 || '/%')
                 AND dialect = ?4 AND status = 200 AND output_tokens > 0",
                params![model, prompt_version, kind.as_str(), dialect],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })
    }

    /// True if a batch of the service is one of ours.
    pub fn knows_batch(&self, batch_id: &str) -> Result<bool> {
        self.read(|connection| {
            connection.query_row("SELECT count(*) > 0 FROM batches WHERE batch_id = ?1", [batch_id], |row| {
                row.get(0)
            })
        })
    }

    /// First request and turn of the batch request `sent_key`.
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
