//! Names of splits.

/// The splits of a dataset, in the order of its problems.
pub(super) const SPLITS: [&str; 3] = ["train", "val", "test"];
