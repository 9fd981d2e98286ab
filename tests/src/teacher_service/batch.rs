//! Batches: accepted, answered all at once after a while, and returned as JSON lines in a different order.

use super::Shared;
use super::receive::{Answered, answer};
use super::wire::Api;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Behaviour of batches.
#[derive(Debug, Clone, Default)]
pub struct BatchOptions {
    /// Time until a batch ends.
    pub latency: Duration,
    /// Number of first batches that end with every second request expired.
    pub expire: u32,
    /// Number of first batches that are accepted, but whose connection breaks before the id is sent.
    pub cut_submissions: u32,
    /// Number of first downloads of results that end early.
    pub cut_results: u32,
    /// Number of first batches whose results lack every second line.
    pub lose_lines: u32,
    /// Number of first batches in whose results every second line is unreadable.
    pub garble_lines: u32,
    /// Number of first polls of a batch that are answered 500.
    pub failing_looks: u32,
    /// The first batch is refused as a whole after it was accepted (OpenAI only).
    pub fail_first: bool,
    /// Time until the id of a submitted batch is sent.
    pub submit_latency: Duration,
    /// If there are no errors, the id of the error file is empty instead of null (OpenAI only).
    pub empty_error_id: bool,
    /// Time from the end of a batch until it names the file of its results (OpenAI only).
    pub late_output: Duration,
    /// Number of first batches in whose results every second line is repeated.
    pub double_lines: u32,
    /// Files of results begin with a byte order mark.
    pub bom: bool,
    /// Errors in results have one more envelope than documented.
    pub wrap_errors: bool,
    /// Number of first batches that are cancelled when every second request has a result (OpenAI only).
    pub cancel: u32,
    /// Number of first attempts to create a batch from an uploaded file that are answered 500 (OpenAI only).
    pub failing_creations: u32,
}

/// All batches and files.
#[derive(Default)]
pub(super) struct Batches {
    batches: Vec<Batch>,
    files: Vec<Bytes>,
    cut_submissions: u32,
    cut_results: u32,
    failing_looks: u32,
    failing_creations: u32,
}

struct Batch {
    id: String,
    api: Api,
    metadata: Value,
    made: Instant,
    created: SystemTime,
    requests: usize,
    failed: bool,
    cancelled: bool,
    /// Answers and errors, computed on first request, since they do not depend on time.
    results: Vec<String>,
    errors: Vec<String>,
}

/// The reply to a call of a batch API.
pub(super) enum Told {
    Json(u16, Value),
    Lines(Bytes, bool),
    /// The connection breaks.
    Nothing,
}

fn not_there() -> Told {
    Told::Json(
        404,
        json!({"type": "error", "error": {"type": "not_found_error", "message": "no such thing"}}),
    )
}

fn bad(message: &str) -> Told {
    Told::Json(400, json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}}))
}

