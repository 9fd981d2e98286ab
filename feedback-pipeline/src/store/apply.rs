//! Applies each change to the tables of the store.

use super::members;
use super::row::{Ask, Reply};
use super::write::{Attempt, Change, Write};
use crate::items::Kind;
use crate::teacher::Key;
use rusqlite::{Transaction, params};

pub(super) fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Reply(ask, key, reply, _) => {
            if let Some(ask) = ask {
                insert_ask(transaction, ask)?;
            }
            insert_reply(transaction, key, reply)?;
        }
        Write::Fetched(key, reply) => insert_reply(transaction, key, reply)?,
        Write::Batch(change) => apply_batch(transaction, change)?,
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
        Write::Unusable(attempt, _) => insert_attempt(transaction, attempt)?,
        Write::Discard { kind, scope, round, keys, at_ms } => {
            plan_rewrite(transaction, *kind, *round)?;
            let mut statement =
                transaction.prepare_cached("INSERT OR IGNORE INTO discarded VALUES (?1, ?2, ?3, ?4)")?;
            for key in keys {
                statement.execute(params![scope, round, key.as_slice(), at_ms])?;
            }
        }
        Write::Undiscard { kind, scope, round, keys } => {
            plan_rewrite(transaction, *kind, *round)?;
            let mut statement = transaction.prepare_cached(
                "DELETE FROM discarded WHERE scope = ?1 AND round = ?2 AND request_key = ?3",
            )?;
            for key in keys {
                statement.execute(params![scope, round, key.as_slice()])?;
            }
        }
        Write::Rewritten { kind, round } => {
            let query = "DELETE FROM rewrites WHERE kind = ?1 AND round = ?2";
            transaction.execute(query, params![kind.as_str(), round])?;
        }
        Write::Flush(_) => {}
    }
    Ok(())
}

fn insert_ask(transaction: &Transaction<'_>, ask: &Ask) -> rusqlite::Result<()> {
    let mut statement = transaction
        .prepare_cached("INSERT OR IGNORE INTO asks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?;
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
        ask.members.len().max(1) as u64,
    ])?;
    members::insert(transaction, ask)
}

fn insert_reply(transaction: &Transaction<'_>, key: &Key, reply: &Reply) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO replies VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
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
        reply.dialect,
    ])?;
    Ok(())
}

fn plan_rewrite(transaction: &Transaction<'_>, kind: Kind, round: u32) -> rusqlite::Result<()> {
    let query = "INSERT OR IGNORE INTO rewrites VALUES (?1, ?2)";
    transaction.execute(query, params![kind.as_str(), round]).map(|_| ())
}

fn insert_attempt(transaction: &Transaction<'_>, attempt: &Attempt) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT INTO attempts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    statement.execute(params![
        attempt.request_key.as_slice(),
        attempt.turn,
        attempt.sent_key.as_slice(),
        attempt.status,
        attempt.headers,
        attempt.body.as_ref(),
        attempt.received_at_ms,
        attempt.likely_usd,
    ])?;
    Ok(())
}

fn apply_batch(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Planned(batch, entries) => {
            transaction.execute(
                "INSERT INTO batches (plan, provider, model, address, requests, planned_at_ms, likely_usd, dialect)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    batch.plan,
                    batch.provider.as_str(),
                    batch.model,
                    batch.address,
                    batch.requests,
                    batch.planned_at_ms,
                    batch.likely_usd,
                    batch.dialect
                ],
            )?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO batch_requests VALUES (?1, ?2, ?3, ?4)")?;
            for entry in entries {
                // Who pays is decided now: results arrive without the items.
                insert_ask(transaction, &entry.ask)?;
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
