//! Anthropic's Message Batches: `POST /v1/messages/batches` with all requests in the body.

use super::line::{Answered, Ended, Line, Listed, Page, Standing, count, key, moment_ms, parse, unwrapped};
use crate::teacher::ServiceError;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Batch {
    id: String,
    #[serde(default)]
    processing_status: String,
    request_counts: Option<Value>,
    #[serde(default)]
    created_at: String,
}

impl Batch {
    /// Requests that have a result.
    fn results(&self) -> Option<u64> {
        let counts = ["succeeded", "errored", "canceled", "expired"];
        let counts = counts.into_iter().filter_map(|name| count(self.request_counts.as_ref(), name));
        counts.reduce(u64::saturating_add)
    }

    fn requests(&self) -> Option<u64> {
        let processing = count(self.request_counts.as_ref(), "processing");
        [self.results(), processing].into_iter().flatten().reduce(u64::saturating_add)
    }
}

/// Id of the created batch.
pub fn created(body: &[u8]) -> Result<String, String> {
    let batch: Batch = parse(body, "message batch")?;
    Ok(batch.id)
}

/// State of a batch. Unknown statuses count as running.
pub fn standing(body: &[u8]) -> Result<Standing, String> {
    let batch: Batch = parse(body, "message batch")?;
    Ok(match batch.processing_status.as_str() {
        "ended" => Standing::Ended(Ended {
            paths: vec![format!("/messages/batches/{}/results", batch.id)],
            // A batch that has ended has results.
            results: batch.results().filter(|results| *results > 0),
            is_file_late: false,
        }),
        _ => Standing::Running {
            done: batch.results().unwrap_or_default(),
            of: batch.requests().unwrap_or_default(),
        },
    })
}

/// A page of the list.
pub fn page(body: &[u8]) -> Result<Page, String> {
    Page::read(body, |batch: Batch| Listed {
        created_at_ms: moment_ms(&batch.created_at).unwrap_or(i64::MAX),
        requests: batch.requests(),
        ended: batch.processing_status == "ended",
        plan: None,
        file_id: None,
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
    let entry: Entry<'_> = parse(line, "result")?;
    let sent_key = key(&entry.custom_id)?;
    let answered = match (entry.result.r#type.as_str(), entry.result.message, entry.result.error) {
        ("succeeded", Some(message), _) => Answered::Reply(Bytes::copy_from_slice(message.get().as_bytes())),
        ("errored", _, Some(error)) => {
            // The error is in the envelope of a single request, in one more, or in none.
            let (body, _) = unwrapped(error);
            Answered::Error { status: ServiceError::read(&body).effective_status(200), body }
        }
        ("expired", ..) => Answered::Not("expired"),
        ("canceled" | "cancelled", ..) => Answered::Not("cancelled"),
        (other, ..) => {
            return Err(format!(
                "result.type: expected succeeded, errored, canceled or expired with its content, found `{other}`"
            ));
        }
    };
    Ok(Line { sent_key, answered })
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
            r#"{"type":"error","error":{"type":"error","error":{"type":"invalid_request_error","message":"x"}}}"#,
            r#"{"type":"invalid_request_error","message":"x"}"#,
        ] {
            let Ok(Answered::Error { status: 400, body }) =
                read(&format!(r#"{{"type":"errored","error":{error}}}"#))
            else {
                panic!()
            };
            assert_eq!(ServiceError::read(&body).message, "x");
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
        let unknown = "\u{feff}{\"id\":\"b\",\"processing_status\":\"finalizing\"}";
        assert_eq!(standing(unknown.as_bytes()), Ok(Standing::Running { done: 0, of: 0 }));
        for (counts, results) in [
            (r#"{"processing":0,"succeeded":3,"errored":1,"canceled":2,"expired":4}"#, Some(10)),
            (r#"{"processing":0,"succeeded":0}"#, None),
            ("null", None),
        ] {
            let ended = format!(r#"{{"id":"b","processing_status":"ended","request_counts":{counts}}}"#);
            let Ok(Standing::Ended(ended)) = standing(ended.as_bytes()) else { panic!("{counts}") };
            assert_eq!((ended.results, ended.is_file_late), (results, false), "{counts}");
            assert_eq!(ended.paths, ["/messages/batches/b/results"]);
        }
        let list = br#"{"data":[{"id":"b","processing_status":"ended","created_at":"1970-01-01T00:00:01Z","request_counts":{"expired":2}}],"has_more":true}"#;
        let page = page(list).unwrap();
        assert_eq!(
            (page.batches[0].requests, page.batches[0].created_at_ms, page.batches[0].ended),
            (Some(2), 1_000, true)
        );
        assert_eq!(page.next.as_deref(), Some("b"));
    }
}
