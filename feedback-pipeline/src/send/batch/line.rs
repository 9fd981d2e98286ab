//! What both providers say of batches, in common words.

use crate::teacher::{Key, parse_key};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Running {
        /// Requests that are done.
        done: u64,
        /// Requests in it.
        of: u64,
    },
    /// Its results lie at these paths of the API.
    Ended {
        /// The paths.
        paths: Vec<String>,
    },
    /// It was not taken as a whole.
    Failed(String),
    /// The service does not know it.
    Gone,
}

/// A batch in the service's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The service's name of it.
    pub id: String,
    /// Our name of it, where the service keeps that.
    pub plan: Option<String>,
    /// Moment it was made, in ms since 1970.
    pub created_at_ms: i64,
    /// Requests in it.
    pub requests: u64,
    /// True where its results can be read.
    pub ended: bool,
}

/// A page of the service's list, the latest batch first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The batches.
    pub batches: Vec<Listed>,
    /// Last id of the page; none on the last page.
    pub next: Option<String>,
}

impl Page {
    /// Reads a page whose batches a provider writes as `B`.
    pub fn read<B: DeserializeOwned>(body: &[u8], listed: impl Fn(B) -> Listed) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct List<B> {
            data: Vec<B>,
            #[serde(default)]
            has_more: bool,
        }
        let list: List<B> = serde_json::from_slice(body).map_err(|e| format!("no list of batches: {e}"))?;
        let batches: Vec<Listed> = list.data.into_iter().map(listed).collect();
        let next = batches.last().filter(|_| list.has_more).map(|batch| batch.id.clone());
        Ok(Self { batches, next })
    }
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The `custom_id`.
    pub sent_key: Key,
    /// What came of the request.
    pub answered: Answered,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The reply's body, as a single request would have got it.
    Reply(Bytes),
    /// An error.
    Error {
        /// HTTP status that a single request would have got.
        status: u16,
        /// Body with the error.
        body: Bytes,
    },
    /// Nothing, and nothing was charged: expired or cancelled.
    Not(&'static str),
}

/// Reads a `custom_id` of ours.
pub(super) fn key(custom_id: &str) -> Result<Key, String> {
    parse_key(custom_id)
        .ok_or_else(|| format!("custom_id: expected 64 hexadecimal digits, found `{custom_id}`"))
}

/// Moment of an RFC 3339 time in UTC, in ms since 1970; parts of a second are dropped.
pub(super) fn moment_ms(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days of the civil calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        shifted * 365 + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400) + of_year
            - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_moments() {
        assert_eq!(key(&"ab".repeat(32)), Ok([0xab; 32]));
        assert!(key("ab").is_err() && key(&"x".repeat(64)).is_err() && key(&"é".repeat(32)).is_err());
        assert_eq!(moment_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(moment_ms("2024-02-29T12:30:15.25+00:00"), Some(1_709_209_815_000));
        assert_eq!(moment_ms("2026-11-23T00:00:00Z"), Some(1_795_392_000_000));
        assert_eq!(moment_ms("soon"), None);
    }
}
