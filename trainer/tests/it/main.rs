//! Integration tests of the trainer, one binary.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod checkpoints;
mod reference;
mod vit;
