//! The tables of `feedback.sqlite`, version by version.
//!
//! `rusqlite_migration` was tried: 2.6 wants an older rusqlite, and it reads the file's version outside the transaction
//! that changes it, so if two processes open an older file at the same time, one fails.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// Version of the file's tables; a newer one is refused.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// The step from each version to the next. Released steps are never changed.
const STEPS: [&str; 6] = [REPLIES, BATCHES, COST_OF_BATCHES, LOSSES, DISCARDED, MEMBERS];

const REPLIES: &str = "
CREATE TABLE IF NOT EXISTS prompts (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asks (
    request_key BLOB NOT NULL UNIQUE, scope TEXT NOT NULL, round INTEGER NOT NULL, subject_id TEXT NOT NULL,
    problem_id TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, prompt_version TEXT NOT NULL,
    user_text TEXT NOT NULL, image_sha256 TEXT);
CREATE TABLE IF NOT EXISTS replies (
    request_key BLOB NOT NULL, turn INTEGER NOT NULL, sent_key BLOB NOT NULL, attempts INTEGER NOT NULL,
    status INTEGER NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL,
    input_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, cost_usd REAL, started_at_ms INTEGER NOT NULL, replied_at_ms INTEGER NOT NULL, latency_ms INTEGER NOT NULL,
    UNIQUE (request_key, turn));
CREATE TABLE IF NOT EXISTS subjects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, round INTEGER NOT NULL, subject_id TEXT NOT NULL,
    request_key BLOB NOT NULL, UNIQUE (scope, round, subject_id, request_key));
";

const BATCHES: &str = "
CREATE TABLE IF NOT EXISTS batches (
    plan TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, address TEXT NOT NULL, requests INTEGER NOT NULL,
    planned_at_ms INTEGER NOT NULL, file_id TEXT, batch_id TEXT, closed TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_requests (
    plan TEXT NOT NULL, sent_key BLOB NOT NULL, request_key BLOB NOT NULL, turn INTEGER NOT NULL,
    PRIMARY KEY (plan, sent_key)) WITHOUT ROWID;
";

const COST_OF_BATCHES: &str = "ALTER TABLE batches ADD COLUMN likely_usd REAL NOT NULL DEFAULT 0.0;";

const LOSSES: &str = "CREATE TABLE IF NOT EXISTS losses (likely_usd REAL NOT NULL);";

const DISCARDED: &str = "
ALTER TABLE replies ADD COLUMN dialect TEXT;
ALTER TABLE batches ADD COLUMN dialect TEXT;
CREATE TABLE attempts (
    request_key BLOB NOT NULL, turn INTEGER NOT NULL, sent_key BLOB NOT NULL, status INTEGER NOT NULL, headers TEXT NOT NULL,
    body BLOB NOT NULL, received_at_ms INTEGER NOT NULL, likely_usd REAL);
CREATE TABLE discarded (
    scope TEXT NOT NULL, round INTEGER NOT NULL, request_key BLOB NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, round, request_key)) WITHOUT ROWID;
CREATE TABLE rewrites (kind TEXT NOT NULL, round INTEGER NOT NULL, PRIMARY KEY (kind, round)) WITHOUT ROWID;
";

const MEMBERS: &str = "
ALTER TABLE asks ADD COLUMN items INTEGER NOT NULL DEFAULT 1;
CREATE TABLE members (
    request_key BLOB NOT NULL, place INTEGER NOT NULL, subject_id TEXT NOT NULL, item_key BLOB NOT NULL, weight INTEGER NOT NULL,
    PRIMARY KEY (request_key, place)) WITHOUT ROWID;
CREATE INDEX members_by_item ON members (item_key);
";

/// Presents the tables of version 5 as those of version 6, in a read-only file.
const SHOW_5: &str = "
CREATE TEMP VIEW asks AS SELECT rowid, *, 1 AS items FROM main.asks;
CREATE TEMP TABLE members (request_key BLOB, place INTEGER, subject_id TEXT, item_key BLOB, weight INTEGER);
";

/// The same for the additions of version 5 to version 4.
const SHOW_4: &str = "
CREATE TEMP VIEW replies AS SELECT rowid, *, NULL AS dialect FROM main.replies;
CREATE TEMP TABLE attempts (likely_usd REAL);
CREATE TEMP TABLE discarded (scope TEXT, round INTEGER, request_key BLOB, at_ms INTEGER);
CREATE TEMP TABLE rewrites (kind TEXT, round INTEGER);
";

/// Migrates a new or older file, atomically.
pub(super) fn run(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    // Read under the lock: another process may have migrated the file in the meantime.
    let version = version(&transaction)?;
    for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    if version < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// Presents a read-only file as one of this version; returns whether that is possible.
pub(super) fn show(connection: &Connection) -> rusqlite::Result<bool> {
    match version(connection)? {
        VERSION => Ok(true),
        5 => connection.execute_batch(SHOW_5).map(|()| true),
        4 => connection.execute_batch(SHOW_4).and_then(|()| connection.execute_batch(SHOW_5)).map(|()| true),
        _ => Ok(false),
    }
}

/// The file's version; 0 of a new one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::OpenFlags;

    #[test]
    fn a_file_of_version_5_that_cannot_be_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.sqlite");
        Connection::open(&path).unwrap().execute_batch(include_str!("../../tests/store/v5.sql")).unwrap();
        let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        assert!(show(&reader).unwrap());
        let query =
            "SELECT sum(items), (SELECT count(*) FROM members) FROM asks JOIN replies USING (request_key)";
        assert_eq!(reader.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap(), (2, 0));
    }

    /// A dataset on a read-only disk, written by an older version.
    #[test]
    fn a_file_of_version_4_that_cannot_be_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feedback.sqlite");
        let open = |flags| Connection::open_with_flags(&path, flags).unwrap();
        Connection::open(&path).unwrap().execute_batch(include_str!("../../tests/store/v4.sql")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let reader = open(OpenFlags::SQLITE_OPEN_READ_ONLY);
        assert!(show(&reader).unwrap());
        let query = "SELECT count(*), count(dialect), sum(cost_usd) FROM replies WHERE rowid > 0
                     AND request_key NOT IN (SELECT request_key FROM discarded)";
        let found = reader.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        assert_eq!(found.unwrap(), (2, 0, 0.25));
        let lost = "SELECT (SELECT sum(likely_usd) FROM losses), (SELECT count(*) FROM attempts)";
        assert_eq!(reader.query_row(lost, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap(), (0.125, 0));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
