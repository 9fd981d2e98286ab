//! OpenAI's Batch API: a file of JSON lines is uploaded, then `POST /v1/batches` names it.

use super::line::{Answered, Ended, Line, Listed, Page, Standing, count, key, parse, unwrapped};
use crate::teacher::ServiceError;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Key of the batch's metadata that holds our own name of it.
pub const PLAN: &str = "ares_plan";

#[derive(Deserialize)]
struct Batch {
    id: String,
    #[serde(default)]
    status: String,
    created_at: Option<Value>,
    input_file_id: Option<String>,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    request_counts: Option<Value>,
    metadata: Option<Value>,
    errors: Option<Errors>,
}

impl Batch {
    fn count(&self, name: &str) -> Option<u64> {
        count(self.request_counts.as_ref(), name)
    }

    /// Requests that have a result.
    fn results(&self) -> u64 {
        self.count("completed").unwrap_or_default().saturating_add(self.count("failed").unwrap_or_default())
    }

    fn ended(&self) -> Ended {
        let results = match (self.status.as_str(), self.results()) {
            // A completed batch has results.
            ("completed", 0) => None,
            // A batch that did not complete has none, if it has counts at all.
            (_, 0) => self.count("total").filter(|total| *total > 0).map(|_| 0),
            (_, results) => Some(results),
        };
        let is_id = |id: &&String| !id.trim().is_empty();
        let (output, errors) =
            (self.output_file_id.as_ref().filter(is_id), self.error_file_id.as_ref().filter(is_id));
        Ended {
            paths: [output, errors].into_iter().flatten().map(|id| format!("/files/{id}/content")).collect(),
            results,
            is_file_late: output.is_none() && self.count("completed").is_some_and(|answers| answers > 0),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "expired" | "cancelled" | "canceled")
    }

    fn is_explained(&self) -> bool {
        self.errors.as_ref().is_some_and(|errors| errors.data.as_ref().is_some_and(|data| !data.is_empty()))
    }

    /// Why it was not accepted.
    fn explanation(&self) -> String {
        let told = self.errors.iter().flat_map(|errors| errors.data.iter().flatten()).take(3);
        let told: Vec<String> = told
            .map(|error| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("{}: {}", text(&error.code), text(&error.message))
            })
            .collect();
        if told.is_empty() { "no explanation".to_owned() } else { told.join("; ") }
    }
}

#[derive(Deserialize)]
struct Errors {
    data: Option<Vec<Explained>>,
}

#[derive(Deserialize)]
struct Explained {
    code: Option<String>,
    message: Option<String>,
}

/// The request that creates a batch from an uploaded file.
pub fn creation(file_id: &str, plan: &str) -> Bytes {
    let body = serde_json::json!({
        "input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {PLAN: plan},
    });
    body.to_string().into()
}

/// Id of the created file or batch.
pub fn created(body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Made {
        id: String,
    }
    let made: Made = parse(body, "file or batch")?;
    Ok(made.id)
}

/// State of a batch. Unknown statuses count as running.
pub fn standing(body: &[u8]) -> Result<Standing, String> {
    let batch: Batch = parse(body, "batch")?;
    let ended = batch.ended();
    Ok(match batch.status.as_str() {
        // Not accepted, whatever its counts, unless it names files, or has counts and no reason.
        "failed" if ended.paths.is_empty() && (batch.results() == 0 || batch.is_explained()) => {
            Standing::Failed(batch.explanation())
        }
        "failed" => Standing::Ended(ended),
        _ if batch.has_ended() => Standing::Ended(ended),
        _ => Standing::Running { done: batch.results(), of: batch.count("total").unwrap_or_default() },
    })
}

/// A page of the list.
pub fn page(body: &[u8]) -> Result<Page, String> {
    Page::read(body, |batch: Batch| Listed {
        plan: batch.metadata.as_ref().and_then(|metadata| Some(metadata.get(PLAN)?.as_str()?.to_owned())),
        created_at_ms: batch
            .created_at
            .as_ref()
            .and_then(Value::as_f64)
            .map_or(i64::MAX, |secs| (secs * 1_000.0) as i64),
        requests: batch.count("total"),
        ended: batch.has_ended() || batch.status == "failed",
        file_id: batch.input_file_id,
        id: batch.id,
    })
}

