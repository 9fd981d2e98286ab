//! API keys, which are never printed.

use crate::error::{Error, Result};
use schemas::settings::{Provider, TeacherSettings};
use secrecy::{ExposeSecret, SecretString};

/// An API key: never printed, and erased from memory when it is dropped.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Reads the key of a provider from the environment; `None` if the embedded Teacher needs none.
    ///
    /// Self-hosted servers (`base_url` set) may need none, unless the settings name its variable.
    pub fn from_environment(settings: &TeacherSettings) -> Result<Option<Self>> {
        let (usual, provider) = match settings.provider {
            Provider::Anthropic => ("ANTHROPIC_API_KEY", "anthropic"),
            Provider::OpenAi => ("OPENAI_API_KEY", "openai"),
            Provider::Reference => return Ok(None),
        };
        let is_named = !settings.api_key_env.is_empty();
        let variable = if is_named { settings.api_key_env.as_str() } else { usual };
        match std::env::var(variable) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(Self(key.trim().into()))),
            _ if settings.base_url.is_empty() || is_named => {
                Err(Error::MissingKey { variable: variable.to_owned(), provider })
            }
            _ => Ok(None),
        }
    }

    /// The key itself, for the one header that carries it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}
