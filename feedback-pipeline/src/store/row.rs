//! Stored requests and replies.

use crate::items::{Item, Job};
use crate::teacher::{Key, Usage};
use schemas::settings::Provider;

/// A distinct request, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Key of the first request; later turns belong to it.
    pub key: Key,
    /// Scope of the item that pays, see [`Job::scope`].
    pub scope: String,
    /// Round of the item that pays.
    pub round: u32,
    /// The item that pays.
    pub subject_id: String,
    /// Its problem.
    pub problem_id: String,
    /// The provider.
    pub provider: Provider,
    /// The model.
    pub model: String,
    /// Short hash of the system prompt.
    pub prompt_version: String,
    /// Text block of the request.
    pub user_text: String,
    /// sha256 of the picture.
    pub image_sha256: Option<String>,
    /// The items of a group request, which share its cost; empty for an individual request.
    pub members: Vec<Member>,
}

/// An item of a request about several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The item.
    pub subject_id: String,
    /// Key of its individual request: items with the same individual request share its position here.
    pub item_key: Key,
    /// Its share of the cost, relative to the others.
    pub weight: u32,
}

impl Ask {
    /// True if `item` of `job` is the one that pays.
    pub fn is_paid_by(&self, job: &Job, item: &Item) -> bool {
        self.is_about(&item.subject_id) && self.round == item.round && self.scope == job.scope()
    }

    /// True if the item that pays has this subject, or one of its members.
    pub fn is_about(&self, subject_id: &str) -> bool {
        match &self.members[..] {
            [] => self.subject_id == subject_id,
            members => members.iter().any(|member| member.subject_id == subject_id),
        }
    }
}

/// A raw reply with its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// 0 for the first request, 1 and 2 for those after a malformed reply.
    pub turn: u32,
    /// Key of the request that this is the reply to.
    pub sent_key: Key,
    /// Attempts until it arrived.
    pub attempts: u32,
    /// HTTP status; [`crate::reply::verdict::NOT_SENT`] where nothing could be sent.
    pub status: u16,
    /// Headers as a JSON object; empty in what is read back.
    pub headers: String,
    /// The unchanged body.
    pub body: bytes::Bytes,
    /// Tokens.
    pub usage: Usage,
    /// Dollars; `None` if the price is unknown or the reply has no usage.
    pub cost_usd: Option<f64>,
    /// Time the first attempt was sent, in ms since 1970.
    pub started_at_ms: i64,
    /// Time of the reply, in ms since 1970.
    pub replied_at_ms: i64,
    /// Time from sending the last attempt to its reply.
    pub latency_ms: u32,
    /// The request's dialect, if it depends on the service: names of fields, temperature, format.
    pub dialect: Option<String>,
}

/// A provider by its stored name.
pub(super) fn provider(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Provider> {
    let name: String = row.get(column)?;
    let known = [Provider::Anthropic, Provider::OpenAi, Provider::Reference];
    known.into_iter().find(|provider| provider.as_str() == name).ok_or_else(|| {
        let message = format!("expected a provider, found `{name}`");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, message.into())
    })
}
