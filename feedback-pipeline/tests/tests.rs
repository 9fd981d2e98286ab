//! Tests of `collect-feedback` through its library: one binary, a module for each subject.

mod fuzz;
mod import;
mod reference;
mod status;
