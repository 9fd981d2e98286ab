//! Connections and requests.

use super::batch;
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
    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
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

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Reply, std::io::Error> {
    let path = request.uri().path().to_owned();
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
    let key = header("x-api-key").or(bearer);
    let wrong_key = shared.options.key.is_some() && shared.options.key != key;
    let api = match path.as_str() {
        "/v1/messages" => Api::Anthropic,
        "/v1/chat/completions" => Api::OpenAi,
        "/stats" => return Ok(json_reply(200, &[], &shared.stats().to_json())),
        path if batch::is_mine(path) && !wrong_key => {
            let post = request.method() == hyper::Method::POST;
            let query = request.uri().query().unwrap_or_default().to_owned();
            let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
            return match batch::call(&shared, post, path, &query, body).await {
                batch::Told::Json(status, value) => Ok(json_reply(status, &[], &value)),
                batch::Told::Lines(lines, cut_off) => Ok(respond(200, &[], lines, cut_off)),
                batch::Told::Nothing => Err(std::io::Error::other("the connection breaks")),
            };
        }
        path if batch::is_mine(path) => Api::OpenAi,
        path => {
            return Ok(json_reply(404, &[], &wire::error("not_found_error", "", &format!("no {path} here"))));
        }
    };
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    {
        let mut stats = shared.stats();
        stats.in_flight += 1;
        stats.peak_in_flight = stats.peak_in_flight.max(stats.in_flight);
    }
    let _in_flight = InFlight(Arc::clone(&shared));
    if wrong_key {
        return Ok(json_reply(
            401,
            &[],
            &wire::error("authentication_error", "invalid_api_key", "invalid key"),
        ));
    }
    let received = match receive(&shared, api, &body) {
        Ok(received) => received,
        Err(message) => return Ok(bad_request(&message)),
    };
    let allowance = shared.options.allowance;
    let mut headers = vec![("request-id", format!("req_{}", received.number))];
    if shared.options.tell_limits {
        headers.extend(wire::limit_headers(
            api,
            allowance.requests_per_minute,
            allowance.input_tokens_per_minute,
        ));
    }
    let tokens = received.asked.input_tokens;
    if !shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(tokens) {
        shared.stats().limited += 1;
        headers.push(("retry-after", "1".to_owned()));
        return Ok(json_reply(
            429,
            &headers,
            &wire::error("rate_limit_error", "rate_limit_exceeded", "too many"),
        ));
    }
    let fault = received.fault(&shared);
    if let Some(reply) = fault.and_then(|fault| refuse(fault, &headers)) {
        return Ok(reply);
    }
    let slow = if fault == Some(Fault::Slow) { 3 } else { 1 };
    tokio::time::sleep(shared.options.latency * slow).await;
    let text = received.reply(&shared, fault);
    Ok(match fault {
        Some(Fault::HangUp) => return Err(std::io::Error::other("hung up")),
        Some(Fault::EchoedKey) => {
            bad_request(&format!("no such field; the key was {}", key.unwrap_or_default()))
        }
        Some(Fault::CutOff) => respond(200, &headers, text[..text.len() / 2].to_owned().into(), true),
        Some(Fault::NoJson) => respond(200, &headers, "<html>upstream</html>".into(), false),
        _ => respond(200, &headers, text.into(), false),
    })
}

/// A request that was understood.
struct Received {
    api: Api,
    number: u64,
    digest: [u8; 32],
    text: [u8; 32],
    /// How often it came before, and good replies so far.
    times: u32,
    good: u64,
    asked: wire::Asked,
    answer: Value,
}

fn receive(shared: &Shared, api: Api, body: &[u8]) -> Result<Received, String> {
    let digest: [u8; 32] = Sha256::digest(body).into();
    let (good, number) = {
        let mut stats = shared.stats();
        stats.requests += 1;
        *stats.seen.entry(digest).or_default() += 1;
        (stats.good, stats.requests)
    };
    let value = serde_json::from_slice::<Value>(body).map_err(|_| "the body is no JSON")?;
    let mut asked = wire::read(api, &value)?;
    if shared.options.real_tokens {
        let counted = super::count::request(api, &value, &shared.prompt_cache);
        asked.input_tokens = counted.plain + counted.written + counted.read;
        (asked.cached, asked.real_tokens) = ((counted.written, counted.read), true);
    }
    let (kind, answer) = shared.brain.answer(&asked.text)?;
    let text: [u8; 32] = Sha256::digest(asked.text.as_bytes()).into();
    let mut stats = shared.stats();
    let times = stats.asked.entry(text).or_default();
    *times += 1;
    let times = *times - 1;
    *stats.kinds.entry(kind.name()).or_default() += 1;
    stats.images += asked.images;
    drop(stats);
    Ok(Received { api, number, digest, text, times, good, asked, answer })
}

