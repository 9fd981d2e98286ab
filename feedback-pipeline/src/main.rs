//! `collect-feedback`: asks a Teacher for the feedback a round still needs. See `collect-feedback --help`.

use clap::Parser;
use feedback_pipeline::cli::{self, Cli};
use std::process::ExitCode;

/// Returns memory to the system between sending and writing, which the default allocator does not, and is a
/// tenth faster.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_logging(cli.log_json);
    match cli::run(cli) {
        Ok(()) if schemas::say::is_incomplete() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            schemas::warn!("error: {error}");
            if let Some(hint) = error.hint() {
                schemas::warn!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
