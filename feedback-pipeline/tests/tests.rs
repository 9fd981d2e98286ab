//! Tests of `collect-feedback` through its library: one binary, a module for each subject.

#![allow(clippy::unwrap_used)] // a panic is the report

mod fixture;
mod fuzz;
mod import;
mod import_files;
mod import_parquet;
mod judging;
mod labels;
mod layers;
mod reference;
mod replies;
mod report;
mod status;
mod store;
