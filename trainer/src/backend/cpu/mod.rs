//! The CPU backend: kernels for products of few rows with large matrices in several number formats, AdamW, dropout masks.

pub mod adamw;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod dropout;
pub mod kernel;
#[cfg(target_arch = "x86_64")]
mod lanes;
pub mod math;
pub mod matrix;
pub mod numbers;

use super::interface::Backend;
use crate::collective::Libraries;
use crate::error::Result;
use schemas::settings::Dtype;
use tch::{Kind, Tensor, no_grad};

/// Numbers added at a time: their float32 copies stay in a core's cache.
const SLICE: i64 = 1 << 17;

/// A CPU.
#[derive(Debug)]
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "the CPU"
    }

    /// float32: bfloat16 saves little time on a CPU, and in float32 a resumed run ends with the same bits.
    fn dtype(&self) -> Dtype {
        Dtype::Float32
    }

    /// Decoding is as fast with few rows.
    fn decode_batch(&self) -> u32 {
        32
    }

    fn head_positions(&self) -> i64 {
        512
    }

    /// More positions would not be faster, but use more memory.
    fn scoring_tokens(&self) -> Option<usize> {
        Some(2048)
    }

    /// The cost of reading weights and accumulating gradients once more, and of the calls themselves; more tokens' worth if
    /// products run in bfloat16.
    fn part_tokens(&self, kind: Kind) -> u64 {
        if kind == Kind::Float { 32 } else { 64 }
    }

    fn keeps_students(&self) -> bool {
        false
    }

    fn has_decoder_kernels(&self) -> bool {
        true
    }

    fn collective_libraries(&self) -> Result<Option<Libraries>> {
        Ok(None)
    }

    fn has_heap_gaps(&self) -> bool {
        true
    }

    fn dropout(&self, x: &Tensor, rate: f64) -> Tensor {
        dropout::dropout(x, rate)
    }

    fn accumulate(&self, sum: &Tensor, numbers: &Tensor) {
        no_grad(|| {
            if !sum.is_contiguous() {
                let _ = sum.shallow_clone().g_add_(&numbers.to_kind(sum.kind()));
                return;
            }
            let (sum, numbers) = (sum.view(-1), numbers.contiguous().view(-1));
            let total = sum.size()[0];
            for start in (0..total).step_by(SLICE as usize) {
                let length = SLICE.min(total - start);
                let part = numbers.narrow(0, start, length).to_kind(sum.kind());
                let _ = sum.narrow(0, start, length).g_add_(&part);
            }
        });
    }
}
