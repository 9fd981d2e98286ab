//! Reinforcement learning on sentence scores: rewards, advantages, losses and the passes over the rollouts.

pub mod advantage;
pub mod advice;
pub mod loss;
mod part;
pub mod passes;
pub mod ppo;
pub mod reward;
pub mod scored;
pub mod statistics;
pub mod warmup;
