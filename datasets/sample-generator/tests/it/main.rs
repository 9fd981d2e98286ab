//! The shipped sample set: regenerated to the same pixels, every answer derived from its picture by independent means,
//! no shortcuts, and a lossless tokenizer.

#![allow(clippy::unwrap_used)] // a panic is the report

mod answers;
mod balance;
mod picture;
mod shipped;
mod solutions;
mod tokenizer;

use schemas::{Dataset, Problem};
use std::path::PathBuf;

/// The shipped dataset folder.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sample")
}

fn problems() -> Vec<Problem> {
    Dataset::open(folder()).unwrap().problems().unwrap()
}

/// The family that a problem's identifier names.
fn family(problem: &Problem) -> &str {
    problem.problem_id.split('-').next().unwrap()
}

fn answer(problem: &Problem) -> usize {
    usize::from(problem.answer_index.unwrap())
}
