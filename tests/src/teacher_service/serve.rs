//! Connections and requests.

use super::batch;
use super::http::{Headers, Reply, json_reply, respond, shaped, told};
use super::receive::{self, count_only, flagged, receive, refusal};
use super::record::Recorded;
use super::services::failure::Failure;
use super::services::{Head, Route};
use super::wire::{self, Api};
use super::{Fault, Shared, Stats};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::net::TcpListener;

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

    /// Counts a refusal by reason.
    pub(super) fn refuse(&self, failure: &Failure) {
        let mut stats = self.stats();
        stats.refused += 1;
        *stats.refusals.entry(failure.field.clone()).or_default() += 1;
    }

    /// The reply of a refusal; it is counted.
    fn refused(&self, api: Api, headers: &Headers, failure: &Failure) -> Reply {
        self.refuse(failure);
        told(failure.status, headers, receive::word(self, api, failure))
    }

    /// What is served at a path: by the service, or by the options.
    fn route(&self, path: &str, query: &str) -> Option<Route> {
        match &self.options.endpoint {
            Some(endpoint) => {
                let (expected, wanted) = endpoint.split_once('?').unwrap_or((endpoint, ""));
                let route = if expected.ends_with("/messages") { Route::Messages } else { Route::Chat };
                (path == expected && query == wanted).then_some(route)
            }
            None => self.profile().route(path),
        }
    }
}

/// Counts a request as in flight while it exists, even if the client disconnects.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut stats = shared.stats();
        stats.in_flight += 1;
        stats.peak_in_flight = stats.peak_in_flight.max(stats.in_flight);
        drop(stats);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.stats().in_flight -= 1;
    }
}

fn head(request: &Request<Incoming>) -> Head {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Head {
        x_api_key: header("x-api-key"),
        bearer: header("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned)),
        api_key: header("api-key"),
        version: header("anthropic-version"),
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Reply, std::io::Error> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (head, post) = (head(&request), request.method() == hyper::Method::POST);
    if path == "/stats" {
        return Ok(json_reply(200, &Headers::new(), &shared.stats().to_json()));
    }
    let profile = shared.profile();
    let batch_path = profile.batch_path(&path);
    let route = shared.route(&path, &query);
    let api = match route {
        Some(Route::Messages | Route::CountTokens) => Api::Anthropic,
        _ => Api::OpenAi,
    };
    let none = Headers::new();
    if route.is_none() && batch_path.is_none() {
        return Ok(shared.refused(api, &none, &(profile.no_path)(&path)));
    }
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let in_flight = (batch_path.is_none()).then(|| InFlight::new(&shared));
    if let Err(failure) = profile.authorize(&head, shared.options.key.as_deref()) {
        return Ok(shared.refused(api, &none, &failure));
    }
    let logged = |body: Value| shared.records.add(Recorded::new(&path, &head, body));
    if let Some(batch_path) = batch_path {
        batch::requests_in(&body).into_iter().for_each(logged);
        return match batch::call(&shared, post, &batch_path, &query, body).await {
            batch::Told::Json(status, value) => Ok(json_reply(status, &none, &value)),
            batch::Told::Lines(lines, cut_off) => Ok(respond(200, &none, lines, cut_off)),
            batch::Told::Nothing => Err(std::io::Error::other("the connection breaks")),
        };
    }
    logged(serde_json::from_slice(&body).unwrap_or_default());
    if route == Some(Route::CountTokens) {
        return Ok(match count_only(&shared, &head, &body) {
            Ok(tokens) => json_reply(200, &none, &json!({ "input_tokens": tokens })),
            Err(failure) => shared.refused(api, &none, &failure),
        });
    }
    let reply = ask(&shared, api, &head, &body).await;
    drop(in_flight);
    reply
}

/// Answers a single request.
async fn ask(shared: &Arc<Shared>, api: Api, head: &Head, body: &Bytes) -> Result<Reply, std::io::Error> {
    let received = match receive(shared, api, head, body) {
        Ok(received) => received,
        Err(failure) => return Ok(shared.refused(api, &Headers::new(), &failure)),
    };
    let mut headers = vec![("request-id", format!("req_{}", received.number))];
    if shared.options.tell_limits {
        let allowance = shared.options.allowance;
        let day = if shared.profile().counts_days { 1_440.0 } else { 1.0 };
        headers.extend(wire::limit_headers(
            api,
            allowance.requests_per_minute * day,
            allowance.input_tokens_per_minute,
        ));
    }
    let failed = |headers: &Headers, failure: &Failure| {
        Ok(told(failure.status, headers, receive::word(shared, api, failure)))
    };
    let tokens = received.asked.input_tokens;
    if !shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(tokens) {
        shared.stats().limited += 1;
        headers.push(("retry-after", "1".to_owned()));
        let failure = Failure::new(429, "rate_limit_error", "limit", "too many").code("rate_limit_exceeded");
        return failed(&headers, &failure);
    }
    let fault = received.fault(shared);
    if let Some(failure) = fault.and_then(|fault| refusal(shared, fault)) {
        if fault == Some(Fault::LimitedWithWait) {
            headers.push(("retry-after-ms", "300".to_owned()));
        }
        return failed(&headers, &failure);
    }
    let shape = if fault.is_none() { received.shape(shared) } else { None };
    if let Some(failure) = shape.and_then(|shape| flagged(shared, shape)) {
        return failed(&headers, &failure);
    }
    // A client that gives up while waiting for a slot leaves the queue.
    let slot = match &shared.slots {
        Some(slots) => slots.acquire().await.ok(),
        None => None,
    };
    tokio::time::sleep(shared.options.latency * received.slowness(fault)).await;
    let text = received.reply(shared, fault, shape);
    drop(slot);
    Ok(match fault {
        Some(Fault::HangUp) => return Err(std::io::Error::other("hung up")),
        Some(Fault::EchoedKey) => {
            let key = head.x_api_key.as_ref().or(head.bearer.as_ref()).map_or("", String::as_str);
            let failure = Failure::bad("request", format!("no such field; the key was {key}"));
            return failed(&Headers::new(), &failure);
        }
        Some(Fault::CutOff) => respond(200, &headers, text[..text.len() / 2].to_owned().into(), true),
        Some(Fault::NoJson) => respond(200, &headers, "<html>upstream</html>".into(), false),
        _ => shaped(shape, api, &headers, text),
    })
}
