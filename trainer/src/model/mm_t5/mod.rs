//! The multimodal T5 of MM-CoT (Zhang et al., 2023): encoder, gated fusion with a picture, decoder, head.

pub mod attention;
mod checkpoint;
pub mod config;
mod cpu_decoder;
pub mod decoder;
pub mod encoder;
pub mod family;
pub mod feed_forward;
mod footprint;
pub mod fusion;
mod initial;
pub mod network;

pub use config::StudentConfig;
pub use family::MM_T5;
pub use network::MmT5;
