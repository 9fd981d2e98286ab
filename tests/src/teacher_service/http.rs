//! Replies over HTTP: bodies that may end early, compressed ones, streams of events.

use super::services::failure::Told;
use super::shape::{SURROGATE, Shape};
use super::wire::Api;
use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that may end before its announced length.
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

/// A reply.
pub(super) type Reply = Response<Said>;

/// Headers of a reply.
pub(super) type Headers = Vec<(&'static str, String)>;

/// A reply in JSON.
pub(super) fn json_reply(status: u16, headers: &Headers, body: &Value) -> Reply {
    respond(status, headers, body.to_string().into(), false)
}

/// An error as a service words it.
pub(super) fn told(status: u16, headers: &Headers, body: Told) -> Reply {
    match body {
        Told::Json(value) => json_reply(status, headers, &value),
        Told::Text(text) => {
            let headers = [&headers[..], &[("content-type", "text/plain".to_owned())]].concat();
            respond(status, &headers, text.into(), false)
        }
    }
}

/// A good reply, in an unusual form.
pub(super) fn shaped(shape: Option<Shape>, api: Api, headers: &Headers, body: String) -> Reply {
    let mut headers = headers.clone();
    let mut status = 200;
    let bytes: Bytes = match shape {
        Some(Shape::Sse) => {
            headers.push(("content-type", "text/event-stream".to_owned()));
            events(api, &body).into()
        }
        Some(Shape::Gzip) => {
            headers.push(("content-encoding", "gzip".to_owned()));
            gzip(body.as_bytes()).into()
        }
        Some(Shape::Bom) => format!("\u{feff}{body}").into(),
        Some(Shape::Created) => {
            status = 201;
            body.into()
        }
        _ => body.into(),
    };
    respond(status, &headers, bytes, false)
}

/// Writes a body's JSON, with half a surrogate pair if the shape requires it.
pub(super) fn written(reply: &Value) -> String {
    reply.to_string().replace(SURROGATE, "\\ud83d")
}

/// A reply of any kind.
pub(super) fn respond(status: u16, headers: &Headers, bytes: Bytes, cut_off: bool) -> Reply {
    let mut response = Response::new(Said { bytes: Some(bytes), cut_off });
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// A reply as the events of a stream.
fn events(api: Api, body: &str) -> String {
    let reply: Value = serde_json::from_str(body).unwrap_or_default();
    match api {
        Api::OpenAi => {
            let choice = &reply["choices"][0];
            let text = choice["message"]["content"].as_str().unwrap_or_default();
            let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(place, _)| place);
            let (first, second) = text.split_at(middle);
            let chunk = |delta: Value, finish: &Value| {
                let chunk = json!({"id": reply["id"], "object": "chat.completion.chunk", "model": reply["model"],
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
                format!("data: {chunk}\n\n")
            };
            let usage = json!({"id": reply["id"], "object": "chat.completion.chunk", "model": reply["model"],
                "choices": [], "usage": reply["usage"]});
            [
                chunk(json!({"role": "assistant", "content": first}), &Value::Null),
                chunk(json!({"content": second}), &Value::Null),
                chunk(json!({}), &choice["finish_reason"]),
                format!("data: {usage}\n\ndata: [DONE]\n\n"),
            ]
            .concat()
        }
        Api::Anthropic => {
            let mut started = reply.clone();
            (started["content"], started["stop_reason"]) = (json!([]), Value::Null);
            let mut all = vec![("message_start", json!({"message": started}))];
            for (index, block) in reply["content"].as_array().into_iter().flatten().enumerate() {
                let Some(text) = block["text"].as_str() else { continue };
                all.push((
                    "content_block_start",
                    json!({"index": index, "content_block": {"type": "text", "text": ""}}),
                ));
                all.push((
                    "content_block_delta",
                    json!({"index": index, "delta": {"type": "text_delta", "text": text}}),
                ));
                all.push(("content_block_stop", json!({"index": index})));
            }
            let usage = json!({"output_tokens": reply["usage"]["output_tokens"]});
            all.push((
                "message_delta",
                json!({"delta": {"stop_reason": reply["stop_reason"]}, "usage": usage}),
            ));
            all.push(("message_stop", json!({})));
            let lines = all.into_iter().map(|(name, mut data)| {
                data["type"] = name.into();
                format!("event: {name}\ndata: {data}\n\n")
            });
            lines.collect()
        }
    }
}
