//! What ranks do with a tensor that each of them has.

/// What a library of collectives says about a failure.
pub(super) type Result<T> = std::result::Result<T, String>;

/// An operation in place on tensors of the same size on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Each number becomes its sum over all ranks.
    Sum,
    /// Each number becomes that of this rank.
    Broadcast(usize),
}

/// A rank, or how many there are, for C functions.
pub(super) fn number(rank: usize) -> Result<i32> {
    i32::try_from(rank).map_err(|_| format!("{rank} ranks are too many"))
}
