//! A reply out of its provider's envelope: what was said, why it ended, and what it cost in tokens.

use serde::{Deserialize, Serialize};

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
pub(super) struct Count(pub(super) u64);

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
