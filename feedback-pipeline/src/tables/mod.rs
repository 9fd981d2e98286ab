//! Writing the Teacher's answers from the cache to Parquet, in the order of the items.
//!
//! One run writes one set of files: `requests/…/part-scores-00003.parquet`, `rejects/…/part-scores-00003.parquet` and, last,
//! `scores/…/part-00003.parquet`, the marker. A set without its marker is incomplete; the next run removes and rewrites it, see
//! [`recover`]. A set that replaces older ones (changed prompt, rebuild, discarded answers) takes their place in one step, see
//! `swap`.

pub mod booking;
pub mod completed;
mod identity;
pub mod ledger;
pub mod outcomes;
mod part_set;
mod parts;
pub mod publish;
pub mod rebuild;
mod replace;
mod swap;

pub use identity::{opinion_on, outcome_of, pair};
pub use part_set::{Counts, PartSet};
pub use parts::{is_cut_off, next_number, recover};
pub use swap::Replacement;
