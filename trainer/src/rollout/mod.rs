//! Decoding: sampled rollouts with their log-probabilities, greedy rationales and answers.

pub mod distribution;
pub mod logprobs;
mod pick;
pub mod sample;
pub mod score;

pub use pick::Sampling;
pub use sample::{Generated, Generator, generate};
