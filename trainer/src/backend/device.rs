//! A GPU, or any device that runs libtorch's own operations.

use super::interface::Backend;
use super::{gpu, libtorch};
use crate::collective::Libraries;
use crate::error::{Error, Result};
use schemas::settings::Dtype;
use tch::{Kind, Tensor, no_grad};

/// A device that runs libtorch's own operations.
#[derive(Debug)]
pub struct Gpu;

/// bfloat16 if the hardware multiplies it (compute capability 8.0 and later).
fn dtype(capability: Option<(i32, i32)>) -> Dtype {
    match capability {
        Some((major, _)) if major >= 8 => Dtype::Bfloat16,
        _ => Dtype::Float32,
    }
}

impl Backend for Gpu {
    fn name(&self) -> &'static str {
        "the GPU"
    }

    fn dtype(&self) -> Dtype {
        dtype(gpu::first().map(|gpu| gpu.capability))
    }

    /// With few rows, time is lost waiting for kernels to start.
    fn decode_batch(&self) -> u32 {
        256
    }

    /// Each kernel needs a large amount of work to be efficient.
    fn head_positions(&self) -> i64 {
        4096
    }

    fn scoring_tokens(&self) -> Option<usize> {
        None
    }

    /// All rows are processed at once, so another part costs more than any padding.
    fn part_tokens(&self, _kind: Kind) -> u64 {
        u64::MAX / 1024
    }

    fn keeps_students(&self) -> bool {
        true
    }

    fn has_decoder_kernels(&self) -> bool {
        false
    }

    fn collective_libraries(&self) -> Result<Option<Libraries>> {
        let find = |name: &str| {
            libtorch::loaded(name).ok_or_else(|| {
                Error::input(
                    format!("several ranks on GPUs need {name}, which this libtorch has not loaded"),
                    "next: make setup on this machine, or one process on a GPU, or --device cpu",
                )
            })
        };
        Ok(Some(Libraries { nccl: find("libnccl.so")?, runtime: find("libcudart.so")? }))
    }

    fn has_heap_gaps(&self) -> bool {
        false
    }

    fn dropout(&self, x: &Tensor, rate: f64) -> Tensor {
        x.dropout(rate, true)
    }

    fn accumulate(&self, sum: &Tensor, numbers: &Tensor) {
        no_grad(|| drop(sum.shallow_clone().g_add_(&numbers.to_kind(sum.kind()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_where_the_units_multiply_it() {
        for (capability, expected) in
            [(Some((9, 0)), Dtype::Bfloat16), (Some((7, 5)), Dtype::Float32), (None, Dtype::Float32)]
        {
            assert_eq!(dtype(capability), expected, "{capability:?}");
        }
    }
}
