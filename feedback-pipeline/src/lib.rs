//! The feedback half of an ARES round: asks a Teacher about every pending item and writes its answers as
//! Parquet tables.
//!
//! ```text
//! rollouts, rationales ─► items ─► request ─► store? ─► send ─► teacher ─► store ─► reply ─► tables
//! ```
//!
//! [`collect`] runs one job from end to end. Modules import only from the rows below their own:
//!
//! | module | owns |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`inspect`] | status, report, audit, estimate, win rate |
//! | [`import`] | creating a dataset |
//! | [`export`] | feedback in the formats of other trainers |
//! | [`collect`] | running a job, and the gate that decides what happens to each item |
//! | [`tables`] | Parquet: part sets, the ledger, replacement, rebuild |
//! | [`send`] | sending requests, single or in batches: pace, retries, budget |
//! | [`store`] | `feedback.sqlite`: every paid reply |
//! | [`reply`] | parsing replies, and the verdict on an item's replies |
//! | [`request`] | building a request: prompt, picture, token counts |
//! | [`teacher`] | the services: models, request and reply formats |
//! | [`items`] | the items of a round: everything the Teacher can be asked about |

pub mod cli;
pub mod collect;
pub mod error;
pub mod export;
pub mod import;
pub mod inspect;
pub mod items;
pub mod reply;
pub mod request;
pub mod send;
pub mod store;
pub mod tables;
pub mod teacher;

/// Name of the program in provenance and lock files.
pub const PROGRAM: &str = "collect-feedback";
