//! The services that can be asked, and how each wants a request and gives a reply.
//!
//! A [`Template`] is the part of a request that all items of a kind share; its hash is taken once. The key of a request
//! is the sha256 of everything that leaves the machine, a picture standing for its own hash.

pub mod anthropic;
pub mod openai;
pub mod reference;

mod embedded;

pub use embedded::answer as embedded_answer;

use crate::due::Kind;
use crate::error::{Error, Result};
use crate::image::Prepared;
use crate::prompt::SystemPrompt;
use schemas::settings::{Provider, TeacherSettings};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// sha256 of a whole request.
pub type Key = [u8; 32];

/// Reads a key from 64 hexadecimal digits.
pub fn parse_key(hex: &str) -> Option<Key> {
    let bytes = hex.as_bytes();
    let mut key = [0; 32];
    for (place, pair) in key.iter_mut().zip(bytes.chunks_exact(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (bytes.len() == 64).then_some(key)
}

/// An API key. It is never printed: `Debug` hides it, and it has no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Reads the key of a provider from the environment; none where the embedded Teacher needs none.
    ///
    /// Servers of one's own (`base_url` set) may go without.
    pub fn from_environment(settings: &TeacherSettings) -> Result<Option<Self>> {
        let (variable, provider) = match settings.provider {
            Provider::Anthropic => ("ANTHROPIC_API_KEY", "anthropic"),
            Provider::OpenAi => ("OPENAI_API_KEY", "openai"),
            Provider::Reference => return Ok(None),
        };
        match std::env::var(variable) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(Self(key.trim().to_owned()))),
            _ if settings.base_url.is_empty() => Err(Error::MissingKey { variable, provider }),
            _ => Ok(None),
        }
    }

    /// The key itself, for the one header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The model that is asked: the setting, or the provider's usual one.
pub fn model(settings: &TeacherSettings) -> String {
    if !settings.model.is_empty() && settings.provider != Provider::Reference {
        return settings.model.clone();
    }
    match settings.provider {
        Provider::Anthropic => "claude-haiku-4-5",
        Provider::OpenAi => "gpt-4.1-mini",
        Provider::Reference => "reference-v2",
    }
    .to_owned()
}

/// Address that requests go to.
pub fn url(settings: &TeacherSettings) -> String {
    let base = settings.base_url.trim_end_matches('/');
    match settings.provider {
        Provider::Anthropic => {
            let base = if base.is_empty() { "https://api.anthropic.com" } else { base };
            format!("{}/v1/messages", base.trim_end_matches("/v1"))
        }
        Provider::OpenAi => {
            let base = if base.is_empty() { "https://api.openai.com/v1" } else { base };
            let base = if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") };
            format!("{base}/chat/completions")
        }
        Provider::Reference => String::new(),
    }
}

/// A malformed reply and what the Teacher is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUp {
    /// Text of the reply that could not be used.
    pub reply: String,
    /// Why, in a sentence for the Teacher.
    pub complaint: String,
}

/// The part of a request that all items of a kind share.
#[derive(Clone)]
pub struct Template {
    provider: Provider,
    head: Vec<u8>,
    hashed_head: Sha256,
}

/// End of every request body: messages come last.
const TAIL: &[u8] = b"]}";

impl Template {
    /// Prepares requests of a kind.
    pub fn new(settings: &TeacherSettings, kind: Kind, system: &SystemPrompt) -> Self {
        let model = model(settings);
        let head = match settings.provider {
            Provider::Anthropic => anthropic::head(settings, &model, kind, &system.text),
            Provider::OpenAi => openai::head(settings, &model, kind, &system.text),
            Provider::Reference => embedded::head(&model, &system.text),
        };
        let mut hashed_head = Sha256::new();
        hashed_head.update(settings.provider.as_str().as_bytes());
        hashed_head.update(b"\n");
        hashed_head.update(&head);
        Self { provider: settings.provider, head, hashed_head }
    }

    /// Key of a request: hash of its body with the picture's hash in place of the picture.
    pub fn key(&self, image: Option<&Prepared>, text: &str, follow_ups: &[FollowUp]) -> Key {
        let mut messages = Vec::with_capacity(text.len() + 256);
        let shown = image.map(|image| (image.media_type, image.sha256.as_str()));
        self.messages(&mut messages, shown, text, follow_ups);
        let mut hash = self.hashed_head.clone();
        hash.update(&messages);
        hash.update(TAIL);
        hash.finalize().into()
    }

    /// Body of a request.
    pub fn body(&self, image: Option<&Prepared>, text: &str, follow_ups: &[FollowUp]) -> bytes::Bytes {
        let picture = image.map_or(0, |image| image.base64.len());
        let mut body = Vec::with_capacity(self.head.len() + text.len() + text.len() / 8 + picture + 512);
        body.extend_from_slice(&self.head);
        let shown = image.map(|image| (image.media_type, image.base64.as_str()));
        self.messages(&mut body, shown, text, follow_ups);
        body.extend_from_slice(TAIL);
        body.into()
    }

