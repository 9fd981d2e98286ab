//! Integration tests of the trainer, one binary.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod checkpoints;
mod reference;
mod reference_lora;
mod reference_ppo;
mod rl_values;
mod vit;
