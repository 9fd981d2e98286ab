//! `train`: see the library for what it does.

use clap::Parser;
use schemas::say::error;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn main() {
    let cli = trainer::cli::Cli::parse();
    let status = match catch_unwind(AssertUnwindSafe(|| trainer::run(cli))) {
        // The message was printed above: libtorch operations fail by panics, for example if a GPU is lost.
        Err(_) => {
            error(format_args!("error: an operation failed (see above); everything finished is kept"));
            error(format_args!("the same command continues from the last step checkpoint"));
            1
        }
        Ok(Ok(())) if schemas::say::is_incomplete() => 1,
        Ok(Ok(())) => 0,
        Ok(Err(found)) => {
            error(format_args!("error: {found}"));
            if let Some(hint) = found.hint() {
                error(format_args!("{hint}"));
            }
            found.exit_code()
        }
    };
    flush_logs();
    // Threads of libtorch and c10d may still run, for instance one that waits for other ranks.
    schemas::interrupt::exit(status);
}

/// Writes what libraries in C, such as NCCL, have logged but not written.
#[allow(unsafe_code)] // a call of a C function
fn flush_logs() {
    // SAFETY: without a stream, fflush writes all of them.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}
