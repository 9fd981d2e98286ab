//! Running out of memory: a failed allocation in libtorch is a panic of the tensor operation; the work may then be retried in
//! smaller pieces.

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::Once;
use tch::{Device, Kind, Tensor, no_grad_guard, with_grad};

thread_local! {
    /// Whether panics of this thread are being handled, so that their messages are not shown to the user.
    static IS_DEALT_WITH: Cell<bool> = const { Cell::new(false) };
    /// The message of such a panic with its location, in case it propagates after all.
    static HELD_BACK: Cell<String> = const { Cell::new(String::new()) };
}

/// Suppresses the messages of handled panics; all others are unchanged.
fn hold_back_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(
            move |panic| {
                if IS_DEALT_WITH.get() { HELD_BACK.set(panic.to_string()) } else { hook(panic) }
            },
        ));
    });
}

/// Whether this thread records operations for gradients.
fn records_gradients() -> bool {
    let zero = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    (zero + 1.0).requires_grad()
}

/// Runs `work`, then restores whether gradients are recorded, however `work` ends: a panic inside tch's `no_grad` leaves
/// recording off.
fn restoring_gradients<T>(work: impl FnOnce() -> T) -> T {
    let records = records_gradients();
    let _restored = no_grad_guard();
    if records { with_grad(work) } else { work() }
}

/// Result of `work`; `None` if an allocation failed. Any other panic propagates. Gradient recording is restored in every case.
pub fn unless_out_of_memory<T>(work: impl FnOnce() -> T) -> Option<T> {
    hold_back_messages();
    let before = IS_DEALT_WITH.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| restoring_gradients(work)));
    IS_DEALT_WITH.set(before);
    match outcome {
        Ok(value) => Some(value),
        Err(panic) if is_out_of_memory(message(&*panic)) => None,
        Err(panic) => {
            if !before {
                schemas::warn!("{}", HELD_BACK.take());
            }
            resume_unwind(panic)
        }
    }
}

/// Processes all `rows` in batches of at most `together` rows, halved whenever memory runs out. The result must not depend on
/// how rows are batched, and `work` must leave no side effects if memory runs out.
///
/// # Errors
/// Those of `work`, and if not even one row fits.
pub fn in_batches<R>(
    what: &str,
    rows: &[R],
    mut together: usize,
    mut work: impl FnMut(&[R]) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while let Some(batch) =
        rows.get(start..(start + together).min(rows.len())).filter(|rows| !rows.is_empty())
    {
        if let Some(done) = unless_out_of_memory(|| work(batch)) {
            done?;
            start += batch.len();
            continue;
        }
        if batch.len() == 1 {
            return Err(Error::input(
                format!("{what}: out of memory with a batch of one"),
                "use a smaller student, --dtype bfloat16, or a smaller student.max_source_tokens",
            ));
        }
        together = batch.len() / 2;
        schemas::warn!("{what}: out of memory; continuing with batches of {together}");
    }
    Ok(())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Whether libtorch's message is about running out of memory, of CUDA's or the CPU's allocator.
fn is_out_of_memory(message: &str) -> bool {
    message.contains("out of memory")
        || message.contains("CUBLAS_STATUS_ALLOC_FAILED")
        || message.contains("CUDNN_STATUS_ALLOC_FAILED")
        || message.contains("DefaultCPUAllocator: can't allocate memory")
        || message.contains("DefaultCPUAllocator: not enough memory")
}

#[cfg(test)]
mod tests {
    use super::{in_batches, records_gradients, unless_out_of_memory};
    use crate::error::Error;
    use tch::{Device, Kind, Tensor, no_grad};

    fn too_much() -> i64 {
        Tensor::zeros([1 << 45], (Kind::Float, Device::Cpu)).size()[0]
    }

    #[test]
    fn gradients_are_recorded_after_a_recovered_lack_of_memory() {
        assert_eq!(unless_out_of_memory(|| no_grad(too_much)), None);
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (&x * 3.0).sum(Kind::Float).backward();
        assert_eq!(x.grad().double_value(&[0]), 3.0);
        let other =
            std::panic::catch_unwind(|| unless_out_of_memory(|| no_grad(|| panic!("another reason"))));
        assert!(other.is_err() && records_gradients());
        // And if recording was off, it stays off.
        no_grad(|| {
            assert_eq!(unless_out_of_memory(|| tch::with_grad(too_much)), None);
            assert_eq!(unless_out_of_memory(records_gradients), Some(false));
            assert!(!records_gradients());
        });
        assert_eq!(unless_out_of_memory(records_gradients), Some(true));
    }

    #[test]
    fn a_refused_allocation_is_told_from_other_panics() {
        assert_eq!(unless_out_of_memory(too_much), None);
        assert_eq!(unless_out_of_memory(|| 7), Some(7));
        let other = std::panic::catch_unwind(|| unless_out_of_memory(|| panic!("another reason")));
        assert!(other.is_err());
    }

    /// Pretends that no more than `most` rows fit.
    fn crowded(rows: &[u32], most: usize) {
        if rows.len() > most {
            let _ = Tensor::zeros([1 << 45], (Kind::Float, Device::Cpu));
        }
    }

    #[test]
    fn rows_without_room_are_worked_on_in_smaller_batches() {
        let rows: Vec<u32> = (0..21).collect();
        let mut seen = Vec::new();
        let done = in_batches("rows", &rows, 8, |batch| {
            crowded(batch, 3);
            seen.push(batch.to_vec());
            Ok(())
        });
        assert!(done.is_ok());
        assert_eq!(seen.concat(), rows, "each row once, in order");
        assert_eq!(seen.iter().map(Vec::len).max(), Some(2), "8, 4, 2");
        let none = in_batches("rows", &rows, 8, |batch| {
            crowded(batch, 0);
            Ok(())
        });
        assert!(
            matches!(none, Err(Error::BadInput { message, .. }) if message == "rows: out of memory with a batch of one")
        );
        let mut calls = 0;
        let failed = in_batches("rows", &rows, 8, |_| {
            calls += 1;
            Err(Error::BadInput { message: "another reason".into(), hint: None })
        });
        assert!(failed.is_err() && calls == 1);
        assert!(in_batches("rows", &[] as &[u32], 8, |_| panic!("no rows")).is_ok());
    }
}
