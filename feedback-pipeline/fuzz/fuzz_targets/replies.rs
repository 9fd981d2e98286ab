//! Everything a service sends: envelopes, errors, answers, lines and lists of batches.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| feedback_pipeline_readers::reply(bytes));

#[path = "../../tests/fuzz/readers.rs"]
mod feedback_pipeline_readers;
