//! OpenAI's Batch API: a file of JSON lines is uploaded, then `POST /v1/batches` names it.

use super::line::{Answered, Line, Listed, Page, Standing, key};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Key of the batch's metadata that holds our own name of it.
pub const PLAN: &str = "ares_plan";

#[derive(Deserialize)]
struct Batch {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    created_at: i64,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    request_counts: Option<Counts>,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
    errors: Option<Errors>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    data: Vec<Explained>,
}

#[derive(Deserialize)]
struct Explained {
    code: Option<String>,
    message: Option<String>,
}

/// What names an uploaded file as a batch.
pub fn creation(file_id: &str, plan: &str) -> Bytes {
    let body = serde_json::json!({
        "input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {PLAN: plan},
    });
    body.to_string().into()
}

/// Id of what was made, a file or a batch.
pub fn created(body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Made {
        id: String,
    }
    let made: Made = serde_json::from_slice(body).map_err(|e| format!("no file or batch: {e}"))?;
    Ok(made.id)
}

/// How a batch stands.
pub fn standing(body: &[u8]) -> Result<Standing, String> {
    let batch: Batch = serde_json::from_slice(body).map_err(|e| format!("no batch: {e}"))?;
    Ok(match batch.status.as_str() {
        "failed" => {
            let told = batch.errors.map(|errors| errors.data).unwrap_or_default();
            let told: Vec<String> = told
                .into_iter()
                .take(3)
                .map(|error| {
                    format!("{}: {}", error.code.unwrap_or_default(), error.message.unwrap_or_default())
                })
                .collect();
            Standing::Failed(if told.is_empty() { "no explanation".to_owned() } else { told.join("; ") })
        }
        "completed" | "expired" | "cancelled" => {
            let files = [batch.output_file_id, batch.error_file_id].into_iter().flatten();
            Standing::Ended { paths: files.map(|id| format!("/files/{id}/content")).collect() }
        }
        _ => {
            let counts = batch.request_counts.unwrap_or_default();
            Standing::Running { done: counts.completed.saturating_add(counts.failed), of: counts.total }
        }
    })
}

/// A page of the list.
pub fn page(body: &[u8]) -> Result<Page, String> {
    let plan = |batch: &Batch| Some(batch.metadata.as_ref()?.get(PLAN)?.as_str()?.to_owned());
    Page::read(body, |batch: Batch| Listed {
        plan: plan(&batch),
        created_at_ms: batch.created_at.saturating_mul(1_000),
        requests: batch.request_counts.unwrap_or_default().total,
        ended: matches!(batch.status.as_str(), "completed" | "expired" | "cancelled" | "failed"),
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
    let entry: Entry<'_> = serde_json::from_slice(line).map_err(|e| format!("no result: {e}"))?;
    let sent_key = key(&entry.custom_id)?;
    let copied = |raw: &RawValue| Bytes::copy_from_slice(raw.get().as_bytes());
    let answered = match (entry.response, entry.error) {
        (Some(response), _) if (200..300).contains(&response.status_code) => {
            Answered::Reply(copied(response.body))
        }
        (Some(response), _) => Answered::Error { status: response.status_code, body: copied(response.body) },
        (None, Some(error)) => {
            let code = serde_json::from_str::<Explained>(error.get()).ok().and_then(|error| error.code);
            match code.as_deref() {
                Some("batch_expired") => Answered::Not("expired"),
                Some("batch_cancelled") => Answered::Not("cancelled"),
                _ => Answered::Error { status: 500, body: format!("{{\"error\":{}}}", error.get()).into() },
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
        assert!(matches!(read(r#""error":{"code":"other"}"#), Ok(Answered::Error { status: 500, .. })));
        assert!(read(r#""error":null"#).is_err());
    }

    #[test]
    fn standing_and_list() {
        let failed = br#"{"id":"b","status":"failed","errors":{"data":[{"code":"token_limit_exceeded","message":"too many"}]}}"#;
        assert_eq!(standing(failed), Ok(Standing::Failed("token_limit_exceeded: too many".to_owned())));
        let ended = br#"{"id":"b","status":"expired","output_file_id":"f1","error_file_id":"f2"}"#;
        let paths = vec!["/files/f1/content".to_owned(), "/files/f2/content".to_owned()];
        assert_eq!(standing(ended), Ok(Standing::Ended { paths }));
        let list = br#"{"data":[{"id":"b","status":"in_progress","created_at":5,"metadata":{"ares_plan":"p"},"request_counts":{"total":7}}]}"#;
        let page = page(list).unwrap();
        assert_eq!((page.batches[0].plan.as_deref(), page.batches[0].requests), (Some("p"), 7));
        assert_eq!(page.next, None);
    }
}
