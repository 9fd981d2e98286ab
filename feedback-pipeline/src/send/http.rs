//! One attempt over HTTP: pooled connections, a key that is never printed, and the unchanged reply.

use crate::error::{Error, Result};
use crate::send::headers;
use crate::send::retry::Failure;
use crate::send::spool::Spooled;
use crate::send::upload::Upload;
use crate::teacher::catalogue::Auth;
use crate::teacher::{Address, Body, Secret, anthropic};
use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::multipart::{Form, Part};
use schemas::settings::{Provider, TeacherSettings};
use std::time::Duration;

/// Longest upload or download of a batch.
const LONGEST_TRANSFER: Duration = Duration::from_secs(3_600);

/// Shorter keys are not secrets, and may occur in a text by chance.
const SHORTEST_KEY: usize = 8;

/// A reply whose body is still to come.
pub type Reply = reqwest::Response;

/// Payload of another call of the API.
#[derive(Debug, Clone)]
pub enum Payload {
    /// A few bytes of JSON.
    Plain(Bytes),
    /// JSON that is too large for memory.
    Spooled(Spooled),
    /// A file with its purpose, as a multipart form.
    File {
        /// What it is for.
        purpose: &'static str,
        /// Its name.
        name: String,
        /// Type of its content.
        kind: &'static str,
        /// Its content.
        content: Spooled,
    },
}

fn streamed(content: &Spooled) -> reqwest::Body {
    reqwest::Body::wrap(Upload::of_spool(content).0)
}

/// Sends requests to one address.
pub struct HttpClient {
    client: reqwest::Client,
    address: Address,
    /// The key, removed from everything that comes back.
    key: Option<Secret>,
}

