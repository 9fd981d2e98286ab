//! The simulated Teacher service, by hand: prints its address and serves until it is ended.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;
use workspace_tests::teacher_service::{Allowance, BatchOptions, Fault, Faults, Options, TeacherService};

/// A Teacher on loopback that speaks the Anthropic Messages API and the OpenAI chat API.
#[derive(Parser)]
struct Cli {
    /// Datasets whose problems it knows.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Port on loopback; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds until a reply.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Milliseconds until a batch ends.
    #[arg(long, default_value_t = 5_000)]
    batch_latency_ms: u64,
    /// Count tokens by a tokenizer.
    #[arg(long)]
    real_tokens: bool,
    /// Requests a minute; 0 means no limit.
    #[arg(long, default_value_t = 0.0)]
    requests_per_minute: f64,
    /// Input tokens a minute; 0 means no limit.
    #[arg(long, default_value_t = 0.0)]
    input_tokens_per_minute: f64,
    /// Tell the limits in reply headers.
    #[arg(long)]
    tell_limits: bool,
    /// Share of requests with a fault.
    #[arg(long, default_value_t = 0.0)]
    fault_share: f64,
    /// Faults to show (429-wait, 429, 529, 500, slow, cut-off, no-json, wrong-json, wrong-count, refusal, truncated, bad-request, bad-key, no-money).
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<(), String> {
    let cli = Cli::parse();
    let kinds =
        if cli.faults.is_empty() && cli.fault_share > 0.0 { Fault::PASSING.to_vec() } else { cli.faults };
    let service = TeacherService::start(Options {
        data: cli.data,
        port: cli.port,
        latency: Duration::from_millis(cli.latency_ms),
        faults: Faults { seed: cli.seed, share: cli.fault_share, kinds, after: 0 },
        allowance: Allowance {
            requests_per_minute: cli.requests_per_minute,
            input_tokens_per_minute: cli.input_tokens_per_minute,
        },
        tell_limits: cli.tell_limits,
        key: None,
        extra_output_tokens: 0,
        real_tokens: cli.real_tokens,
        batch: BatchOptions {
            latency: Duration::from_millis(cli.batch_latency_ms),
            ..BatchOptions::default()
        },
    })?;
    println!("{}", service.url());
    service.wait();
    Ok(())
}
