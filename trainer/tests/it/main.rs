//! Integration tests of the trainer, one binary.
#![allow(missing_docs)]

mod reference;
