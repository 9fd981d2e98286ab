//! The simulated Teacher itself: that it behaves as the services it stands in for, seen by a minimal client.
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
