//! Integration tests of the trainer, one binary.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod adapters;
mod again;
mod answer_alone;
mod answers;
mod bad_input;
mod checkpoints;
mod faults;
mod features;
mod info;
mod kill;
mod learning;
mod lora;
mod lora_step;
mod memory;
mod opinions;
mod options;
mod pickles;
mod rank_kills;
mod ranks;
mod reference;
mod reference_lora;
mod reference_ppo;
mod rl_options;
mod rl_values;
mod rollouts;
mod rounds;
mod shares;
mod small;
mod t5;
mod toy;
mod toy_objective;
mod vit;
mod weight_files;
