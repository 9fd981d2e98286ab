//! Decoding: sampled rollouts with their log-probabilities, greedy rationales and answers.

mod cpu_decoder;
pub mod distribution;
pub mod forced;
pub mod logprobs;
mod pick;
pub mod sample;

pub use pick::Sampling;
pub use sample::{Generated, Generator, generate};
