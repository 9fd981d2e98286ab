//! Known services and their requirements, by host.

use schemas::settings::{ResponseFormat, TokenLimitField};
use serde::Deserialize;

/// Header that holds the API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// `authorization: Bearer`.
    #[default]
    Bearer,
    /// `api-key`.
    ApiKey,
    /// `x-api-key`.
    XApiKey,
}

/// A service; the default is one of an unknown host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Its name in messages; empty if the host is unknown.
    #[serde(skip)]
    pub name: String,
    /// Its hosts, with a port if that identifies the service; `*` matches anything.
    pub hosts: Vec<String>,
    /// Field that limits a reply; `None` if it depends on the model or is unknown.
    pub token_limit_field: Option<TokenLimitField>,
    /// Supported response format; `None` if it depends on the model or is unknown.
    pub response_format: Option<ResponseFormat>,
    /// The same for Claude models, if it differs.
    pub claude_response_format: Option<ResponseFormat>,
    /// Header that holds the API key.
    pub auth: Auth,
    /// Whether the header of allowed requests counts those of a minute.
    pub believes_request_header: bool,
    /// Whether the header of allowed requests counts those of a day.
    pub requests_header_is_per_day: bool,
    /// Whether GIFs are accepted; otherwise they are sent as PNG.
    pub takes_gif: bool,
    /// Maximum picture size, in bytes before base64; `None` if it depends on the model.
    pub max_image_bytes: Option<u64>,
    /// Maximum requests in flight.
    pub max_in_flight: Option<u32>,
    /// Whether `prompt_tokens` may leave out those read from the prompt cache.
    pub prompt_excludes_cached: bool,
    /// Whether `completion_tokens` leaves out reasoning that is charged.
    pub completion_excludes_reasoning: bool,
    /// Whether status 403 can mean that one request was flagged by moderation.
    pub flags_with_403: bool,
    /// Factor on the models' prices.
    pub price_factor: f64,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            name: String::new(),
            hosts: Vec::new(),
            token_limit_field: None,
            response_format: None,
            claude_response_format: None,
            auth: Auth::Bearer,
            believes_request_header: false,
            requests_header_is_per_day: false,
            takes_gif: false,
            max_image_bytes: None,
            max_in_flight: None,
            prompt_excludes_cached: false,
            completion_excludes_reasoning: false,
            flags_with_403: false,
            price_factor: 1.0,
        }
    }
}
