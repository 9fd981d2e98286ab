//! Tests of the simulated Teacher: it behaves like the services that it simulates, as seen by a minimal
//! client.
#![allow(missing_docs, clippy::unwrap_used)] // in tests a panic is the report

#[path = "services/batches.rs"]
mod batches;
#[path = "services/client.rs"]
mod client;
#[path = "services/doors.rs"]
mod doors;
#[path = "services/fields.rs"]
mod fields;
#[path = "services/replies.rs"]
mod replies;
#[path = "services/shapes.rs"]
mod shapes;
