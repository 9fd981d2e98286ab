//! Waiting for GPUs, while ranks listen to each other.

use super::gloo::Ring;
use super::operation::{Operation, Result};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Waits for this long for another look.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// How something that all ranks wait for has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is over on all ranks.
    Over,
    /// It failed on this rank, or was not over in time.
    Failed(String),
    /// It failed on another rank only.
    FailedElsewhere,
}

/// Waits until something is over on all ranks, which tell each other meanwhile: a GPU does not notice that a rank has ended,
/// and would wait for it without end.
///
/// # Errors
/// If it fails on any rank, is not over in time, or a rank has ended.
pub(super) fn together(ring: &Ring, timeout: Duration, is_over: impl FnMut() -> Result<bool>) -> Result<()> {
    match until_end(ring, timeout, is_over)? {
        End::Over => Ok(()),
        End::Failed(said) => Err(said),
        End::FailedElsewhere => Err("it failed on another rank".to_owned()),
    }
}

/// As [`together`], but the ranks can still tell each other why it failed: all of them stop waiting at the same time.
///
/// # Errors
/// If a rank has ended.
pub(super) fn until_end(
    ring: &Ring,
    timeout: Duration,
    mut is_over: impl FnMut() -> Result<bool>,
) -> Result<End> {
    let until = Instant::now() + timeout;
    let late = || Err(format!("not finished on the GPU after {} s", timeout.as_secs()));
    loop {
        let own = is_over()
            .and_then(|is_over| if !is_over && Instant::now() > until { late() } else { Ok(is_over) });
        let mut counts = Tensor::from_slice(&[i64::from(own == Ok(false)), i64::from(own.is_err())]);
        ring.begin(Operation::Sum, &mut counts)?.wait()?;
        if let Err(said) = own {
            return Ok(End::Failed(said));
        }
        if counts.int64_value(&[1]) > 0 {
            return Ok(End::FailedElsewhere);
        }
        if counts.int64_value(&[0]) == 0 {
            return Ok(End::Over);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
