//! What a kind of device does its own way.

use crate::collective::Libraries;
use crate::error::Result;
use schemas::settings::Dtype;
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A kind of device: what it does its own way, and how much it processes at once.
pub trait Backend: Debug + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Number format of training, if it is left open.
    fn dtype(&self) -> Dtype;

    /// Rows decoded together, if it is left open.
    fn decode_batch(&self) -> u32;

    /// Positions whose logits are held at once: with a vocabulary of 32,128, a position's float32 logits take 128 KiB.
    fn head_positions(&self) -> i64;

    /// Source and target tokens, padding included, of the problems that a teacher-forced pass without gradients processes
    /// at once; `None` for all.
    fn scoring_tokens(&self) -> Option<usize>;

    /// Cost of another part of a minibatch, in tokens of padding, where products run in `kind`.
    fn part_tokens(&self, kind: Kind) -> u64;

    /// Whether several students may stay in its memory at once, so that none is read twice.
    fn keeps_students(&self) -> bool;

    /// Whether models decode on kernels of their own there, if they have any.
    fn has_decoder_kernels(&self) -> bool;

    /// The libraries that sum over several processes there; `None` where tensors are in main memory.
    ///
    /// # Errors
    /// If one of them is missing.
    fn collective_libraries(&self) -> Result<Option<Libraries>>;

    /// Whether tensors lie in the C library's heap, which keeps gaps between them.
    fn has_heap_gaps(&self) -> bool;

    /// `x` where a number is kept, scaled by 1 / (1 − rate), 0 elsewhere; libtorch's generator seeds what is dropped.
    fn dropout(&self, x: &Tensor, rate: f64) -> Tensor;

    /// Adds `numbers` to a float32 `sum` of the same shape, in place.
    fn accumulate(&self, sum: &Tensor, numbers: &Tensor);
}
