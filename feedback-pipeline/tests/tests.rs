//! Tests of `collect-feedback` through its library: one binary, a module for each subject.

mod fixture;
mod import;
mod judging;
mod reference;
mod report;
mod status;
