//! Keeps the features of third-party crates the same in every build; see `Cargo.toml`.
