//! What both providers report about batches, in a common form.

use crate::teacher::{Key, parse_key};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// State of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Running {
        /// Completed requests.
        done: u64,
        /// Requests in it.
        of: u64,
    },
    /// It has ended.
    Ended(Ended),
    /// It was rejected as a whole.
    Failed(String),
    /// The service does not know it.
    Gone,
}

/// Location and number of a batch's results. The files may appear minutes after the batch has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// API paths of the files that exist already.
    pub paths: Vec<String>,
    /// Number of requests with a result, by the batch's counts; `None` if it has none.
    pub results: Option<u64>,
    /// True if the counts include answers, but their file is not named yet.
    pub is_file_late: bool,
}

impl Ended {
    /// Whether this many results are all results of a batch with this many requests.
    pub fn is_complete(&self, results: u64, requests: u64) -> bool {
        let all = self.results.unwrap_or(requests).min(requests);
        results >= requests || (results >= all && !self.is_file_late)
    }

    /// Number of results still to come.
    pub fn missing(&self, results: u64, requests: u64) -> u64 {
        self.results.unwrap_or(requests).clamp(results, requests.max(results)).saturating_sub(results)
    }
}

/// A batch in the service's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The service's id.
    pub id: String,
    /// Our name, if the service keeps it.
    pub plan: Option<String>,
    /// The uploaded file, if the service requires one.
    pub file_id: Option<String>,
    /// Time of creation, in ms since 1970.
    pub created_at_ms: i64,
    /// Number of requests; `None` if the list does not contain it.
    pub requests: Option<u64>,
    /// True if its results can be read.
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
    /// Parses a page whose batches have the provider's format `B`.
    pub fn read<B: DeserializeOwned>(body: &[u8], listed: impl Fn(B) -> Listed) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct List<B> {
            data: Vec<B>,
            #[serde(default)]
            has_more: bool,
        }
        let list: List<B> = parse(body, "list of batches")?;
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
    /// The result of the request.
    pub answered: Answered,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The reply's body, as for a single request.
    Reply(Bytes),
    /// An error.
    Error {
        /// HTTP status, as for a single request.
        status: u16,
        /// Body with the error.
        body: Bytes,
    },
    /// No result and no charge: expired or cancelled.
    Not(&'static str),
}

impl Answered {
    /// The body, as for a single request; empty if there is no answer.
    pub(super) fn body(&self) -> Bytes {
        match self {
            Self::Reply(body) | Self::Error { body, .. } => body.clone(),
            Self::Not(_) => Bytes::new(),
        }
    }
}

/// Parses one of our `custom_id`s.
pub(super) fn key(custom_id: &str) -> Result<Key, String> {
    parse_key(custom_id)
        .ok_or_else(|| format!("custom_id: expected 64 hexadecimal digits, found `{custom_id}`"))
}

/// Timestamp of an RFC 3339 time, in ms since 1970.
pub(super) fn moment_ms(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.timestamp_millis())
}

/// Reads JSON that may begin with a byte order mark.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, String> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    serde_json::from_slice(body).map_err(|e| format!("no {what}: {e}"))
}

/// A count in any notation; `None` if there is none.
pub(super) fn count(counts: Option<&Value>, name: &str) -> Option<u64> {
    let count = counts?.get(name)?;
    count.as_u64().or_else(|| count.as_str()?.trim().parse().ok())
}

/// The body of an error without extra envelopes, and the number of those removed.
pub(super) fn unwrapped(error: &RawValue) -> (Bytes, usize) {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let (mut inner, mut envelopes) = (error.get(), 0);
    while let Ok(Envelope { error: Some(error) }) = serde_json::from_str(inner)
        && error.get() != "null"
    {
        (inner, envelopes) = (error.get(), envelopes + 1);
    }
    (format!("{{\"error\":{inner}}}").into(), envelopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_moments() {
        assert_eq!(key(&"ab".repeat(32)), Ok([0xab; 32]));
        assert!(key("ab").is_err() && key(&"x".repeat(64)).is_err() && key(&"é".repeat(32)).is_err());
        assert_eq!(moment_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(moment_ms("2024-02-29T12:30:15.25+00:00"), Some(1_709_209_815_250));
        assert_eq!(moment_ms("2024-02-29T14:30:15+02:00"), Some(1_709_209_815_000));
        assert_eq!(moment_ms("soon"), None);
    }

    #[test]
    fn errors_out_of_their_envelopes() {
        for (body, inner, envelopes) in [
            (r#"{"type":"a"}"#, r#"{"error":{"type":"a"}}"#, 0),
            (r#"{"error":{"type":"a"}}"#, r#"{"error":{"type":"a"}}"#, 1),
            (r#"{"error":{"error":{"type":"a"}}}"#, r#"{"error":{"type":"a"}}"#, 2),
            (r#"{"error":"slow down"}"#, r#"{"error":"slow down"}"#, 1),
            (r#"{"error":null,"message":"a"}"#, r#"{"error":{"error":null,"message":"a"}}"#, 0),
        ] {
            let raw: &RawValue = serde_json::from_str(body).unwrap();
            assert_eq!(unwrapped(raw), (Bytes::from(inner), envelopes), "{body}");
        }
    }

    #[test]
    fn results_are_complete_by_the_counts() {
        let ended = |results, is_file_late| Ended { paths: Vec::new(), results, is_file_late };
        let unknown = ended(None, false);
        assert!(unknown.is_complete(10, 10) && !unknown.is_complete(9, 10));
        assert_eq!(unknown.missing(4, 10), 6);
        let partial = ended(Some(4), false);
        assert!(partial.is_complete(4, 10) && !partial.is_complete(3, 10));
        assert_eq!((partial.missing(3, 10), partial.missing(5, 10)), (1, 0));
        let late = ended(Some(4), true);
        assert!(!late.is_complete(4, 10), "errors alone, and the answers are to come");
        assert!(late.is_complete(10, 10));
        assert!(ended(Some(0), false).is_complete(0, 10), "ended before anything was done");
        assert!(ended(Some(u64::MAX), false).is_complete(10, 10));
    }
}
