//! Layers that models are made of, their weights by name, and the number formats they run in. No model is known here.

pub mod dropout;
pub mod layers;
pub mod lora_pair;
pub mod low_precision;
pub mod mode;
pub mod value_head;
pub mod weights;
