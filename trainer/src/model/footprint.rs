//! What passes and decoding are counted by, for `train info`.

/// Rows of tokens in one pass with gradients.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Rows.
    pub rows: f64,
    /// Sources that run through the encoder: fewer than rows where rows share them.
    pub sources: f64,
    /// Source tokens of each.
    pub source: f64,
    /// Target tokens of each row.
    pub target: f64,
    /// Patches of a picture.
    pub patches: f64,
    /// Bytes of a number in products.
    pub number: f64,
    /// Whether dropout is on.
    pub dropout: bool,
    /// Whether an adapter is trained, not the weights.
    pub adapter: bool,
    /// Whether what enters the adapter's layers goes through a dropout of its own.
    pub adapter_dropout: bool,
}

/// Rows that are decoded together.
#[derive(Debug, Clone, Copy)]
pub struct Decoding {
    /// Problems.
    pub problems: f64,
    /// Rows of all of them.
    pub rows: f64,
    /// Source tokens of each problem.
    pub source: f64,
    /// New tokens of each row.
    pub target: f64,
    /// Bytes of a number of the encoder's keys and values.
    pub number: f64,
}
