//! `train`: see the library for what it does.

use clap::Parser;
use schemas::say::error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = trainer::cli::Cli::parse();
    match catch_unwind(AssertUnwindSafe(|| trainer::run(cli))) {
        // The message was printed above: libtorch operations fail by panics, for example if a GPU is lost.
        Err(_) => {
            error(format_args!("error: an operation failed (see above); everything finished is kept"));
            error(format_args!("the same command continues from the last step checkpoint"));
            ExitCode::FAILURE
        }
        Ok(Ok(())) if schemas::say::is_incomplete() => ExitCode::FAILURE,
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(found)) => {
            error(format_args!("error: {found}"));
            if let Some(hint) = found.hint() {
                error(format_args!("{hint}"));
            }
            ExitCode::from(found.exit_code())
        }
    }
}
