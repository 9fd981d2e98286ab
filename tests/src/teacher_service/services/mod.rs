//! The services that can be simulated: one `Profile` each, with data and a few functions in separate files.
//!
//! A profile defines which paths are served, which header has the key, which fields are refused and with
//! which message, which field limits the reply, how much a model thinks and where that appears, what usage
//! contains, and how pictures count. The profiles follow the services' documentation of November 2026.

mod anthropic;
mod azure;
mod bedrock;
mod claude;
mod deepseek;
mod desktop;
pub(crate) mod failure;
mod gateway;
mod google;
mod gpt;
mod hosts;
mod local;
mod mistral;
mod openai;
mod openrouter;
pub(crate) mod pictures;
mod plain;
mod schema;
pub(crate) mod thinking;
pub(crate) mod tokens;
mod usage;
mod xai;

use super::schedule::named;
use super::wire::{Api, Picture};
use failure::{Failure, Told};
use serde_json::Value;
use thinking::Shown;
use tokens::Caching;

named! {
    /// The service to simulate.
    #[derive(Default)]
    Service {
        /// Accepts whatever clients of either API send.
        #[default]
        Permissive = "permissive",
        /// Anthropic's API: fields by model, thinking on by default.
        Anthropic = "anthropic",
        /// OpenAI's API: reasoning models, write fees, pictures in patches.
        OpenAi = "openai",
        /// Azure OpenAI v1: `api-key`.
        Azure = "azure",
        /// Gemini's OpenAI-compatible API: no `/v1`, errors in a list.
        Gemini = "gemini",
        /// Google Cloud's endpoint: a long path without `/v1` at its end.
        Vertex = "vertex",
        /// Amazon Bedrock: OpenAI's chat API and Claude without schemas.
        Bedrock = "bedrock",
        /// OpenRouter: endpoints that differ, cost in the usage.
        OpenRouter = "openrouter",
        /// DeepSeek: no schemas, thinking shown.
        DeepSeek = "deepseek",
        /// Mistral: unknown fields refused with 422, content in parts.
        Mistral = "mistral",
        /// xAI: reasoning tokens are separate from completion tokens.
        XAi = "xai",
        /// Groq: schemas for some models, a day's limit in a header.
        Groq = "groq",
        /// Together.
        Together = "together",
        /// Fireworks: a path and model names of its own.
        Fireworks = "fireworks",
        /// A gateway before OpenAI and Anthropic.
        Gateway = "gateway",
        /// vLLM with a reasoning parser.
        Vllm = "vllm",
        /// vLLM without one: thinking is in the content.
        VllmWithoutParser = "vllm-no-parser",
        /// SGLang.
        SgLang = "sglang",
        /// llama.cpp's server.
        LlamaCpp = "llama.cpp",
        /// Ollama: only `max_tokens` counts.
        Ollama = "ollama",
        /// Ollama's cloud: schemas are ignored.
        OllamaCloud = "ollama-cloud",
        /// LM Studio: no `json_object`.
        LmStudio = "lm-studio",
        /// A server that accepts only texts, not lists of parts.
        TextsOnly = "texts-only",
        /// A server whose template knows no system message.
        NoSystem = "no-system",
        /// A server that knows no `response_format`.
        NoFormat = "no-format",
    }
}

/// What is served at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Messages,
    CountTokens,
    Chat,
}

/// A header that can hold the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyHeader {
    XApiKey,
    Bearer,
    ApiKey,
}

/// Headers that matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) x_api_key: Option<String>,
    pub(crate) bearer: Option<String>,
    pub(crate) api_key: Option<String>,
    /// `anthropic-version`.
    pub(crate) version: Option<String>,
}

/// A request as a service sees it.
pub(crate) struct Sent<'a> {
    pub(crate) api: Api,
    pub(crate) model: &'a str,
    pub(crate) body: &'a Value,
    pub(crate) version: Option<&'a str>,
    pub(crate) pictures: &'a [Picture],
}

impl<'a> Sent<'a> {
    /// True if a field is given, and not as null.
    pub(crate) fn has(&self, field: &str) -> bool {
        !self.body[field].is_null()
    }

