//! Pictures: features of patches, made once by `train features`, read from memory-mapped files in training.

pub mod extract;
pub mod features;
pub mod npy;
mod resize;
pub mod vit;

pub use features::ImageFeatures;
