//! One training in many processes (ranks), each with a whole copy of the models: what they compute apart, they sum and gather
//! here.
//!
//! All ranks run the same code on the same inputs and take the same decisions; what could differ, because it depends on the
//! clock, on memory or on files, is decided by rank 0 or by all together. Only rank 0 writes. A process by itself is a
//! [`Group`] of one, whose operations do nothing.

mod env;
mod exchange;
mod farewell;
mod gloo;
mod group;
mod join;
mod meeting;
mod nccl;
mod operation;
mod overlap;
mod wait;

pub use env::Launch;
pub use group::Group;
pub(crate) use group::{Numbers, exact};
pub use join::join;
pub use meeting::Terms;
pub use nccl::Libraries;
pub(crate) use nccl::Nccl;
pub use overlap::Overlap;

#[cfg(test)]
mod gpu_tests;
#[cfg(test)]
pub(crate) mod tests;
