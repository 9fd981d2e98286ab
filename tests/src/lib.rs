//! Shared by the workspace-level tests: the simulated Teacher service, small datasets, and running the real
//! binaries.

pub mod command;
pub mod small_dataset;
pub mod teacher_service;
