//! The changes written to the store: replies, requests of items, prompts, losses, and changes of batches.

use super::row::{Ask, Reply};
use crate::error::Result;
use crate::items::Kind;
use crate::teacher::Key;
use schemas::settings::Provider;
use std::sync::Arc;

/// One change of the store; see [`Writer`](super::Writer).
pub(crate) enum Write {
    /// A reply, with its request if it is the first; acknowledged when it is durable.
    Reply(Option<Arc<Ask>>, Key, Box<Reply>, tokio::sync::oneshot::Sender<Result<()>>),
    /// An item's request.
    Subject { scope: Arc<str>, round: u32, subject_id: String, key: Key },
    /// A system prompt.
    Prompt { hash: String, text: String },
    /// Dollars that an attempt without a complete reply may have cost.
    Lost(f64),
    /// A reply that can be downloaded again until its batch is closed.
    Fetched(Key, Box<Reply>),
    /// What happens to a batch.
    Batch(Change),
    /// A reply that could not be used; acknowledged when it is durable.
    Unusable(Box<Attempt>, tokio::sync::oneshot::Sender<Result<()>>),
    /// Requests whose answers are not used for the items of a job; its tables are then to be rewritten.
    Discard { kind: Kind, scope: String, round: u32, keys: Vec<Key>, at_ms: i64 },
    /// Requests whose answers are used again; the tables are then to be rewritten.
    Undiscard { kind: Kind, scope: String, round: u32, keys: Vec<Key> },
    /// The tables of a kind and round are rewritten.
    Rewritten { kind: Kind, round: u32 },
    /// Acknowledged when everything before is durable.
    Flush(std::sync::mpsc::Sender<Result<()>>),
}

impl Write {
    /// True if someone waits until it is durable.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Self::Reply(..) | Self::Unusable(..) | Self::Flush(_))
    }
}

/// A reply that may be charged but could not be used, and is asked for again.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The first request of the item.
    pub request_key: Key,
    /// 0 for the first request, 1 and 2 for those after a malformed reply.
    pub turn: u32,
    /// Key of the request that this is the reply to.
    pub sent_key: Key,
    /// HTTP status.
    pub status: u16,
    /// Headers as a JSON object.
    pub headers: String,
    /// The unchanged body.
    pub body: bytes::Bytes,
    /// Time of arrival, in ms since 1970.
    pub received_at_ms: i64,
    /// Dollars that it may have cost; `None` if the model has no known price. They count as spent.
    pub likely_usd: Option<f64>,
}

/// An open batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Our own name, chosen before it is sent.
    pub plan: String,
    /// The provider.
    pub provider: Provider,
    /// Model that is asked.
    pub model: String,
    /// Address of the service.
    pub address: String,
    /// Number of requests in it.
    pub requests: u64,
    /// Time it was recorded, in ms since 1970.
    pub planned_at_ms: i64,
    /// Dollars it will hardly exceed; 0 without a budget.
    pub likely_usd: f64,
    /// The uploaded file, if the service needs one.
    pub file_id: Option<String>,
    /// The service's id; `None` if it is unknown whether the service has it.
    pub batch_id: Option<String>,
    /// The format of its requests, if it depends on the service.
    pub dialect: Option<String>,
}

/// A request of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Key of what is sent, its `custom_id` in the batch.
    pub sent_key: Key,
    /// The first request, to which later turns belong.
    pub ask: Arc<Ask>,
    /// 0 for the first request, 1 and 2 for those after a malformed reply.
    pub turn: u32,
}

/// What happens to a batch.
pub(crate) enum Change {
    Planned(Batch, Vec<Entry>),
    Uploaded { plan: String, file_id: String },
    Sent { plan: String, batch_id: String },
    Closed { plan: String, how: &'static str },
}
