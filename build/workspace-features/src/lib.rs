//! Holds the features of third-party crates together; see `Cargo.toml`.
