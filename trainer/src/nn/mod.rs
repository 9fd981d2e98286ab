//! Building blocks of models: layers, named weights, and compute dtypes. Independent of any particular model.

pub mod dropout;
pub mod layers;
pub mod lora_pair;
pub mod low_precision;
pub mod mode;
pub mod value_head;
pub mod weights;
