//! Kernels for CPUs: products of few rows with large matrices in several number formats, and AdamW.

pub mod adamw;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
pub mod kernel;
#[cfg(target_arch = "x86_64")]
mod lanes;
pub mod math;
pub mod matrix;
pub mod numbers;
