//! `train`: see the library for what it does.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match trainer::run(trainer::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
