//! How a forward pass runs: dropout and number format.

use tch::{Kind, Tensor};

/// How a forward pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Whether dropout is on.
    pub train: bool,
    /// Compute dtype of matrix products; everything else stays float32.
    pub kind: Kind,
}

impl Mode {
    /// No dropout, float32.
    pub const EVAL: Self = Self { train: false, kind: Kind::Float };

    /// Casts to the compute dtype of matrix products.
    pub fn cast(self, tensor: &Tensor) -> Tensor {
        tensor.to_kind(self.kind)
    }
}
