//! Items of requests that ask about several.

use super::row::{Ask, Member};
use crate::teacher::Key;
use rusqlite::{Connection, Transaction, params};

/// The items of a request, in the order in which it lists them.
pub(super) fn of(connection: &Connection, key: &Key) -> rusqlite::Result<Vec<Member>> {
    let mut statement = connection.prepare_cached(
        "SELECT subject_id, item_key, weight FROM members WHERE request_key = ?1 ORDER BY place",
    )?;
    let rows = statement.query_map([key.as_slice()], |row| {
        Ok(Member { subject_id: row.get(0)?, item_key: row.get(1)?, weight: row.get(2)? })
    })?;
    rows.collect()
}

pub(super) fn insert(transaction: &Transaction<'_>, ask: &Ask) -> rusqlite::Result<()> {
    for (place, member) in ask.members.iter().enumerate() {
        let mut statement =
            transaction.prepare_cached("INSERT OR IGNORE INTO members VALUES (?1, ?2, ?3, ?4, ?5)")?;
        statement.execute(params![
            ask.key.as_slice(),
            place as u64,
            member.subject_id,
            member.item_key.as_slice(),
            member.weight
        ])?;
    }
    Ok(())
}
