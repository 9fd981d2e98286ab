//! Pictures: features of patches, computed once by `train features` and read from memory-mapped files in training.

pub mod extract;
pub mod features;
pub mod npy;
mod resize;
pub mod vit;

pub use features::ImageFeatures;
