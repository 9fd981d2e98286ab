//! Tests of the tables, the dataset folder and the settings through their public interface.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod cards;
#[allow(dead_code)] // its main
#[path = "../../examples/data_cards.rs"]
mod data_cards;
mod folder;
mod golden;
mod reading;
mod round_trip;
mod settings;
mod support;
#[allow(dead_code)] // its main
#[path = "../../examples/write_golden.rs"]
mod write_golden;
mod writing;
