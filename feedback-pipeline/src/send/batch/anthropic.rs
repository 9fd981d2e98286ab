//! Anthropic's Message Batches: `POST /v1/messages/batches` with all requests in the body.

use super::line::{Answered, Line, Listed, Page, Standing, key, moment_ms};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Batch {
    id: String,
    processing_status: String,
    #[serde(default)]
    request_counts: Counts,
    #[serde(default)]
    created_at: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Counts {
    processing: u64,
    succeeded: u64,
    errored: u64,
    canceled: u64,
    expired: u64,
}

impl Counts {
    fn done(&self) -> u64 {
        [self.succeeded, self.errored, self.canceled, self.expired].into_iter().fold(0, u64::saturating_add)
    }

    fn all(&self) -> u64 {
        self.done().saturating_add(self.processing)
    }
}

/// Id of the batch that was made.
pub fn created(body: &[u8]) -> Result<String, String> {
    let batch: Batch = serde_json::from_slice(body).map_err(|e| format!("no message batch: {e}"))?;
    Ok(batch.id)
}

/// How a batch stands.
pub fn standing(body: &[u8]) -> Result<Standing, String> {
    let batch: Batch = serde_json::from_slice(body).map_err(|e| format!("no message batch: {e}"))?;
    Ok(match batch.processing_status.as_str() {
        "ended" => Standing::Ended { paths: vec![format!("/messages/batches/{}/results", batch.id)] },
        _ => Standing::Running { done: batch.request_counts.done(), of: batch.request_counts.all() },
    })
}

/// A page of the list.
pub fn page(body: &[u8]) -> Result<Page, String> {
    Page::read(body, |batch: Batch| Listed {
        created_at_ms: moment_ms(&batch.created_at).unwrap_or(i64::MAX),
        requests: batch.request_counts.all(),
        ended: batch.processing_status == "ended",
        plan: None,
        id: batch.id,
    })
}

/// A line of results.
pub fn line(line: &[u8]) -> Result<Line, String> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        custom_id: String,
        #[serde(borrow)]
        result: Outcome<'a>,
    }
    #[derive(Deserialize)]
    struct Outcome<'a> {
        r#type: String,
        #[serde(borrow)]
        message: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let entry: Entry<'_> = serde_json::from_slice(line).map_err(|e| format!("no result: {e}"))?;
    let sent_key = key(&entry.custom_id)?;
    let answered = match (entry.result.r#type.as_str(), entry.result.message, entry.result.error) {
        ("succeeded", Some(message), _) => Answered::Reply(Bytes::copy_from_slice(message.get().as_bytes())),
        ("errored", _, Some(error)) => {
            // The error stands in an envelope of its own, as a single request would get it; or bare.
            let body = error.get().to_owned();
            let read = crate::teacher::ServiceError::read(body.as_bytes());
            Answered::Error { status: status(&read.kind), body: body.into() }
        }
        ("expired", ..) => Answered::Not("expired"),
        ("canceled", ..) => Answered::Not("cancelled"),
        (other, ..) => {
            return Err(format!(
                "result.type: expected succeeded, errored, canceled or expired with its content, found `{other}`"
            ));
        }
    };
    Ok(Line { sent_key, answered })
}

/// HTTP status that an error would have had.
fn status(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "overloaded_error" => 529,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds() {
        let id = "00".repeat(32);
        let read = |result: &str| {
            line(format!(r#"{{"custom_id":"{id}","result":{result}}}"#).as_bytes()).map(|line| line.answered)
        };
        assert_eq!(
            read(r#"{"type":"succeeded","message":{"content": []}}"#),
            Ok(Answered::Reply(Bytes::from_static(br#"{"content": []}"#)))
        );
        for error in [
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"x"}}"#,
            r#"{"type":"invalid_request_error","message":"x"}"#,
        ] {
            let Ok(Answered::Error { status: 400, body }) =
                read(&format!(r#"{{"type":"errored","error":{error}}}"#))
            else {
                panic!()
            };
            assert_eq!(crate::teacher::ServiceError::read(&body).message, "x");
        }
        assert_eq!(read(r#"{"type":"expired"}"#), Ok(Answered::Not("expired")));
        assert_eq!(read(r#"{"type":"canceled"}"#), Ok(Answered::Not("cancelled")));
        assert!(read(r#"{"type":"succeeded"}"#).is_err());
        assert!(line(b"{").is_err());
    }

    #[test]
    fn standing_and_list() {
        let running = br#"{"id":"b","processing_status":"in_progress","request_counts":{"processing":3,"succeeded":1}}"#;
        assert_eq!(standing(running), Ok(Standing::Running { done: 1, of: 4 }));
        let list = br#"{"data":[{"id":"b","processing_status":"ended","created_at":"1970-01-01T00:00:01Z","request_counts":{"expired":2}}],"has_more":true}"#;
        let page = page(list).unwrap();
        assert_eq!(
            (page.batches[0].requests, page.batches[0].created_at_ms, page.batches[0].ended),
            (2, 1_000, true)
        );
        assert_eq!(page.next.as_deref(), Some("b"));
    }
}
