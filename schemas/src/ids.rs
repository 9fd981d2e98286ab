//! Sets of ids that stay small.

use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// A set of ids that uses about 16 bytes per id, whatever its length.
#[derive(Debug, Default, Clone)]
pub struct IdSet(HashSet<u128>);

impl IdSet {
    /// Adds an id; false if it was already in the set.
    pub fn insert(&mut self, id: &str) -> bool {
        self.0.insert(digest(id))
    }

    /// True if the id is in the set.
    pub fn contains(&self, id: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&digest(id))
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The first 128 bits of an id's SHA-256, which represent it.
pub fn digest(id: &str) -> u128 {
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}
