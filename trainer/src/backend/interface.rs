//! The interface of a kind of device.

use crate::collective::Libraries;
use crate::error::Result;
use schemas::settings::Dtype;
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A kind of device: its own implementations of some operations, and its batch sizes.
pub trait Backend: Debug + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Number format of training, if the settings leave it open.
    fn dtype(&self) -> Dtype;

    /// Batch size of decoding, if the settings leave it open.
    fn decode_batch(&self) -> u32;

    /// Positions whose logits are held at once: with a vocabulary of 32,128, a position's float32 logits take 128 KiB.
    fn head_positions(&self) -> i64;

    /// Maximum source and target tokens, padding included, in one teacher-forced pass without gradients; `None` for no limit.
    fn scoring_tokens(&self) -> Option<usize>;

    /// Cost of another part of a minibatch, in tokens of padding, if products run in `kind`.
    fn part_tokens(&self, kind: Kind) -> u64;

    /// Whether its memory may hold several students at once, so that none is read twice.
    fn keeps_students(&self) -> bool;

    /// Whether models decode with their own kernels there, if they have any.
    fn has_decoder_kernels(&self) -> bool;

    /// The libraries that sum over processes there; `None` if tensors are in main memory.
    ///
    /// # Errors
    /// If one of them is missing.
    fn collective_libraries(&self) -> Result<Option<Libraries>>;

    /// Whether tensors are allocated on the C library's heap, which leaves gaps between them.
    fn has_heap_gaps(&self) -> bool;

    /// `x` where a number is kept, scaled by 1 / (1 − rate), 0 elsewhere; the mask is seeded by libtorch's generator.
    fn dropout(&self, x: &Tensor, rate: f64) -> Tensor;

    /// Adds `numbers` to a float32 `sum` of the same shape, in place.
    fn accumulate(&self, sum: &Tensor, numbers: &Tensor);
}
