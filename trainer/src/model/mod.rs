//! Students: the interface of a model for training and sampling, and the models themselves.
//!
//! A new kind of model is a folder beside `mm_t5` that implements [`ModelConfig`] and [`Model`], and an entry in `family`.

pub mod config;
pub mod family;
pub mod footprint;
pub mod lora;
pub mod mm_t5;
pub mod network;
pub mod source;
pub mod student;

pub use config::{ModelConfig, SpecialTokens, add_random, random_weights};
pub use network::Model;
pub use source::Source;
pub use student::Student;
