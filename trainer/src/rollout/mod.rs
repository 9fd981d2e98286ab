//! Decoding: sampled rollouts with their log-probabilities, greedy rationales and answers.

pub mod distribution;
pub mod forced;
pub mod logprobs;
mod pick;
pub mod sample;
mod stepper;

pub use sample::{Generated, Generator, Sampling, generate};
