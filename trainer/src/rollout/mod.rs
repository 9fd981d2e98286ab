//! Decoding: sampled rollouts with their log-probabilities, greedy rationales and answers.

pub mod logprobs;
pub mod sample;

pub use sample::{Generated, Sampling, generate};