impl Received {
    fn fault(&self, shared: &Shared) -> Option<Fault> {
        let fault = shared.options.faults.pick(&self.text, self.times, self.good)?;
        *shared.stats().faults.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// The reply's body, with the faults of what is said; it counts as good where it arrives whole.
    fn reply(self, shared: &Shared, fault: Option<Fault>) -> String {
        let (said, ended) = spoil(fault, self.answer);
        let reply = match fault {
            Some(Fault::Strange) => {
                json!({"object": "other", "usage": {"prompt_tokens": 50, "completion_tokens": 5}})
            }
            _ => {
                let more = shared.options.extra_output_tokens;
                wire::reply(self.api, self.number, &self.asked, (&said, ended), more)
            }
        };
        let reply = without_usage(reply, fault);
        if !matches!(fault, Some(Fault::CutOff | Fault::NoJson | Fault::HangUp | Fault::EchoedKey)) {
            let mut stats = shared.stats();
            stats.good += 1;
            stats.input_tokens += self.asked.input_tokens;
            let usage = &reply["usage"];
            stats.output_tokens +=
                usage["output_tokens"].as_u64().or(usage["completion_tokens"].as_u64()).unwrap_or(0);
            *stats.answered.entry(self.digest).or_default() += 1;
        }
        reply.to_string()
    }
}

/// What came of a request in a batch.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Answers a request in a batch. What breaks a connection when it comes alone is an internal error here.
pub(super) fn answer(shared: &Shared, api: Api, body: &[u8]) -> Answered {
    let error = |status, kind: &str, message: &str| Answered {
        status,
        body: wire::error(kind, "", message).to_string(),
    };
    let received = match receive(shared, api, body) {
        Ok(received) => received,
        Err(message) => return error(400, "invalid_request_error", &message),
    };
    let fault = received.fault(shared);
    match fault {
        Some(Fault::CutOff | Fault::NoJson | Fault::HangUp) => error(500, "api_error", "internal"),
        Some(fault) if refusal(fault).is_some() => match refusal(fault) {
            Some((status, body)) => Answered { status, body: body.to_string() },
            None => error(500, "api_error", "internal"),
        },
        _ => Answered { status: 200, body: received.reply(shared, fault) },
    }
}

/// The reply of a fault that is an error status.
fn refuse(fault: Fault, headers: &[(&'static str, String)]) -> Option<Reply> {
    let (status, body) = refusal(fault)?;
    let mut headers = headers.to_vec();
    if fault == Fault::LimitedWithWait {
        headers.push(("retry-after-ms", "300".to_owned()));
    }
    Some(json_reply(status, &headers, &body))
}

fn refusal(fault: Fault) -> Option<(u16, Value)> {
    Some(match fault {
        Fault::LimitedWithWait | Fault::Limited => {
            (429, wire::error("rate_limit_error", "rate_limit_exceeded", "slow down"))
        }
        Fault::Overloaded => (529, wire::error("overloaded_error", "overloaded", "overloaded")),
        Fault::Internal => (500, wire::error("api_error", "internal", "internal")),
        Fault::BadRequest => (400, wire::error("invalid_request_error", "", "a field is wrong")),
        Fault::BadKey => (401, wire::error("authentication_error", "invalid_api_key", "invalid key")),
        Fault::NoMoney => (429, wire::error("insufficient_quota", "insufficient_quota", "no money left")),
        _ => return None,
    })
}

fn without_usage(mut reply: Value, fault: Option<Fault>) -> Value {
    if fault == Some(Fault::NoUsage) {
        reply["usage"] = Value::Null;
    }
    reply
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
