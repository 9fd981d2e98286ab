//! A reply without its provider's envelope: text, reason for ending, and usage.

use super::{ServiceError, Usage};
use serde_json::Value;

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
    /// The text of the reply.
    pub text: String,
    /// Contents of the reply's field for thinking; some servers put the answer there and leave the text
    /// empty.
    pub reasoning: String,
    /// True if the reply shows that the Teacher thought before it answered.
    pub has_thought: bool,
    /// Why it ended.
    pub ended: Ended,
    /// Usage; `None` if not reported.
    pub usage: Option<Usage>,
}

impl Envelope {
    /// Usage that is consistent with the reply: a text with zero output tokens was miscounted.
    pub(super) fn with_usage(mut self, usage: Option<Usage>) -> Self {
        self.usage = usage.filter(|usage| usage.output > 0 || self.text.trim().is_empty());
        self
    }
}

/// Why a body of status 200 is not a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unopened {
    /// It contains an error.
    Error {
        /// HTTP status that the error would have had.
        status: u16,
        /// The message of the error.
        error: ServiceError,
    },
    /// It is broken or not a reply of this API, with the reason.
    NotAReply(String),
}

impl std::fmt::Display for Unopened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error { status, error } => write!(f, "HTTP {status}, {error}"),
            Self::NotAReply(why) => f.write_str(why),
        }
    }
}

/// The status named in an error replaces that of the response.
pub(super) fn failed(error: ServiceError) -> Unopened {
    Unopened::Error { status: error.effective_status(200), error }
}

/// True if a field that may be null, false or empty is none of these.
pub(super) fn says_something(field: Option<&Value>) -> bool {
    match field {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(fields)) => fields.values().any(|field| says_something(Some(field))),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Bool(true)) => true,
    }
}

/// The text in a reply's content.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) refusal: String,
    /// The thinking, if it is included.
    pub(super) thought: String,
    pub(super) has_thought: bool,
}

impl Said {
    /// Reads content in any of its forms: a text, a part, a list of parts, or the answer itself as an object.
    /// Parts are selected by their type: thinking is never an answer.
    pub(super) fn of(content: &Value) -> Self {
        let mut said = Self::default();
        match content {
            Value::Array(parts) => parts.iter().for_each(|part| said.part(part)),
            other => said.part(other),
        }
        said
    }

    fn part(&mut self, part: &Value) {
        let object = match part {
            Value::String(text) => return self.text.push_str(text),
            Value::Object(object) => object,
            _ => return,
        };
        let text = |name: &str| match object.get(name) {
            Some(Value::String(text)) => Some(text.as_str()),
            // Some APIs wrap texts like this.
            Some(Value::Object(inner)) => inner.get("value").and_then(Value::as_str),
            _ => None,
        };
        match object.get("type").and_then(Value::as_str) {
            Some("text" | "output_text") => self.text.push_str(text("text").unwrap_or_default()),
            Some("refusal") => self.refusal.push_str(text("refusal").or(text("text")).unwrap_or_default()),
            Some("thinking" | "redacted_thinking" | "reasoning" | "reasoning_text") => {
                self.has_thought = true;
                let shown = text("thinking").or(text("reasoning")).or(text("text"));
                self.thought.push_str(shown.unwrap_or_default());
            }
            Some(_) => {}
            None => match text("text") {
                Some(text) => self.text.push_str(text),
                None if object.contains_key("thinking") || object.contains_key("reasoning") => {
                    self.has_thought = true;
                }
                None => self.text.push_str(&part.to_string()),
            },
        }
    }
}
