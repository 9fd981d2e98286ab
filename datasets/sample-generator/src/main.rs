//! `sample-generator`: writes the sample problem set.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes the sample problem set: problems, pictures, card and tokenizer.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Dataset folder to write.
    #[arg(long, default_value = "datasets/sample")]
    out: PathBuf,
    /// Seed; the shipped set has the default one.
    #[arg(long, default_value_t = sample_generator::SEED)]
    seed: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match sample_generator::write(&cli.out, cli.seed) {
        Ok(set) => {
            let (problems, pictures) = (set.problems.len(), set.pictures.len());
            println!("{}: {problems} problems, {pictures} pictures", cli.out.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}: {error}", cli.out.display());
            ExitCode::FAILURE
        }
    }
}