    fn messages(&self, out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str, follow_ups: &[FollowUp]) {
        match self.provider {
            Provider::Anthropic => anthropic::user(out, image, text),
            Provider::OpenAi => openai::user(out, image, text),
            Provider::Reference => embedded::user(out, image, text),
        }
        for follow_up in follow_ups {
            let reply = if follow_up.reply.trim().is_empty() { "(empty)" } else { &follow_up.reply };
            out.extend_from_slice(br#",{"role":"assistant","content":"#);
            json_text(out, reply);
            out.extend_from_slice(br#"},{"role":"user","content":"#);
            json_text(out, &follow_up.complaint);
            out.push(b'}');
        }
    }

    /// Key of a request of any turn, whose first has the key `first`.
    pub fn sent_key(
        &self,
        first: &Key,
        image: Option<&Prepared>,
        text: &str,
        follow_ups: &[FollowUp],
    ) -> Key {
        match follow_ups {
            [] => *first,
            follow_ups => self.key(image, text, follow_ups),
        }
    }
}

/// Appends a text as a JSON string.
pub(crate) fn json_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text); // a text into memory cannot fail
}

/// Tokens of one reply, as the provider bills them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens at the full price.
    pub input: u64,
    /// Input tokens written to the provider's prompt cache.
    pub cache_write: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Output tokens.
    pub output: u64,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Complete,
    /// At the limit of output tokens.
    Truncated,
    /// The Teacher refused.
    Refused,
}

/// A reply, out of its provider's envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the Teacher said.
    pub text: String,
    /// Why it ended.
    pub ended: Ended,
    /// What it cost in tokens; none where it does not tell.
    pub usage: Option<Usage>,
}

/// A number of tokens, as services write it: whole, as a decimal, or not at all.
#[derive(Debug, Clone, Copy, Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Option::<serde_json::Number>::deserialize(deserializer)?;
        let whole = |number: serde_json::Number| {
            number
                .as_u64()
                .or_else(|| number.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
        };
        Ok(Self(number.and_then(whole).unwrap_or(0)))
    }
}

/// Opens a provider's envelope; an error says what is wrong with it.
pub fn open(provider: Provider, body: &[u8]) -> Result<Envelope, String> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body); // some servers begin with a byte order mark
    match provider {
        Provider::Anthropic => anthropic::open(body),
        Provider::OpenAi => openai::open(body),
        Provider::Reference => embedded::open(body),
    }
}

/// Usage told by a reply that is whole JSON and no error, but not the envelope that was expected: it was paid for. None for
/// anything else, which may be asked for again.
pub fn usage_of_unreadable(body: &[u8]) -> Option<Usage> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let reply: serde_json::Value = serde_json::from_slice(body).ok()?;
    let is_error = reply.get("error").is_some_and(|error| !error.is_null());
    if !reply.is_object() || is_error || reply.get("type").is_some_and(|kind| kind == "error") {
        return None;
    }
    let usage = reply.get("usage")?;
    let number = |names: [&str; 2]| {
        let count = |name: &&str| Count::deserialize(usage.get(*name)?).ok();
        names.iter().find_map(count).map_or(0, |count| count.0)
    };
    Some(Usage {
        input: number(["input_tokens", "prompt_tokens"]),
        cache_write: number(["cache_creation_input_tokens", ""]),
        cache_read: number(["cache_read_input_tokens", ""]),
        output: number(["output_tokens", "completion_tokens"]),
    })
}

/// An error body, in what both providers have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceError {
    /// For instance `rate_limit_error`.
    pub kind: String,
    /// For instance `insufficient_quota`; empty where there is none.
    pub code: String,
    /// In words.
    pub message: String,
}

impl ServiceError {
    /// Reads an error body; a body that is no JSON is its own message.
    pub fn read(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: serde_json::Value,
        }
        let text = |value: Option<&serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { error: serde_json::Value::String(message) }) => Self { message, ..Self::default() },
            Ok(Body { error }) => Self {
                kind: text(error.get("type")),
                // Anthropic puts finer codes into `details`, OpenAI into `code`.
                code: [error.get("code"), error.get("details").and_then(|details| details.get("error_code"))]
                    .into_iter()
                    .map(text)
                    .find(|code| !code.is_empty())
                    .unwrap_or_default(),
                message: text(error.get("message")),
            },
            Err(_) => {
                Self { message: String::from_utf8_lossy(body).chars().take(300).collect(), ..Self::default() }
            }
        }
    }
}

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        let message: String = message.chars().take(300).collect();
        match (self.kind.is_empty(), message.is_empty()) {
            (true, true) => f.write_str("no explanation"),
            (true, false) => f.write_str(&message),
            (false, true) => f.write_str(&self.kind),
            (false, false) => write!(f, "{}: {message}", self.kind),
        }
    }
}
