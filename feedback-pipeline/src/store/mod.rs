//! `feedback.sqlite`: every paid reply, stored before anything else happens to it.
//!
//! One thread writes. It commits all waiting changes as one transaction (synced to disk), then wakes the waiters, so a
//! reply is durable before it is parsed, and thousands per second share a few syncs. A second connection is used for
//! reading.
//!
//! | table | a row is |
//! | --- | --- |
//! | `prompts` | a system prompt, by its hash |
//! | `asks` | a distinct request: the item that paid for it, and its contents; the picture by its hash only |
//! | `members` | an item of a request about several |
//! | `replies` | a reply: raw body, headers, usage, cost; turns 1 and 2 are follow-ups to malformed replies |
//! | `subjects` | which request an item has; several items may share one, the last row of an item counts |
//! | `batches` | a batch that is about to be sent, open, or closed |
//! | `batch_requests` | which requests a batch holds |
//! | `losses` | the possible cost of an attempt without usage data: its reply was damaged, late, or lacked usage |
//! | `attempts` | a reply that may be charged but could not be used, and was requested again |
//! | `discarded` | a request whose answer is kept out of a job's tables |
//! | `rewrites` | a kind and round whose tables do not yet reflect discarded or restored answers |

mod apply;
mod batches;
mod cache;
mod discarded;
mod error;
mod members;
mod migrations;
pub mod outcome;
mod row;
mod write;
mod writer;

pub use batches::InProgress;
pub use cache::{Cache, Snapshot};
pub use discarded::Whose;
pub use row::{Ask, Member, Reply};
pub use write::{Attempt, Batch, Entry};
pub use writer::Writer;
