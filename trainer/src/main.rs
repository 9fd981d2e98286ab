//! `train`: see the library for what it does.

use clap::Parser;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = trainer::cli::Cli::parse();
    match catch_unwind(AssertUnwindSafe(|| trainer::run(cli))) {
        // The message was printed above: libtorch operations fail by panics, for example if a GPU is lost.
        Err(_) => {
            schemas::warn!("error: an operation failed (see above); everything finished is kept");
            schemas::warn!("the same command continues from the last step checkpoint");
            ExitCode::FAILURE
        }
        Ok(Ok(())) if schemas::say::is_incomplete() => ExitCode::FAILURE,
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            schemas::warn!("error: {error}");
            if let Some(hint) = error.hint() {
                schemas::warn!("{hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
