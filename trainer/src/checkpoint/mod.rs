//! Checkpoint folders: Hugging Face's layout for whole students, PEFT's for adapters, and the files of both.

pub mod folder;
pub mod hf;
pub mod peft;
pub mod weight_files;