/// The requests in a call, for the log.
pub(super) fn requests_in(body: &[u8]) -> Vec<Value> {
    if let Ok(mut sent) = serde_json::from_slice::<Value>(body) {
        let entries = sent["requests"].as_array_mut().map(std::mem::take).unwrap_or_default();
        return entries.into_iter().map(|mut entry| entry["params"].take()).collect();
    }
    let lines = body.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{"));
    lines.filter_map(|line| Some(serde_json::from_slice::<Value>(line).ok()?["body"].take())).collect()
}

/// Answers a call of a batch API.
pub(super) async fn call(shared: &Arc<Shared>, post: bool, path: &str, query: &str, body: Bytes) -> Told {
    let options = &shared.options.batch;
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match (post, parts.as_slice()) {
        (true, ["files"]) => {
            let Some(lines) = uploaded(&body) else { return bad("expected parts purpose and file") };
            let mut batches = shared.batches();
            batches.files.push(lines);
            Told::Json(
                200,
                json!({"id": format!("file-{}", batches.files.len()), "object": "file", "purpose": "batch"}),
            )
        }
        (true, ["messages", "batches"]) => {
            #[derive(Deserialize)]
            struct Sent<'a> {
                #[serde(borrow)]
                requests: Vec<Entry<'a>>,
            }
            #[derive(Deserialize)]
            struct Entry<'a> {
                custom_id: String,
                #[serde(borrow)]
                params: &'a RawValue,
            }
            let Ok(sent) = serde_json::from_slice::<Sent<'_>>(&body) else { return bad("expected requests") };
            let requests = sent.requests.into_iter().map(|entry| (entry.custom_id, entry.params.get()));
            take(shared, Api::Anthropic, json!({}), requests.collect()).await
        }
        (true, ["batches"]) => {
            let Ok(sent) = serde_json::from_slice::<Value>(&body) else { return bad("expected JSON") };
            {
                let mut batches = shared.batches();
                if batches.failing_creations < options.failing_creations {
                    batches.failing_creations += 1;
                    return Told::Json(500, json!({"error": {"type": "api_error", "message": "internal"}}));
                }
            }
            let number =
                sent["input_file_id"].as_str().and_then(|id| id.strip_prefix("file-")?.parse::<usize>().ok());
            let file = number.and_then(|number| shared.batches().files.get(number.wrapping_sub(1)).cloned());
            let Some(file) = file else { return bad("input_file_id: no such file") };
            #[derive(Deserialize)]
            struct Entry<'a> {
                custom_id: String,
                method: String,
                url: String,
                #[serde(borrow)]
                body: &'a RawValue,
            }
            let mut requests = Vec::new();
            for line in file.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
                match serde_json::from_slice::<Entry<'_>>(line) {
                    Ok(entry) if entry.method == "POST" && entry.url == "/v1/chat/completions" => {
                        requests.push((entry.custom_id, entry.body.get()));
                    }
                    _ => return bad("a line of the file is no request"),
                }
            }
            take(shared, Api::OpenAi, sent["metadata"].clone(), requests).await
        }
        (false, ["messages", "batches"] | ["batches"]) => list(shared, query),
        (false, ["messages", "batches", id] | ["batches", id]) => {
            let mut batches = shared.batches();
            if batches.failing_looks < options.failing_looks {
                batches.failing_looks += 1;
                return Told::Json(500, json!({"error": {"type": "api_error", "message": "internal"}}));
            }
            let found = batches.batches.iter().find(|batch| batch.id == **id);
            found.map_or_else(not_there, |batch| Told::Json(200, batch.tell(options)))
        }
        (false, ["messages", "batches", id, "results"]) => results(shared, id, false),
        (false, ["files", id, "content"]) => match id.split_once('-') {
            Some(("out", id)) => results(shared, id, false),
            Some(("err", id)) => results(shared, id, true),
            _ => not_there(),
        },
        _ => not_there(),
    }
}

/// The file in an upload.
fn uploaded(body: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let boundary = text.lines().next()?;
    let part = text.split(boundary).find(|part| part.contains("name=\"file\""))?;
    let (_, content) = part.split_once("\r\n\r\n")?;
    text.contains("name=\"purpose\"\r\n\r\nbatch\r\n").then(|| Bytes::copy_from_slice(content.as_bytes()))
}

async fn take(shared: &Arc<Shared>, api: Api, metadata: Value, requests: Vec<(String, &str)>) -> Told {
    let options = &shared.options.batch;
    let ids: std::collections::HashSet<&String> = requests.iter().map(|(id, _)| id).collect();
    if ids.len() < requests.len() || requests.is_empty() {
        return bad("custom_id: expected unique ones");
    }
    let mut results = Vec::new();
    let mut errors = Vec::new();
    let number = shared.batches().batches.len();
    let failed = options.fail_first && number == 0;
    for (place, (custom_id, body)) in requests.iter().enumerate() {
        if failed {
            break;
        }
        let expired = number < options.expire as usize && place % 2 == 1;
        let answered = if expired { None } else { Some(answer(shared, api, body.as_bytes())) };
        let (line, is_error) = told_line(api, custom_id, answered, options.wrap_errors);
        if is_error { errors.push(line) } else { results.push(line) }
    }
    // Not in the order of the requests.
    results.reverse();
    let cancelled = api == Api::OpenAi && number < options.cancel as usize;
    if number < options.lose_lines as usize || cancelled {
        let mut place = 0;
        results.retain(|_| {
            place += 1;
            place % 2 == 1
        });
    }
    if number < options.garble_lines as usize {
        results.iter_mut().step_by(2).for_each(|line| line.insert(0, '!'));
    }
    if number < options.double_lines as usize {
        let twice = |(place, line): (usize, String)| vec![line; 1 + (place + 1) % 2];
        results = results.into_iter().enumerate().flat_map(twice).collect();
    }
    shared.stats().batches += 1;
    let id = if api == Api::Anthropic { format!("msgbatch_{number}") } else { format!("batch_{number}") };
    let batch = Batch {
        id,
        api,
        metadata,
        made: Instant::now(),
        created: SystemTime::now(),
        requests: requests.len(),
        failed,
        cancelled,
        results,
        errors,
    };
    let told = batch.tell(options);
    let cut = {
        let mut batches = shared.batches();
        batches.batches.push(batch);
        let cut = batches.cut_submissions < options.cut_submissions;
        batches.cut_submissions += u32::from(cut);
        cut
    };
    tokio::time::sleep(options.submit_latency).await;
    if cut { Told::Nothing } else { Told::Json(200, told) }
}