/// A line of the output file or the error file.
pub fn line(line: &[u8]) -> Result<Line, String> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        custom_id: String,
        #[serde(borrow)]
        response: Option<Response<'a>>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Response<'a> {
        status_code: u16,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let entry: Entry<'_> = parse(line, "result")?;
    let sent_key = key(&entry.custom_id)?;
    let copied = |raw: &RawValue| Bytes::copy_from_slice(raw.get().as_bytes());
    let answered = match (entry.response, entry.error) {
        (Some(Response { status_code: 200..300, body }), _) => Answered::Reply(copied(body)),
        (Some(Response { status_code: status, body }), _) => match unwrapped(body) {
            // Stored unchanged, unless it has one more envelope than for a single request.
            (_, 0 | 1) => Answered::Error { status, body: copied(body) },
            (body, _) => Answered::Error { status, body },
        },
        (None, Some(error)) => {
            let (body, _) = unwrapped(error);
            let error = ServiceError::read(&body);
            match error.code.as_str() {
                "batch_expired" => Answered::Not("expired"),
                "batch_cancelled" => Answered::Not("cancelled"),
                _ => Answered::Error { status: error.effective_status(200), body },
            }
        }
        (None, None) => return Err("expected a response or an error, found neither".to_owned()),
    };
    Ok(Line { sent_key, answered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds() {
        let id = "00".repeat(32);
        let read = |rest: &str| {
            line(format!(r#"{{"custom_id":"{id}",{rest}}}"#).as_bytes()).map(|line| line.answered)
        };
        let reply = read(r#""response":{"status_code":200,"body":{"choices":[]}},"error":null"#);
        assert_eq!(reply, Ok(Answered::Reply(Bytes::from_static(br#"{"choices":[]}"#))));
        let error = read(r#""response":{"status_code":429,"body":{"error":{"code":"x"}}},"error":null"#);
        assert!(matches!(error, Ok(Answered::Error { status: 429, .. })));
        let expired = read(r#""response":null,"error":{"code":"batch_expired","message":"m"}"#);
        assert_eq!(expired, Ok(Answered::Not("expired")));
        let wrapped = read(r#""error":{"type":"error","error":{"code":"batch_expired"}}"#);
        assert_eq!(wrapped, Ok(Answered::Not("expired")));
        let wrapped =
            read(r#""response":{"status_code":400,"body":{"type":"error","error":{"error":{"code":"x"}}}}"#);
        let body = Bytes::from_static(br#"{"error":{"code":"x"}}"#);
        assert_eq!(wrapped, Ok(Answered::Error { status: 400, body }));
        assert!(matches!(read(r#""error":{"code":"other"}"#), Ok(Answered::Error { status: 502, .. })));
        assert!(read(r#""error":null"#).is_err());
    }

    #[test]
    fn standing_and_list() {
        let failed = br#"{"id":"b","status":"failed","errors":{"data":[{"code":"token_limit_exceeded","message":"too many"}]}}"#;
        assert_eq!(standing(failed), Ok(Standing::Failed("token_limit_exceeded: too many".to_owned())));
        let ended = |rest: &str| match standing(format!(r#"{{"id":"b",{rest}}}"#).as_bytes()) {
            Ok(Standing::Ended(ended)) => ended,
            other => panic!("{rest}: {other:?}"),
        };
        let files = ended(r#""status":"expired","output_file_id":"f1","error_file_id":"f2""#);
        assert_eq!(files.paths, ["/files/f1/content", "/files/f2/content"]);
        assert_eq!((files.results, files.is_file_late), (None, false), "no counts");
        // An empty id counts as missing, and a file may be late.
        let late = ended(
            r#""status":"completed","output_file_id":"","error_file_id":null,"request_counts":{"total":9,"completed":7,"failed":"2"}"#,
        );
        assert_eq!(late, Ended { paths: Vec::new(), results: Some(9), is_file_late: true });
        let counted = |status: &str, counts: &str| {
            ended(&format!(r#""status":"{status}","request_counts":{counts}"#)).results
        };
        assert_eq!(counted("cancelled", r#"{"total":9,"completed":0,"failed":0}"#), Some(0));
        assert_eq!(
            counted("cancelled", r#"{"total":0,"completed":0,"failed":0}"#),
            None,
            "it does not count"
        );
        assert_eq!(counted("completed", r#"{"total":9,"completed":0,"failed":0}"#), None, "late counts");
        assert_eq!(counted("failed", r#"{"total":9,"completed":4,"failed":0}"#), Some(4), "partial results");
        let unknown = "\u{feff}{\"id\":\"b\",\"status\":\"paused\",\"request_counts\":[]}";
        assert_eq!(standing(unknown.as_bytes()), Ok(Standing::Running { done: 0, of: 0 }));
        let list = br#"{"data":[{"id":"b","status":"in_progress","created_at":5,"metadata":{"ares_plan":"p"},"request_counts":{"total":7}}]}"#;
        let page = page(list).unwrap();
        assert_eq!((page.batches[0].plan.as_deref(), page.batches[0].requests), (Some("p"), Some(7)));
        assert_eq!(page.next, None);
    }
}
