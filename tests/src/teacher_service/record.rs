//! The request log: the latest requests in memory, and optionally all of them in a file.

use super::services::Head;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How many requests are kept in memory.
const KEPT: usize = 200;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Path, without the query.
    pub path: String,
    /// Names of the headers with a key.
    pub auth: Vec<&'static str>,
    /// `anthropic-version`, if given.
    pub version: Option<String>,
    /// Its body.
    pub body: Value,
}

impl Recorded {
    pub(super) fn new(path: &str, head: &Head, body: Value) -> Self {
        let keys =
            [("x-api-key", &head.x_api_key), ("authorization", &head.bearer), ("api-key", &head.api_key)];
        let auth = keys.into_iter().filter(|(_, key)| key.is_some()).map(|(name, _)| name).collect();
        Self { path: path.to_owned(), auth, version: head.version.clone(), body }
    }

    /// As a line of the file.
    fn to_json(&self) -> Value {
        json!({
            "path": self.path, "headers": {"auth": self.auth, "anthropic-version": self.version}, "body": self.body,
        })
    }
}

/// Where requests are kept.
#[derive(Default)]
pub(super) struct Records {
    latest: Mutex<VecDeque<Recorded>>,
    file: Option<Mutex<File>>,
}

impl Records {
    /// Appends to a file if there is one.
    pub(super) fn new(path: Option<&Path>) -> Result<Self, String> {
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.map(Mutex::new).map_err(|e| format!("{}: {e}", path.display()))
        };
        Ok(Self { latest: Mutex::default(), file: path.map(open).transpose()? })
    }

    pub(super) fn add(&self, recorded: Recorded) {
        if let Some(file) = &self.file {
            let line = format!("{}\n", recorded.to_json());
            // A full disk must not stop the service; missing lines are noticed by the reader of the file.
            let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == KEPT {
            latest.pop_front();
        }
        latest.push_back(recorded);
    }

    pub(super) fn latest(&self) -> Vec<Recorded> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