/// A reply, unchanged.
#[derive(Debug, Clone)]
pub struct Raw {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Raw {
    /// Whether the status is that of a reply, which may have been paid for.
    pub fn is_reply(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Headers as pairs of text, without those that are not text.
    pub fn header_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// Headers with the body, as a JSON object.
    pub fn as_json(&self) -> String {
        let headers: serde_json::Value = serde_json::from_str(&self.headers_json()).unwrap_or_default();
        serde_json::json!({ "headers": headers, "body": String::from_utf8_lossy(&self.body) }).to_string()
    }

    /// Headers as a JSON object, without cookies.
    pub fn headers_json(&self) -> String {
        let mut object = serde_json::Map::new();
        for (name, value) in self.header_pairs().filter(|(name, _)| !name.contains("cookie")) {
            object.insert(name.to_owned(), value.into());
        }
        serde_json::Value::Object(object).to_string()
    }
}

impl HttpClient {
    /// Prepares connections to a service.
    ///
    /// # Errors
    /// If the key cannot be sent in a header, or the system has no certificates.
    pub fn new(
        settings: &TeacherSettings,
        address: &Address,
        auth: Auth,
        key: Option<&Secret>,
        connections: u32,
    ) -> Result<Self> {
        // Installing a second process-wide provider fails, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .default_headers(default_headers(settings, auth, key)?)
            .user_agent(concat!("collect-feedback/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            .timeout(Duration::from_secs(settings.timeout_secs))
            .pool_max_idle_per_host(usize::try_from(connections).unwrap_or(usize::MAX))
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true);
        if address.endpoint().scheme() == "http" {
            builder = builder.http1_only().tls_certs_only([]); // avoids reading the machine's certificates
        }
        let client = builder.build().map_err(|e| Error::Failed(format!("no HTTP client: {}", chain(&e))))?;
        Ok(Self { client, address: address.clone(), key: key.cloned() })
    }

    /// Where requests go.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the service is known to report its request limit per minute.
    pub fn counts_by_the_minute(&self) -> bool {
        self.address.endpoint().host_str().is_some_and(headers::counts_by_the_minute)
    }

    /// Headers without those that quote our key.
    fn headers_without_key(&self, mut headers: HeaderMap) -> HeaderMap {
        let Some(key) = self.key.as_ref().map(|key| key.expose().as_bytes()) else { return headers };
        if key.len() >= SHORTEST_KEY {
            for value in headers.values_mut() {
                if value.as_bytes().windows(key.len()).any(|part| part == key) {
                    *value = HeaderValue::from_static("[key]");
                }
            }
        }
        headers
    }

    /// The body without our key, if the service quotes it: bodies are stored, and shown in messages and reports.
    fn without_key(&self, body: Bytes) -> Bytes {
        let Some(key) = self.key.as_ref().map(|key| key.expose().as_bytes()) else { return body };
        if key.len() < SHORTEST_KEY || !body.windows(key.len()).any(|part| part == key) {
            return body;
        }
        let mut hidden = Vec::with_capacity(body.len());
        let mut rest = body.as_ref();
        while let Some((&first, others)) = rest.split_first() {
            if let Some(after) = rest.strip_prefix(key) {
                hidden.extend_from_slice(b"[key]");
                rest = after;
            } else {
                hidden.push(first);
                rest = others;
            }
        }
        hidden.into()
    }

    /// One attempt at another call of the API, `/batches` for instance: GET without a payload, else POST,
    /// whose upload may take long.
    pub async fn call(&self, path: &str, payload: Option<Payload>) -> Result<Raw, Failure> {
        let url = self.address.call(path);
        let post = || self.client.post(url.clone()).timeout(LONGEST_TRANSFER);
        let request = match payload {
            None => self.client.get(url),
            Some(Payload::Plain(body)) => post().body(body),
            Some(Payload::Spooled(body)) => post().body(streamed(&body)),
            Some(Payload::File { purpose, name, kind, content }) => {
                let part = Part::stream_with_length(streamed(&content), content.len()).file_name(name);
                let part = part.mime_str(kind).map_err(|e| Failure::Broken(describe(e)))?;
                post().multipart(Form::new().text("purpose", purpose).part("file", part))
            }
        };
        let response = request.send().await.map_err(|e| Failure::Unreachable(describe(e)))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(|e| Failure::Broken(describe(e)))?;
        Ok(Raw { status, headers: self.headers_without_key(headers), body: self.without_key(body) })
    }

    /// Opens a file of the API, which may be large; its body is still to come.
    pub async fn open(&self, path: &str) -> Result<Reply, Failure> {
        let url = self.address.call(path);
        let sent = self.client.get(url).timeout(LONGEST_TRANSFER).send().await;
        sent.map_err(|e| Failure::Unreachable(describe(e)))
    }

    /// One attempt.
    pub async fn send(&self, body: Body) -> Result<Raw, Failure> {
        let request = self.client.post(self.address.endpoint().clone());
        let (request, unread) = match body.as_plain() {
            Some(plain) => (request.body(plain.clone()), None),
            None => {
                let (upload, failure) = Upload::new(body);
                (request.body(reqwest::Body::wrap(upload)), Some(failure))
            }
        };
        let response = request.send().await.map_err(|e| {
            // The last bytes were not sent, so the service has no complete request.
            if let Some(why) = unread.as_ref().and_then(|failure| failure.get()) {
                return Failure::Picture(why.clone());
            }
            match (e.is_connect(), e.is_timeout()) {
                (true, _) => Failure::Unreachable(describe(e)),
                (false, true) => Failure::TimedOut,
                // The request may have been received, and may be charged.
                (false, false) => Failure::Broken(describe(e)),
            }
        })?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(|e| match e.is_timeout() {
            true => Failure::TimedOut,
            false => Failure::Broken(describe(e)),
        })?;
        Ok(Raw { status, headers: self.headers_without_key(headers), body: self.without_key(body) })
    }
}

/// Headers of every request. Self-hosted servers with the Messages API may expect a bearer token, so with an explicit
/// base URL both headers are sent.
fn default_headers(settings: &TeacherSettings, auth: Auth, key: Option<&Secret>) -> Result<HeaderMap> {
    let secret = |text: String| {
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Error::bad_input("API key", "expected printable characters, found others"))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let is_anthropic = settings.provider == Provider::Anthropic;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if is_anthropic {
        let version = HeaderValue::from_static(anthropic::API_VERSION);
        headers.insert(HeaderName::from_static("anthropic-version"), version);
    }
    let Some(key) = key else { return Ok(headers) };
    if is_anthropic || auth == Auth::XApiKey {
        headers.insert(HeaderName::from_static("x-api-key"), secret(key.expose().to_owned())?);
    }
    if auth == Auth::ApiKey {
        headers.insert(HeaderName::from_static("api-key"), secret(key.expose().to_owned())?);
    }
    if (is_anthropic && !settings.base_url.is_empty()) || (!is_anthropic && auth == Auth::Bearer) {
        headers.insert(AUTHORIZATION, secret(format!("Bearer {}", key.expose()))?);
    }
    Ok(headers)
}

/// What went wrong, without the address.
pub fn describe(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no reply in time".to_owned();
    }
    chain(&error.without_url())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::picture_tests::{overwrite, picture_of};
    use crate::teacher::test_template;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    /// A service that reads a request until it is complete or the connection ends, and answers complete ones.
    fn received(listener: &TcpListener) -> (Vec<u8>, bool) {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut piece) = (Vec::new(), [0; 4_096]);
        loop {
            if let Some(end) = all.windows(4).position(|part| part == b"\r\n\r\n") {
                let head = String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase();
                assert!(!head.contains("transfer-encoding"), "{head}");
                let (_, length) = head.split_once("content-length: ").unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                let body = all.len() - end - 4;
                assert!(body <= length, "{body} of {length} bytes");
                if body == length {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
                    return (all.split_off(end + 4), true);
                }
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return (all, false),
                Ok(read) => all.extend_from_slice(&piece[..read]),
            }
        }
    }

    fn client() -> (HttpClient, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let settings =
            TeacherSettings { provider: Provider::Anthropic, base_url, ..TeacherSettings::default() };
        let address = Address::of(&settings).unwrap();
        (HttpClient::new(&settings, &address, Auth::XApiKey, None, 4).unwrap(), listener)
    }

    #[tokio::test]
    async fn a_picture_gets_there_whole_and_again() {
        let picture = Arc::new(picture_of(&b"pixels".repeat(70_000)));
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let body = test_template(provider).body(Some(&picture), "text", &[]);
            for _ in 0..2 {
                let (client, listener) = client();
                let service = std::thread::spawn(move || received(&listener));
                assert_eq!(client.send(body.clone()).await.unwrap().status, 200);
                let (sent, is_whole) = service.join().unwrap();
                assert!(is_whole && sent == body.to_bytes().unwrap());
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_picture_that_changed_since_is_the_items_fault_and_never_gets_there() {
        let pixels = b"pixels".repeat(70_000);
        let mut other = pixels.clone();
        other.reverse();
        let shorter = pixels.get(..50_000).unwrap();
        for now in [&other[..], shorter] {
            let picture = Arc::new(picture_of(&pixels));
            let body = test_template(Provider::Anthropic).body(Some(&picture), "text", &[]);
            overwrite(&picture, now);
            let (client, listener) = client();
            let service = std::thread::spawn(move || received(&listener));
            let failure = client.send(body).await.unwrap_err();
            assert!(matches!(&failure, Failure::Picture(why) if why.contains("changed")), "{failure:?}");
            assert!(!service.join().unwrap().1, "the service has no whole request");
        }
    }
}
