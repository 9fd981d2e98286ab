//! One attempt over HTTP: pooled connections, a key that no one prints, and the reply as it came.

use crate::error::{Error, Result};
use crate::send::headers;
use crate::send::retry::Failure;
use crate::teacher::{Secret, anthropic};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use schemas::settings::{Provider, TeacherSettings};
use std::time::Duration;

/// Longest upload or download of a batch.
const LONGEST_TRANSFER: Duration = Duration::from_secs(3_600);

/// Shorter ones are no secrets, and may stand in a text by chance.
const SHORTEST_KEY: usize = 8;

/// A reply whose body is still to come.
pub type Reply = reqwest::Response;

/// Sends requests to one address.
pub struct HttpClient {
    client: reqwest::Client,
    url: reqwest::Url,
    root: String,
    /// Taken out of whatever comes back.
    key: Option<Secret>,
}

/// A reply as it came.
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
    /// Headers as pairs of text, those that are no text left out.
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
    /// Prepares connections to the settings' service.
    pub fn new(settings: &TeacherSettings, key: Option<&Secret>, connections: u32) -> Result<Self> {
        let address = crate::teacher::url(settings);
        let url: reqwest::Url = address.parse().map_err(|e| {
            Error::bad_input("--base-url", format!("expected an address, found `{address}`: {e}"))
        })?;
        // A second process-wide provider is refused, and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .default_headers(default_headers(settings.provider, key)?)
            .user_agent(concat!("collect-feedback/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            .timeout(Duration::from_secs(settings.timeout_secs))
            .pool_max_idle_per_host(usize::try_from(connections).unwrap_or(usize::MAX))
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true);
        if url.scheme() == "http" {
            builder = builder.http1_only().tls_certs_only([]); // spares reading the machine's certificates
        }
        let client = builder.build().map_err(|e| Error::Failed(format!("no HTTP client: {}", chain(&e))))?;
        let root = ["/messages", "/chat/completions"].iter().find_map(|end| address.strip_suffix(end));
        let root = root.unwrap_or(&address).to_owned();
        Ok(Self { client, url, root, key: key.cloned() })
    }

    /// Address below which all calls of the API lie, as it may be written down: without a user's name and password.
    pub fn address(&self) -> String {
        let Ok(mut url) = self.root.parse::<reqwest::Url>() else { return self.root.clone() };
        if url.username().is_empty() && url.password().is_none() {
            return self.root.clone();
        }
        let hidden = url.set_username("").and_then(|()| url.set_password(None));
        hidden.map_or_else(|()| String::new(), |()| url.to_string())
    }

    /// Whether the service is known to tell its limit of requests by the minute.
    pub fn counts_by_the_minute(&self) -> bool {
        self.url.host_str().is_some_and(headers::counts_by_the_minute)
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

    /// A body in which the service does not quote our key: it is kept, and shown in messages and reports.
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

    /// One attempt at another call of the API, `/batches` for instance: GET without a body, else POST. A body is JSON unless
    /// its type is named, and may take long to get there.
    pub async fn call(&self, path: &str, body: Option<(Bytes, Option<String>)>) -> Result<Raw, Failure> {
        let url = format!("{}{path}", self.root);
        let request = match body {
            None => self.client.get(url),
            Some((body, None)) => self.client.post(url).body(body).timeout(LONGEST_TRANSFER),
            Some((body, Some(kind))) => {
                self.client.post(url).header(CONTENT_TYPE, kind).body(body).timeout(LONGEST_TRANSFER)
            }
        };
        let response = request.send().await.map_err(|e| Failure::Unreachable(describe(e)))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(|e| Failure::Broken(describe(e)))?;
        Ok(Raw { status, headers: self.headers_without_key(headers), body: self.without_key(body) })
    }

    /// Opens a file of the API, which may be large; its body is still to come.
    pub async fn open(&self, path: &str) -> Result<Reply, Failure> {
        let url = format!("{}{path}", self.root);
        let sent = self.client.get(url).timeout(LONGEST_TRANSFER).send().await;
        sent.map_err(|e| Failure::Unreachable(describe(e)))
    }

    /// One attempt.
    pub async fn send(&self, body: Bytes) -> Result<Raw, Failure> {
        let sent = self.client.post(self.url.clone()).body(body).send().await;
        let response = sent.map_err(|e| match (e.is_connect(), e.is_timeout()) {
            (true, _) => Failure::Unreachable(describe(e)),
            (false, true) => Failure::TimedOut,
            // The request may have got there, and may be paid for.
            (false, false) => Failure::Broken(describe(e)),
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

fn default_headers(provider: Provider, key: Option<&Secret>) -> Result<HeaderMap> {
    let secret = |text: String| {
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Error::bad_input("API key", "expected printable characters, found others"))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match (provider, key) {
        (Provider::Anthropic, key) => {
            headers.insert(
                HeaderName::from_static("anthropic-version"),
                HeaderValue::from_static(anthropic::API_VERSION),
            );
            if let Some(key) = key {
                headers.insert(HeaderName::from_static("x-api-key"), secret(key.expose().to_owned())?);
            }
        }
        (Provider::OpenAi, Some(key)) => {
            headers.insert(AUTHORIZATION, secret(format!("Bearer {}", key.expose()))?);
        }
        (Provider::OpenAi | Provider::Reference, _) => {}
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
