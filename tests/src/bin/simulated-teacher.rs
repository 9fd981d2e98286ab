//! Runs the simulated Teacher service: prints its address and serves until it is stopped.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;
use workspace_tests::teacher_service::{
    Allowance, BatchOptions, Fault, Faults, Options, Service, Shape, Shapes, TeacherService,
};

/// A Teacher on loopback that speaks the Anthropic Messages API and the OpenAI chat API.
#[derive(Parser)]
struct Cli {
    /// Datasets with the problems that it can answer.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Port on loopback; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Service to simulate: permissive, anthropic, openai, azure, gemini, vertex, bedrock, openrouter,
    /// deepseek, mistral, xai, groq, together, fireworks, gateway, vllm, vllm-no-parser, sglang, llama.cpp,
    /// ollama, ollama-cloud, lm-studio, texts-only, no-system or no-format.
    #[arg(long, default_value = "permissive")]
    service: Service,
    /// The only path to serve, instead of the service's own paths.
    #[arg(long)]
    endpoint: Option<String>,
    /// The key that requests must have.
    #[arg(long)]
    key: Option<String>,
    /// Its models do not support pictures.
    #[arg(long)]
    blind: bool,
    /// Its models score only one rationale per request, even if asked about several.
    #[arg(long)]
    only_one: bool,
    /// How far its scores are from those of others, at most; each request has its own.
    #[arg(long, default_value_t = 0.0)]
    own_mind: f64,
    /// Maximum requests processed at once.
    #[arg(long)]
    slots: Option<usize>,
    /// Unusual forms of replies (think-draft, format-first, usage-empty, choice-error, sse and more; a wrong
    /// name lists all).
    #[arg(long, value_delimiter = ',')]
    reply: Vec<Shape>,
    /// Share of replies in such a form.
    #[arg(long, default_value_t = 1.0)]
    reply_share: f64,
    /// A file to which each request is appended as a line of JSON.
    #[arg(long)]
    log_requests: Option<PathBuf>,
    /// Milliseconds until a reply.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Milliseconds until a batch ends.
    #[arg(long, default_value_t = 5_000)]
    batch_latency_ms: u64,
    /// Count tokens by a tokenizer.
    #[arg(long)]
    real_tokens: bool,
    /// Requests per minute; 0 means no limit.
    #[arg(long, default_value_t = 0.0)]
    requests_per_minute: f64,
    /// Input tokens per minute; 0 means no limit.
    #[arg(long, default_value_t = 0.0)]
    input_tokens_per_minute: f64,
    /// Report the limits in reply headers.
    #[arg(long)]
    tell_limits: bool,
    /// Share of requests with a fault.
    #[arg(long, default_value_t = 0.0)]
    fault_share: f64,
    /// Faults to simulate (429-wait, 429, 529, 500, slow, cut-off, no-json, wrong-json, wrong-count, refusal,
    /// truncated, bad-request, bad-key, no-money).
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
        service: cli.service,
        endpoint: cli.endpoint,
        blind: cli.blind,
        only_one: cli.only_one,
        own_mind: cli.own_mind,
        slots: cli.slots,
        log_requests: cli.log_requests,
        faults: Faults { seed: cli.seed, share: cli.fault_share, kinds, after: 0 },
        shapes: Shapes { seed: cli.seed, share: cli.reply_share, kinds: cli.reply, after: 0 },
        allowance: Allowance {
            requests_per_minute: cli.requests_per_minute,
            input_tokens_per_minute: cli.input_tokens_per_minute,
        },
        tell_limits: cli.tell_limits,
        key: cli.key,
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
