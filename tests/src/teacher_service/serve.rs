//! Connections and requests.

use super::wire::{self, Api};
use super::{Fault, Shared, Stats};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::net::TcpListener;

/// A body that may end before it said it would.
pub(super) struct Said {
    bytes: Option<Bytes>,
    cut_off: bool,
}

impl Body for Said {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.bytes.take() {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.cut_off => Some(Err(std::io::Error::other("cut off"))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && !self.cut_off
    }

    fn size_hint(&self) -> SizeHint {
        let more = if self.cut_off { 1_000 } else { 0 };
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64) + more)
    }
}

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Shared {
    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as in flight while it lives, also where its client goes away.
struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.stats().in_flight -= 1;
    }
}

type Reply = Response<Said>;

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Reply, hyper::Error> {
    let api = match request.uri().path() {
        "/v1/messages" => Api::Anthropic,
        "/v1/chat/completions" => Api::OpenAi,
        "/stats" => return Ok(json_reply(200, &[], &shared.stats().to_json())),
        path => {
            return Ok(json_reply(404, &[], &wire::error("not_found_error", "", &format!("no {path} here"))));
        }
    };
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let key = match api {
        Api::Anthropic => header("x-api-key"),
        Api::OpenAi => {
            header("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned))
        }
    };
    let body = request.into_body().collect().await?.to_bytes();
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let (good, number) = {
        let mut stats = shared.stats();
        stats.requests += 1;
        stats.in_flight += 1;
        stats.peak_in_flight = stats.peak_in_flight.max(stats.in_flight);
        let (good, number) = (stats.good, stats.requests);
        let seen = stats.seen.entry(digest).or_default();
        *seen += 1;
        (good, number)
    };
    let _in_flight = InFlight(Arc::clone(&shared));
    if shared.options.key.is_some() && shared.options.key != key {
        return Ok(json_reply(
            401,
            &[],
            &wire::error("authentication_error", "invalid_api_key", "invalid key"),
        ));
    }
    let Ok(value) = serde_json::from_slice::<Value>(&body) else {
        return Ok(bad_request("the body is no JSON"));
    };
    let asked = match wire::read(api, &value) {
        Ok(asked) => asked,
        Err(message) => return Ok(bad_request(&message)),
    };
    let (kind, answer) = match shared.brain.answer(&asked.text) {
        Ok(answer) => answer,
        Err(message) => return Ok(bad_request(&message)),
    };
    let text: [u8; 32] = Sha256::digest(asked.text.as_bytes()).into();
    let times = {
        let mut stats = shared.stats();
        let times = stats.asked.entry(text).or_default();
        *times += 1;
        let times = *times - 1;
        *stats.kinds.entry(kind.name()).or_default() += 1;
        stats.images += asked.images;
        times
    };
    let allowance = shared.options.allowance;
    let mut headers = vec![("request-id", format!("req_{number}"))];
    if shared.options.tell_limits {
        headers.extend(wire::limit_headers(
            api,
            allowance.requests_per_minute,
            allowance.input_tokens_per_minute,
        ));
    }
    if !shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(asked.input_tokens) {
        shared.stats().limited += 1;
        headers.push(("retry-after", "1".to_owned()));
        return Ok(json_reply(
            429,
            &headers,
            &wire::error("rate_limit_error", "rate_limit_exceeded", "too many"),
        ));
    }
    let fault = shared.options.faults.pick(&text, times, good);
    if let Some(fault) = fault {
        *shared.stats().faults.entry(fault.name()).or_default() += 1;
        if let Some(reply) = refuse(fault, &headers) {
            return Ok(reply);
        }
    }
    let slow = if fault == Some(Fault::Slow) { 3 } else { 1 };
    tokio::time::sleep(shared.options.latency * slow).await;
    let (said, ended) = spoil(fault, answer);
    let reply = wire::reply(api, number, &asked, &said, ended);
    let text = reply.to_string();
    match fault {
        Some(Fault::CutOff) => Ok(respond(200, &headers, text[..text.len() / 2].to_owned().into(), true)),
        Some(Fault::NoJson) => Ok(respond(200, &headers, "<html>upstream</html>".into(), false)),
        _ => {
            let mut stats = shared.stats();
            stats.good += 1;
            stats.input_tokens += asked.input_tokens;
            let usage = &reply["usage"];
            stats.output_tokens +=
                usage["output_tokens"].as_u64().or(usage["completion_tokens"].as_u64()).unwrap_or(0);
            *stats.answered.entry(digest).or_default() += 1;
            drop(stats);
            Ok(respond(200, &headers, text.into(), false))
        }
    }
}

/// The reply of a fault that is an error status.
fn refuse(fault: Fault, headers: &[(&'static str, String)]) -> Option<Reply> {
    let mut headers = headers.to_vec();
    let (status, body) = match fault {
        Fault::LimitedWithWait => {
            headers.push(("retry-after-ms", "300".to_owned()));
            (429, wire::error("rate_limit_error", "rate_limit_exceeded", "slow down"))
        }
        Fault::Limited => (429, wire::error("rate_limit_error", "rate_limit_exceeded", "slow down")),
        Fault::Overloaded => (529, wire::error("overloaded_error", "overloaded", "overloaded")),
        Fault::Internal => (500, wire::error("api_error", "internal", "internal")),
        Fault::BadRequest => (400, wire::error("invalid_request_error", "", "a field is wrong")),
        Fault::BadKey => (401, wire::error("authentication_error", "invalid_api_key", "invalid key")),
        Fault::NoMoney => (429, wire::error("insufficient_quota", "insufficient_quota", "no money left")),
        _ => return None,
    };
    Some(json_reply(status, &headers, &body))
}

/// The text of a reply with a fault, and why it ended.
fn spoil(fault: Option<Fault>, mut answer: Value) -> (String, &'static str) {
    match fault {
        Some(Fault::WrongJson) => ("Here you are: {\"verdict\": \"fine\"}".to_owned(), "stop"),
        Some(Fault::WrongCount) => {
            if let Some(scores) = answer["scores"].as_array_mut() {
                scores.pop();
            } else {
                answer = json!({"rationale": "", "better": "C"});
            }
            (answer.to_string(), "stop")
        }
        Some(Fault::Refusal) => ("I cannot help with that.".to_owned(), "refusal"),
        Some(Fault::Truncated) => {
            let text = answer.to_string();
            (text.chars().take(text.len() / 2).collect(), "length")
        }
        _ => (answer.to_string(), "stop"),
    }
}

fn bad_request(message: &str) -> Reply {
    json_reply(400, &[], &wire::error("invalid_request_error", "", message))
}

fn json_reply(status: u16, headers: &[(&'static str, String)], body: &Value) -> Reply {
    respond(status, headers, body.to_string().into(), false)
}

fn respond(status: u16, headers: &[(&'static str, String)], bytes: Bytes, cut_off: bool) -> Reply {
    let mut response = Response::new(Said { bytes: Some(bytes), cut_off });
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        if let Ok(value) = hyper::header::HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}
