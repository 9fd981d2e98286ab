//! Integration tests of the trainer, one binary.
#![allow(missing_docs)]

mod checkpoints;
mod reference;
mod vit;
