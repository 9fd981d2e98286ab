//! Tests of `collect-feedback` through its library: one binary, a module for each subject.

#![allow(clippy::unwrap_used)] // a panic is the report

mod import;
mod reference;
mod status;
