//! Arbitrary reply headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feedback_pipeline_readers::headers(bytes));

#[path = "../../tests/fuzz/readers.rs"]
mod feedback_pipeline_readers;
