//! What an error body says, whichever service it comes from.

use serde::Deserialize;

/// An error body, in what both providers have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceError {
    /// For instance `rate_limit_error`.
    pub kind: String,
    /// For instance `insufficient_quota`; empty where there is none.
    pub code: String,
    /// Field of the request that the service names; empty where it names none.
    pub param: String,
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
                param: text(error.get("param")),
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

/// Reason of a reject whose request no service would take, whatever the settings.
pub const TOO_LARGE: &str = "request too large";

/// Faults of one request. Also tells what a stored error reply was.
pub fn final_for_item(status: u16, error: &ServiceError) -> Option<String> {
    let message = error.message.to_ascii_lowercase();
    let too_large = status == 413
        || error.code == "context_length_exceeded"
        || error.kind == "request_too_large"
        || ["prompt is too long", "maximum context length", "context window"]
            .iter()
            .any(|words| message.contains(words));
    match status {
        400 | 413 | 422 if too_large => Some(TOO_LARGE.to_owned()),
        400 | 422 => Some(format!("bad request: {error}")),
        _ => None,
    }
}
