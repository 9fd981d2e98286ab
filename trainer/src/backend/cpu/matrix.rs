//! Views of libtorch's memory that the CPU decoder's threads may read.

#![allow(unsafe_code)] // one pointer into a tensor that the same struct keeps alive

use super::numbers::Numbers;
use tch::{Device, Kind, Tensor};

/// Numbers of a tensor on the CPU, row by row, float32 or bfloat16; without a copy if the tensor already has this layout.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// Keeps the memory alive; never handed out.
    memory: Tensor,
    pointer: *const std::ffi::c_void,
    count: usize,
    half: bool,
    /// Numbers in a row.
    pub(crate) width: usize,
}

// SAFETY: the memory is only read, and any code that writes to weights (an optimizer, reading a checkpoint) runs on the thread
// that owns the CPU decoder, never during a step.
unsafe impl Sync for Matrix {}
unsafe impl Send for Matrix {}

impl Matrix {
    /// The tensor's numbers, as bfloat16 if `kind` is bfloat16, else as float32.
    pub(crate) fn new(tensor: &Tensor, kind: Kind) -> Self {
        let half = kind == Kind::BFloat16;
        let kind = if half { kind } else { Kind::Float };
        let memory = tensor.detach().to_device(Device::Cpu).to_kind(kind).contiguous();
        let width = memory.size().last().map_or(1, |&width| width as usize);
        Self { pointer: memory.data_ptr().cast_const(), count: memory.numel(), half, width, memory }
    }

    pub(crate) fn numbers(&self) -> Numbers<'_> {
        // SAFETY: the tensor is contiguous, of this kind and length, and lives as long as `self`.
        unsafe {
            if self.half {
                Numbers::Bfloat16(std::slice::from_raw_parts(self.pointer.cast(), self.count))
            } else {
                Numbers::Float32(std::slice::from_raw_parts(self.pointer.cast(), self.count))
            }
        }
    }

    /// These entries of the first dimension, in this order.
    pub(crate) fn select(&self, entries: &[usize]) -> Self {
        let entries: Vec<i64> = entries.iter().map(|&entry| entry as i64).collect();
        let selected = self.memory.index_select(0, &Tensor::from_slice(&entries));
        Self::new(&selected, selected.kind())
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.count / self.width
    }
}