/// A line of results, and whether it belongs to the error file.
fn told_line(api: Api, custom_id: &str, answered: Option<Answered>, wrap: bool) -> (String, bool) {
    let wrapped = |body: String| if wrap { format!(r#"{{"type":"error","error":{body}}}"#) } else { body };
    let openai = |response: Value, error: Value| {
        json!({"id": "batch_req", "custom_id": custom_id, "response": response, "error": error}).to_string()
    };
    match (api, answered) {
        (Api::Anthropic, None) => {
            (json!({"custom_id": custom_id, "result": {"type": "expired"}}).to_string(), false)
        }
        (Api::Anthropic, Some(Answered { status: 200..300, body })) => (
            format!(r#"{{"custom_id":"{custom_id}","result":{{"type":"succeeded","message":{body}}}}}"#),
            false,
        ),
        (Api::Anthropic, Some(Answered { body, .. })) => {
            let body = wrapped(body);
            (format!(r#"{{"custom_id":"{custom_id}","result":{{"type":"errored","error":{body}}}}}"#), false)
        }
        (Api::OpenAi, None) => {
            (openai(Value::Null, json!({"code": "batch_expired", "message": "expired"})), true)
        }
        (Api::OpenAi, Some(Answered { status, body })) => {
            let is_error = !(200..300).contains(&status);
            let body = if is_error { wrapped(body) } else { body };
            let line = format!(
                r#"{{"id":"batch_req","custom_id":"{custom_id}","response":{{"status_code":{status},"request_id":"r","body":{body}}},"error":null}}"#
            );
            (line, is_error)
        }
    }
}

fn list(shared: &Shared, query: &str) -> Told {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let after = value("after").or_else(|| value("after_id"));
    let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20_usize);
    let batches = shared.batches();
    let mut latest = batches.batches.iter().rev().peekable();
    if let Some(after) = after {
        latest.by_ref().find(|batch| batch.id == after);
    }
    let page: Vec<Value> =
        latest.by_ref().take(limit).map(|batch| batch.tell(&shared.options.batch)).collect();
    Told::Json(200, json!({"object": "list", "data": page, "has_more": latest.peek().is_some()}))
}

fn results(shared: &Shared, id: &str, errors: bool) -> Told {
    let options = &shared.options.batch;
    let mut batches = shared.batches();
    let Some(batch) = batches.batches.iter().find(|batch| batch.id == id) else { return not_there() };
    if batch.made.elapsed() < options.latency {
        return not_there();
    }
    let lines = if errors { &batch.errors } else { &batch.results };
    let mark = if options.bom { "\u{feff}" } else { "" };
    let mut text = format!("{mark}{}\n", lines.join("\n"));
    let cut = batches.cut_results < options.cut_results;
    batches.cut_results += u32::from(cut);
    if cut {
        let middle = (0..=text.len() / 2).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0);
        text.truncate(middle);
    }
    Told::Lines(text.into(), cut)
}

impl Batch {
    fn tell(&self, options: &BatchOptions) -> Value {
        let ended = self.made.elapsed() >= options.latency;
        let is_told = self.made.elapsed() >= options.latency + options.late_output;
        let secs = self.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let done = if ended { self.requests } else { 0 };
        if self.api == Api::Anthropic {
            let status = if ended { "ended" } else { "in_progress" };
            return json!({
                "id": self.id, "type": "message_batch", "processing_status": status, "created_at": rfc3339(secs),
                "request_counts": {"processing": self.requests - done, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0},
                "results_url": null,
            });
        }
        let status = match (self.failed, ended) {
            (true, _) => "failed",
            (_, false) => "in_progress",
            _ if self.cancelled => "cancelled",
            _ => "completed",
        };
        let file = |kind: &str, there: bool| {
            if ended && there { json!(format!("{kind}-{}", self.id)) } else { Value::Null }
        };
        let done = if self.cancelled { self.results.len() + self.errors.len() } else { done };
        let errors = match file("err", !self.errors.is_empty()) {
            Value::Null if options.empty_error_id && ended => json!(""),
            told => told,
        };
        let mistakes =
            json!({"data": [{"code": "token_limit_exceeded", "message": "too many tokens waiting"}]});
        json!({
            "id": self.id, "object": "batch", "status": status, "created_at": secs, "metadata": self.metadata,
            "output_file_id": file("out", is_told && !self.results.is_empty()), "error_file_id": errors,
            "errors": if self.failed { mistakes } else { Value::Null },
            "request_counts": {"total": self.requests, "completed": done, "failed": 0},
        })
    }
}

fn rfc3339(secs: u64) -> String {
    let (mut days, day_secs) = (secs / 86_400, secs % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (day_secs / 3_600, day_secs / 60 % 60, day_secs % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, days + 1)
}

impl Shared {
    fn batches(&self) -> std::sync::MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
