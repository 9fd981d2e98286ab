//! The feedback half of an ARES round: asks a Teacher what is due and writes its answers as Parquet tables.
//!
//! ```text
//! rollouts, rationales ─► due ─► prompt + image ─► cache? ─► pace ─► teacher ─► cache ─► reply ─► tables
//!                                                    └── retry, money, stop ──┘
//! ```
//!
//! [`collect`] is the road. [`due`] says what is missing, [`prompt`] what is asked, [`teacher`] how each service wants it,
//! [`pace`] when, [`retry`] whether again, [`cache`] keeps every paid reply, [`reply`] reads it, [`tables`] writes it.

pub mod ask;
pub mod audit;
pub mod batch;
pub mod cache;
pub mod cli;
pub mod collect;
pub mod done;
pub mod due;
pub mod error;
pub mod estimate;
pub mod headers;
pub mod image;
pub mod import;
pub mod ledger;
pub mod money;
pub mod pace;
pub mod progress;
pub mod prompt;
pub mod rebuild;
pub mod reply;
pub mod report;
pub mod retry;
pub mod runtime;
pub mod settled;
pub mod status;
pub mod stop;
pub mod tables;
pub mod teacher;
pub mod tokens;
pub mod transport;
pub mod verdict;
pub mod win_rate;

/// Name of the program in provenance and lock files.
pub const PROGRAM: &str = "collect-feedback";
