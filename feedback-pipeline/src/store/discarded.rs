//! Discarded answers: they stay in `feedback.sqlite` and count as spent, but are not used.

use super::cache::Cache;
use super::row::provider;
use super::write::Write;
use crate::error::Result;
use crate::items::{Job, Kind};
use crate::teacher::Key;
use rusqlite::params;
use schemas::settings::Provider;
use std::collections::HashSet;

/// Selects answers by service and model; `None` means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whose {
    /// The service.
    pub provider: Option<Provider>,
    /// The model.
    pub model: Option<String>,
}

impl Whose {
    fn provider_text(&self) -> Option<&'static str> {
        self.provider.map(Provider::as_str)
    }
}

impl Cache {
    /// Requests of a job that are discarded.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn discarded(&self, job: &Job) -> Result<HashSet<Key>> {
        self.read(|connection| {
            let mut statement =
                connection.prepare("SELECT request_key FROM discarded WHERE scope = ?1 AND round = ?2")?;
            let rows = statement.query_map(params![job.scope(), job.round], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Whether a request is discarded for the items of a scope and round.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn is_discarded(&self, scope: &str, round: u32, key: &Key) -> Result<bool> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM discarded WHERE scope = ?1 AND round = ?2 AND request_key = ?3)",
            )?;
            statement.query_row(params![scope, round, key.as_slice()], |row| row.get(0))
        })
    }

    /// Requests of a job to these Teachers that are discarded, or that are not, with their models, in the
    /// order of their items.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn keys_by(&self, job: &Job, whose: &Whose, discarded: bool) -> Result<Vec<(Key, String)>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT request_key, model FROM subjects JOIN asks USING (request_key)
                 WHERE subjects.scope = ?1 AND subjects.round = ?2
                 AND (?3 IS NULL OR provider = ?3) AND (?4 IS NULL OR model = ?4)
                 AND EXISTS (SELECT 1 FROM discarded WHERE discarded.scope = ?1 AND discarded.round = ?2
                             AND discarded.request_key = subjects.request_key) = ?5
                 GROUP BY request_key ORDER BY min(seq)",
            )?;
            let rows = statement.query_map(
                params![job.scope(), job.round, whose.provider_text(), whose.model, discarded],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            rows.collect()
        })
    }

    /// The service of a model, according to its requests.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn provider_of(&self, model: &str) -> Result<Option<Provider>> {
        use rusqlite::OptionalExtension;
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT provider FROM asks WHERE model = ?1 LIMIT 1")?;
            statement.query_row([model], |row| provider(row, 0)).optional()
        })
    }

    /// Marks requests of jobs as discarded, and their tables as to be rewritten, all at once; durable on return. Blocks.
    ///
    /// # Errors
    /// If the write fails.
    pub fn discard(&self, requests: Vec<(Job, Vec<Key>)>, at_ms: i64) -> Result<()> {
        for (job, keys) in requests {
            let (kind, scope, round) = (job.kind, job.scope(), job.round);
            self.writer.send(Write::Discard { kind, scope, round, keys, at_ms })?;
        }
        self.writer.flush()
    }

    /// Removes the marks, and marks the tables as to be rewritten, all at once; durable on return. Blocks.
    ///
    /// # Errors
    /// If the write fails.
    pub fn undiscard(&self, requests: Vec<(Job, Vec<Key>)>) -> Result<()> {
        for (job, keys) in requests {
            let (kind, scope, round) = (job.kind, job.scope(), job.round);
            self.writer.send(Write::Undiscard { kind, scope, round, keys })?;
        }
        self.writer.flush()
    }

    /// Whether the tables of a kind and round do not yet reflect discarded or restored answers.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn awaits_rewrite(&self, kind: Kind, round: u32) -> Result<bool> {
        self.read(|connection| {
            let query = "SELECT EXISTS (SELECT 1 FROM rewrites WHERE kind = ?1 AND round = ?2)";
            connection.query_row(query, params![kind.as_str(), round], |row| row.get(0))
        })
    }

    /// Removes that mark; durable on return. Blocks.
    ///
    /// # Errors
    /// If the write fails.
    pub fn rewritten(&self, kind: Kind, round: u32) -> Result<()> {
        self.writer.durable(Write::Rewritten { kind, round })
    }
}
