//! The rules for sentences (being written).
