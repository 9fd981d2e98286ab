//! The open file, and queries on it.

use super::error::error;
use super::members;
use super::migrations::{self, VERSION};
use super::row::{Ask, Reply, provider};
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::items::Kind;
use crate::request::tokens::{MOST_REPLIES, Sample};
use crate::teacher::{Key, Usage};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// See [`Cache::snapshot`].
#[must_use]
pub struct Snapshot<'a>(&'a Cache);

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let _ = self.0.read(|connection| connection.execute_batch("COMMIT")); // it only read
    }
}

/// The cache of one dataset.
pub struct Cache {
    pub(super) path: PathBuf,
    reader: std::sync::Mutex<Connection>,
    pub(super) writer: Writer,
}

impl Cache {
    /// Opens the file read-only. If its folder cannot be written, it is read as is.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn look(path: &Path) -> Result<Self> {
        let can_be_written = std::fs::OpenOptions::new().append(true).open(path).is_ok();
        let opened = Self::open(path);
        if can_be_written || !matches!(opened, Err(Error::Cache { .. })) {
            return opened;
        }
        let escaped = path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let uri = format!("file:{}?immutable=1", escaped);
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let reader = Connection::open_with_flags(uri, flags).map_err(error(path))?;
        if !migrations::show(&reader).map_err(error(path))? {
            return opened; // its tables differ
        }
        Ok(Self { path: path.to_path_buf(), reader: reader.into(), writer: Writer::none(path) })
    }

    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(error(path))?;
        prepare(&connection).map_err(error(path))?;
        let version = migrations::version(&connection).map_err(error(path))?;
        if version > VERSION {
            let message = format!(
                "written with version {version}, this program reads up to {VERSION}: use a newer version of it"
            );
            return Err(Error::bad_input(path.display().to_string(), message));
        }
        if version < VERSION {
            migrations::run(&connection).map_err(error(path))?;
        }
        let reader = Self::read_connection(path)?;
        Ok(Self { path: path.to_path_buf(), reader: reader.into(), writer: Writer::start(connection, path)? })
    }

    pub(super) fn read_connection(path: &Path) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags).map_err(error(path))?;
        reader.busy_timeout(std::time::Duration::from_secs(10)).map_err(error(path))?;
        reader.set_prepared_statement_cache_capacity(32);
        // Otherwise a statement is planned again for each new bound value.
        reader.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(error(path))?;
        Ok(reader)
    }

    /// Dollars of all replies, and of attempts without a complete one, in a file opened read-only: another process may
    /// be writing to it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sums(path: &Path) -> Result<(f64, f64)> {
        let reader = Self::read_connection(path)?;
        let sum = |query: &str| reader.query_row(query, [], |row| row.get::<_, f64>(0));
        let replies = sum("SELECT coalesce(sum(cost_usd), 0.0) FROM replies").map_err(error(path))?;
        let mut lost = 0.0;
        for table in ["losses", "attempts"] {
            // A file of an older version has no such table.
            let exists = format!("SELECT count(*) + 0.0 FROM sqlite_master WHERE name = '{table}'");
            if sum(&exists).map_err(error(path))? > 0.0 {
                let query = format!("SELECT coalesce(sum(likely_usd), 0.0) FROM {table}");
                lost += sum(&query).map_err(error(path))?;
            }
        }
        Ok((replies, lost))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The thread that writes.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn read<R>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R> {
        let reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        query(&reader).map_err(error(&self.path))
    }

    /// Reads the same state of the file until the guard is dropped; avoids a lock for each of many queries.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        self.read(|connection| connection.execute_batch("BEGIN"))?;
        Ok(Snapshot(self))
    }

    /// All replies to a request, in the order of their turns.
    pub fn replies(&self, key: &Key) -> Result<Vec<Reply>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT turn, sent_key, attempts, status, body, input_tokens, cache_write_tokens, cache_read_tokens,
                 output_tokens, cost_usd, started_at_ms, replied_at_ms, latency_ms, dialect FROM replies WHERE request_key = ?1 ORDER BY turn",
            )?;
            let rows = statement.query_map([key.as_slice()], |row| {
                Ok(Reply {
                    turn: row.get(0)?,
                    sent_key: row.get(1)?,
                    attempts: row.get(2)?,
                    status: row.get(3)?,
                    headers: String::new(),
                    body: row.get::<_, Vec<u8>>(4)?.into(),
                    usage: Usage {
                        input: row.get(5)?,
                        cache_write: row.get(6)?,
                        cache_read: row.get(7)?,
                        output: row.get(8)?,
                    },
                    cost_usd: row.get(9)?,
                    started_at_ms: row.get(10)?,
                    replied_at_ms: row.get(11)?,
                    latency_ms: row.get(12)?,
                    dialect: row.get(13)?,
                })
            })?;
            rows.collect()
        })
    }

    /// The item that paid for a request, and its contents.
    pub fn ask(&self, key: &Key) -> Result<Option<Ask>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT scope, round, subject_id, problem_id, provider, model, prompt_version, user_text,
                        image_sha256, items FROM asks WHERE request_key = ?1",
            )?;
            let found = statement
                .query_row([key.as_slice()], |row| {
                    let ask = Ask {
                        key: *key,
                        scope: row.get(0)?,
                        round: row.get(1)?,
                        subject_id: row.get(2)?,
                        problem_id: row.get(3)?,
                        provider: provider(row, 4)?,
                        model: row.get(5)?,
                        prompt_version: row.get(6)?,
                        user_text: row.get(7)?,
                        image_sha256: row.get(8)?,
                        members: Vec::new(),
                    };
                    Ok((ask, row.get::<_, u32>(9)? > 1))
                })
                .optional()?;
            let Some((mut ask, is_group)) = found else { return Ok(None) };
            if is_group {
                ask.members = members::of(connection, key)?;
            }
            Ok(Some(ask))
        })
    }

    /// Requests about several items, one of which has this individual request; the latest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn groups_with(&self, item_key: &Key) -> Result<Vec<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT request_key FROM members JOIN asks USING (request_key) WHERE item_key = ?1
                 ORDER BY asks.rowid DESC",
            )?;
            let rows = statement.query_map([item_key.as_slice()], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// The requests of an item whose answers are used, the last first.
    pub fn used_keys_of(&self, scope: &str, round: u32, subject_id: &str) -> Result<Vec<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT request_key FROM subjects WHERE scope = ?1 AND round = ?2 AND subject_id = ?3
                 AND NOT EXISTS (SELECT 1 FROM discarded WHERE discarded.scope = ?1 AND discarded.round = ?2
                                 AND discarded.request_key = subjects.request_key)
                 ORDER BY seq DESC",
            )?;
            let rows = statement.query_map(params![scope, round, subject_id], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// The requests that an item has had, also those that are discarded, the last first.
    pub fn keys_of(&self, scope: &str, round: u32, subject_id: &str) -> Result<Vec<Key>> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT request_key FROM subjects WHERE scope = ?1 AND round = ?2 AND subject_id = ?3 ORDER BY seq DESC",
            )?;
            let rows = statement.query_map(params![scope, round, subject_id], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Scopes that a round has items in.
    pub fn scopes(&self, round: u32) -> Result<Vec<String>> {
        self.read(|connection| {
            let mut statement =
                connection.prepare("SELECT DISTINCT scope FROM subjects WHERE round = ?1 ORDER BY scope")?;
            let rows = statement.query_map([round], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Dollars of all replies ever.
    pub fn spent_usd(&self) -> Result<f64> {
        self.read(|connection| {
            connection.query_row("SELECT coalesce(sum(cost_usd), 0.0) FROM replies", [], |row| row.get(0))
        })
    }

    /// Dollars of all replies to requests of a kind and round.
    pub fn spent_usd_on(&self, kind: Kind, round: u32) -> Result<f64> {
        self.read(|connection| {
            connection.query_row(
                "SELECT coalesce(sum(cost_usd), 0.0) FROM replies JOIN asks USING (request_key)
                 WHERE (scope = ?1 OR scope LIKE ?1 || '/%') AND round = ?2",
                params![kind.as_str(), round],
                |row| row.get(0),
            )
        })
    }

    /// Dollars that attempts without a usable reply may have cost.
    pub fn lost_usd(&self) -> Result<f64> {
        self.read(|connection| {
            connection.query_row(
                "SELECT (SELECT coalesce(sum(likely_usd), 0.0) FROM losses)
                      + (SELECT coalesce(sum(likely_usd), 0.0) FROM attempts)",
                [],
                |row| row.get(0),
            )
        })
    }

    /// Number of paid replies with usage but unknown cost. What replies without usage may have cost, if their model had
    /// a price, is among the losses.
    pub fn unpriced(&self) -> Result<u64> {
        self.read(|connection| {
            connection.query_row(
                "SELECT count(*) FROM replies WHERE cost_usd IS NULL AND input_tokens + output_tokens > 0",
                [],
                |row| row.get(0),
            )
        })
    }

    /// Whether a model has answered anything under a version of the prompt.
    pub fn has_answers(&self, model: &str, prompt_version: &str) -> Result<bool> {
        self.read(|connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM asks JOIN replies USING (request_key)
                 WHERE model = ?1 AND prompt_version = ?2 AND status = 200)",
                params![model, prompt_version],
                |row| row.get(0),
            )
        })
    }

    /// Text of a request without a picture to which a model replied, with this prompt.
    pub fn answered_text(&self, model: &str, prompt_version: &str) -> Result<Option<String>> {
        self.read(|connection| {
            connection
                .query_row(
                    "SELECT user_text FROM asks JOIN replies USING (request_key)
                     WHERE model = ?1 AND prompt_version = ?2 AND image_sha256 IS NULL AND turn = 0 AND status = 200
                     LIMIT 1",
                    params![model, prompt_version],
                    |row| row.get(0),
                )
                .optional()
        })
    }

    /// Whether another model was asked anything in a round.
    pub fn knows_other_models(&self, scope: &str, round: u32, model: &str) -> Result<bool> {
        self.read(|connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM asks WHERE scope = ?1 AND round = ?2 AND model <> ?3)",
                params![scope, round, model],
                |row| row.get(0),
            )
        })
    }

    /// Models asked about items of a scope and round, each with whether all its requests are discarded.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn models_of(&self, scope: &str, round: u32) -> Result<BTreeMap<String, bool>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT model, min(EXISTS (SELECT 1 FROM discarded WHERE discarded.scope = ?1 AND discarded.round = ?2
                                           AND discarded.request_key = subjects.request_key))
                 FROM subjects JOIN asks USING (request_key)
                 WHERE subjects.scope = ?1 AND subjects.round = ?2 GROUP BY model",
            )?;
            let rows = statement.query_map(params![scope, round], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    /// Ensures that the disk has room for this many bytes of replies before any is paid for: they are written and
    /// dropped, which leaves free pages in the file.
    ///
    /// # Errors
    /// If there is no room.
    pub fn make_room(&self, bytes: u64) -> Result<()> {
        let make = || {
            let connection = Connection::open(&self.path)?;
            prepare(&connection)?;
            connection.execute_batch("CREATE TABLE IF NOT EXISTS room (bytes BLOB NOT NULL)")?;
            connection.execute("INSERT INTO room VALUES (zeroblob(?1))", [bytes])?;
            connection.execute_batch("DROP TABLE room; PRAGMA wal_checkpoint(PASSIVE)")
        };
        make().map_err(error(&self.path))
    }

    /// The latest requests of a model to a scope that carried no picture, with what they used.
    pub fn samples(&self, scope: &str, model: &str) -> Result<Vec<Sample>> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT user_text, input_tokens + cache_write_tokens + cache_read_tokens, output_tokens, body,
                    image_sha256 IS NOT NULL
                 FROM replies JOIN asks USING (request_key)
                 WHERE scope = ?1 AND model = ?2 AND status = 200 AND turn = 0
                 AND input_tokens + output_tokens > 0
                 ORDER BY replies.rowid DESC LIMIT ?3",
            )?;
            let rows = statement.query_map(params![scope, model, MOST_REPLIES as u64], |row| {
                Ok(Sample {
                    user_text: row.get(0)?,
                    input: row.get(1)?,
                    output: row.get(2)?,
                    body: row.get(3)?,
                    has_picture: row.get(4)?,
                })
            })?;
            rows.collect()
        })
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // For this change, SQLite does not wait for other processes that open the file, whatever the timeout.
    for attempt in 1_u32.. {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if attempt < 500 && error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) =>
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done => {
                done?;
                break;
            }
        }
    }
    connection.pragma_update(None, "synchronous", "FULL")?; // a commit returns when it is on disk
    connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}
