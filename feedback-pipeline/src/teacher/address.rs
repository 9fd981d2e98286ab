//! The address of requests: a base URL is used as given, and so is a full endpoint.

use crate::error::{Error, Result};
use reqwest::Url;
use schemas::settings::{Provider, TeacherSettings};

/// The endpoint of a service, and the root of its other calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    endpoint: Url,
    root: Url,
}

impl Address {
    /// The address in the settings, or the provider's own. A base without a path gets `/v1`; any other path is kept,
    /// and the call of the API follows it; an address that ends with that call is the endpoint already. A query is
    /// kept.
    ///
    /// # Errors
    /// If the address has no scheme or no host.
    pub fn of(settings: &TeacherSettings) -> Result<Self> {
        let given = match settings.provider {
            Provider::Reference => "", // nothing is sent
            _ => settings.base_url.trim(),
        };
        let (own, call) = match settings.provider {
            Provider::Anthropic => ("https://api.anthropic.com", "messages"),
            _ => ("https://api.openai.com", "chat/completions"),
        };
        let base: Url = if given.is_empty() { own } else { given }
            .parse()
            .map_err(|error| malformed(given, &format!("{error}")))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(malformed(given, "no scheme"));
        }
        let path = base.path().trim_end_matches('/');
        let last = path.rsplit('/').next().unwrap_or_default();
        let is_version =
            last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let root = match (path.strip_suffix(&format!("/{call}")), settings.provider) {
            (Some(root), _) => root.to_owned(),
            (None, _) if path.is_empty() => "/v1".to_owned(),
            // The Messages API is at `/v1/messages` below any prefix of a gateway.
            (None, Provider::Anthropic) if !is_version => format!("{path}/v1"),
            (None, _) => path.to_owned(),
        };
        let at = |path: &str| {
            let mut url = base.clone();
            url.set_path(path);
            url
        };
        Ok(Self { endpoint: at(&format!("{root}/{call}")), root: at(&root) })
    }

    /// Where requests are posted.
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// Another call of the API, for instance `/batches?limit=100`.
    pub fn call(&self, path_and_query: &str) -> Url {
        let mut url = self.root.clone();
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        url.set_path(&format!("{}{path}", self.root.path().trim_end_matches('/')));
        if !query.is_empty() {
            let all =
                [self.root.query().unwrap_or_default(), query].into_iter().filter(|part| !part.is_empty());
            url.set_query(Some(&all.collect::<Vec<_>>().join("&")));
        }
        url
    }

    /// The host in lower case, with its port where one was given.
    pub fn host_and_port(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        self.endpoint.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The endpoint for display: without user name, password or query.
    pub fn shown(&self) -> String {
        shown(&self.endpoint)
    }

    /// The root of the API, for display.
    pub fn root_shown(&self) -> String {
        shown(&self.root)
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let hidden = url.set_username("").and_then(|()| url.set_password(None));
    url.set_query(None);
    hidden.map_or_else(|()| String::new(), |()| url.to_string())
}

fn malformed(given: &str, why: &str) -> Error {
    let message = format!("expected an address with http:// or https://, found `{given}` ({why})");
    Error::bad_input("--base-url", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(provider: Provider, base_url: &str) -> TeacherSettings {
        TeacherSettings { provider, base_url: base_url.to_owned(), ..TeacherSettings::default() }
    }

    #[test]
    fn bases_and_endpoints() {
        let table = [
            (Provider::OpenAi, "", "https://api.openai.com/v1/chat/completions"),
            (Provider::OpenAi, "http://h:1", "http://h:1/v1/chat/completions"),
            (Provider::OpenAi, "http://h:1/", "http://h:1/v1/chat/completions"),
            (Provider::OpenAi, "http://h/v1/", "http://h/v1/chat/completions"),
            (Provider::OpenAi, "https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
            (Provider::OpenAi, "https://h/api/v3", "https://h/api/v3/chat/completions"),
            (Provider::OpenAi, "https://h/x/chat/completions", "https://h/x/chat/completions"),
            (
                Provider::OpenAi,
                "https://h/openai/v1?api-version=1",
                "https://h/openai/v1/chat/completions?api-version=1",
            ),
            (Provider::Anthropic, "", "https://api.anthropic.com/v1/messages"),
            (Provider::Anthropic, "http://h:1", "http://h:1/v1/messages"),
            (Provider::Anthropic, "http://h:1/v1", "http://h:1/v1/messages"),
            (Provider::Anthropic, "https://h/anthropic", "https://h/anthropic/v1/messages"),
            (Provider::Anthropic, "https://h/anthropic/v1/messages", "https://h/anthropic/v1/messages"),
        ];
        for (provider, base, endpoint) in table {
            let address = Address::of(&settings(provider, base)).unwrap();
            assert_eq!(address.endpoint().as_str(), endpoint, "{base}");
        }
    }

    #[test]
    fn other_calls_keep_the_query() {
        let address = Address::of(&settings(Provider::OpenAi, "https://h/openai/v1?api-version=1")).unwrap();
        assert_eq!(
            address.call("/batches?limit=2").as_str(),
            "https://h/openai/v1/batches?api-version=1&limit=2"
        );
        assert_eq!(address.call("/files").as_str(), "https://h/openai/v1/files?api-version=1");
        let secret = Address::of(&settings(Provider::OpenAi, "https://me:pw@h/v1?key=1")).unwrap();
        assert_eq!(
            (secret.shown().as_str(), secret.root_shown().as_str()),
            ("https://h/v1/chat/completions", "https://h/v1")
        );
    }

    #[test]
    fn an_address_without_a_scheme_is_bad_input() {
        for base in ["localhost:8000", "127.0.0.1:8000/v1", "h/v1", "ftp://h", "http://"] {
            let error = Address::of(&settings(Provider::OpenAi, base)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{base}: {error}");
        }
    }
}
