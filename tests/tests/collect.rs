//! The feedback pipeline as a whole: the real `collect-feedback` against the simulated Teacher service.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

#[path = "collect/again.rs"]
mod again;
#[path = "collect/batch.rs"]
mod batch;
#[path = "collect/batch_faults.rs"]
mod batch_faults;
#[path = "collect/blame.rs"]
mod blame;
#[path = "collect/discard.rs"]
mod discard;
#[path = "collect/disk.rs"]
mod disk;
#[path = "collect/estimate.rs"]
mod estimate;
#[path = "collect/faults.rs"]
mod faults;
#[path = "collect/grouped.rs"]
mod grouped;
#[path = "collect/judge.rs"]
mod judge;
#[path = "collect/kill.rs"]
mod kill;
#[path = "collect/money.rs"]
mod money;
#[path = "collect/opinions.rs"]
mod opinions;
#[path = "collect/pictures.rs"]
mod pictures;
#[path = "collect/reasons.rs"]
mod reasons;
#[path = "collect/replaced.rs"]
mod replaced;
#[path = "collect/road.rs"]
mod road;
#[path = "collect/services.rs"]
mod services;
#[path = "collect/shapes.rs"]
mod shapes;
#[path = "collect/shared.rs"]
mod shared;
#[path = "collect/shares.rs"]
mod shares;
#[path = "collect/teachers.rs"]
mod teachers;