    /// A field that is a number.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        self.body[field].as_f64()
    }

    /// A field that is a text.
    pub(crate) fn text(&self, field: &str) -> Option<&'a str> {
        self.body[field].as_str()
    }

    /// The type of `response_format`.
    pub(crate) fn format(&self) -> Option<&'a str> {
        self.body["response_format"]["type"].as_str()
    }

    /// The first given field that a service does not know.
    pub(crate) fn unknown(&self, known: &[&str]) -> Option<&'a str> {
        let fields = self.body.as_object()?;
        fields
            .iter()
            .find(|(name, value)| !value.is_null() && !known.contains(&name.as_str()))
            .map(|(name, _)| name.as_str())
    }
}

/// What a request used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) input: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) answer: u64,
    pub(crate) thinking: u64,
}

/// How a service behaves.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    /// Paths and what is there; `*` stands for any one segment.
    pub(crate) paths: &'static [(&'static str, Route)],
    /// Prefix of `/batches` and `/files`, and the API of the batches.
    pub(crate) batches: &'static [(&'static str, Api)],
    /// Headers that hold the key, the first that is given counts.
    pub(crate) keys: &'static [KeyHeader],
    /// Whether a request without a key is refused.
    pub(crate) needs_key: bool,
    /// Messages about a wrong key, missing credit, an unknown path, an unsupported picture.
    pub(crate) bad_key: fn() -> Failure,
    pub(crate) no_money: fn() -> Failure,
    pub(crate) no_path: fn(&str) -> Failure,
    pub(crate) blind: fn(&Sent<'_>) -> Failure,
    /// Message about content that the service refuses.
    pub(crate) flagged: fn() -> Failure,
    /// How errors are worded.
    pub(crate) word: fn(Api, &Failure) -> Told,
    /// Which requests are refused.
    pub(crate) check: fn(&Sent<'_>) -> Result<(), Failure>,
    /// Maximum tokens of a reply, thinking included.
    pub(crate) limit: fn(&Sent<'_>) -> Option<u64>,
    /// Approximate thinking tokens.
    pub(crate) thinks: fn(&Sent<'_>) -> u64,
    /// Where thinking appears.
    pub(crate) shows: fn(&Sent<'_>) -> Shown,
    /// Converts the usage of a chat reply to the service's form.
    pub(crate) usage: fn(&mut Value, &Spent),
    /// Tokens of a text, as a multiple of OpenAI's.
    pub(crate) text_factor: fn(&str) -> f64,
    /// Tokens of a picture.
    pub(crate) picture: fn(&Sent<'_>, &Picture) -> Result<u64, Failure>,
    /// The prompt cache.
    pub(crate) caching: fn(&Sent<'_>) -> Caching,
    /// Size of the context, if replies without a limit continue until it is full.
    pub(crate) context: Option<u64>,
    /// The status of an overload.
    pub(crate) overloaded: u16,
    /// Whether the header of the request limit counts a day.
    pub(crate) counts_days: bool,
    /// Whether schemas are silently ignored, so that replies have prose around the JSON.
    pub(crate) drops_schema: fn(&Sent<'_>) -> bool,
    /// Whether the service is one of its own, with tokens by the rules above.
    pub(crate) is_named: bool,
}

/// Accepts everything that clients of the two public APIs send.
pub(crate) const PERMISSIVE: Profile = Profile {
    paths: &[("/v1/messages", Route::Messages), ("/v1/chat/completions", Route::Chat)],
    batches: &[("/v1/messages", Api::Anthropic), ("/v1", Api::OpenAi)],
    keys: &[KeyHeader::XApiKey, KeyHeader::Bearer],
    needs_key: false,
    bad_key: || Failure::new(401, "authentication_error", "key", "invalid key").code("invalid_api_key"),
    no_money: || Failure::new(429, "insufficient_quota", "money", "no money left").code("insufficient_quota"),
    no_path: |path| Failure::new(404, "not_found_error", "path", format!("no {path} here")),
    blind: |sent| Failure::bad("image", format!("model {} does not support image input", sent.model)),
    flagged: || {
        let message =
            "This model requires moderation on the provider. Your input was flagged for \"violence\".";
        Failure::new(403, "permission_error", "content", message)
    },
    word: failure::both,
    check: |_| Ok(()),
    limit: |_| None,
    thinks: |_| 0,
    shows: |_| Shown::Nowhere,
    usage: |_, _| {},
    text_factor: |_| 1.0,
    picture: |_, picture| Ok(pictures::patches(picture, 28).min(4_096)),
    caching: |_| Caching::None,
    context: None,
    overloaded: 529,
    counts_days: false,
    drops_schema: |_| false,
    is_named: false,
};

/// Defaults of services with OpenAI's chat API.
pub(crate) const OPENAI_LIKE: Profile = Profile {
    paths: &[("/v1/chat/completions", Route::Chat)],
    batches: &[],
    keys: &[KeyHeader::Bearer],
    needs_key: true,
    word: failure::openai,
    limit: either_limit,
    overloaded: 503,
    no_path: |path| Failure::new(404, "invalid_request_error", "path", format!("Invalid URL (POST {path})")),
    is_named: true,
    ..PERMISSIVE
};

/// The limit under either name, the newer one first.
pub(crate) fn either_limit(sent: &Sent<'_>) -> Option<u64> {
    sent.body["max_completion_tokens"].as_u64().or_else(|| sent.body["max_tokens"].as_u64())
}

/// The limit where only the older name is known.
pub(crate) fn older_limit(sent: &Sent<'_>) -> Option<u64> {
    sent.body["max_tokens"].as_u64()
}

impl Service {
    /// The profile of a service.
    pub(crate) fn profile(self) -> &'static Profile {
        match self {
            Self::Permissive => &PERMISSIVE,
            Self::Anthropic => &anthropic::ANTHROPIC,
            Self::OpenAi => &openai::OPENAI,
            Self::Azure => &azure::AZURE,
            Self::Gemini => &google::GEMINI,
            Self::Vertex => &google::VERTEX,
            Self::Bedrock => &bedrock::BEDROCK,
            Self::OpenRouter => &openrouter::OPENROUTER,
            Self::DeepSeek => &deepseek::DEEPSEEK,
            Self::Mistral => &mistral::MISTRAL,
            Self::XAi => &xai::XAI,
            Self::Groq => &hosts::GROQ,
            Self::Together => &hosts::TOGETHER,
            Self::Fireworks => &hosts::FIREWORKS,
            Self::Gateway => &gateway::GATEWAY,
            Self::Vllm => &local::VLLM,
            Self::VllmWithoutParser => &local::VLLM_WITHOUT_PARSER,
            Self::SgLang => &local::SGLANG,
            Self::LlamaCpp => &local::LLAMA_CPP,
            Self::Ollama => &desktop::OLLAMA,
            Self::OllamaCloud => &desktop::OLLAMA_CLOUD,
            Self::LmStudio => &desktop::LM_STUDIO,
            Self::TextsOnly => &plain::TEXTS_ONLY,
            Self::NoSystem => &plain::NO_SYSTEM,
            Self::NoFormat => &plain::NO_FORMAT,
        }
    }
}

impl Profile {
    /// What is at a path.
    pub(crate) fn route(&self, path: &str) -> Option<Route> {
        let fits = |pattern: &str| {
            let (mut segments, mut given) = (pattern.split('/'), path.split('/'));
            loop {
                match (segments.next(), given.next()) {
                    (None, None) => return true,
                    (Some("*"), Some(segment)) if !segment.is_empty() => {}
                    (Some(expected), Some(segment)) if expected == segment => {}
                    _ => return false,
                }
            }
        };
        self.paths.iter().find(|(pattern, _)| fits(pattern)).map(|(_, route)| *route)
    }

    /// The path of a call of a batch API, as the public APIs name it.
    pub(crate) fn batch_path(&self, path: &str) -> Option<String> {
        self.batches.iter().find_map(|(base, api)| {
            let rest = path.strip_prefix(base)?;
            let (names, public): (&[&str], _) = match api {
                Api::Anthropic => (&["/batches"], "/v1/messages"),
                Api::OpenAi => (&["/batches", "/files"], "/v1"),
            };
            let is_mine = names.iter().any(|name| {
                rest.strip_prefix(name).is_some_and(|more| more.is_empty() || more.starts_with('/'))
            });
            is_mine.then(|| format!("{public}{rest}"))
        })
    }

    /// Checks the key.
    pub(crate) fn authorize(&self, head: &Head, expected: Option<&str>) -> Result<(), Failure> {
        let given = self.keys.iter().find_map(|header| match header {
            KeyHeader::XApiKey => head.x_api_key.as_deref(),
            KeyHeader::Bearer => head.bearer.as_deref(),
            KeyHeader::ApiKey => head.api_key.as_deref(),
        });
        match (given, expected) {
            (given, Some(expected)) if given != Some(expected) => Err((self.bad_key)()),
            (None, None) if self.needs_key => Err((self.bad_key)()),
            _ => Ok(()),
        }
    }
}
