//! A Teacher on loopback: it speaks both wire formats over real HTTP, answers like the reference Teacher,
//! counts tokens, simulates one of many services, and can be told to show faults and unusual replies.
//!
//! [`answer`] finds the problem of a request and answers it; [`services`] are the services it can simulate;
//! [`fault`] has the faults, [`shape`] the unusual replies, and [`schedule`] decides when they occur;
//! [`limit`] keeps the account's rate limits; `wire` has the two formats, [`batch`] the two batch APIs;
//! `count` counts tokens, and [`record`] logs requests. Everything depends on the seed and the request, not
//! on the clock, so that a run can be repeated.

pub mod answer;
pub mod batch;
mod count;
pub mod fault;
mod http;
pub mod limit;
mod receive;
pub mod record;
pub mod schedule;
mod serve;
pub mod services;
pub mod shape;
mod wire;

pub use batch::BatchOptions;
pub use fault::{Fault, Faults};
pub use limit::Allowance;
pub use record::Recorded;
pub use services::Service;
pub use shape::{Shape, Shapes};

use schemas::Dataset;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Options of the service.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Datasets with the problems that it can answer.
    pub data: Vec<PathBuf>,
    /// Port on loopback; 0 takes any free one.
    pub port: u16,
    /// Time until a reply.
    pub latency: Duration,
    /// Service to simulate.
    pub service: Service,
    /// The only path to serve, with its query; `None` for the service's own paths.
    pub endpoint: Option<String>,
    /// Whether its models do not support pictures.
    pub blind: bool,
    /// Maximum requests processed at once, while others wait; `None` for any number.
    pub slots: Option<usize>,
    /// A file to which each request is appended as a line of JSON.
    pub log_requests: Option<PathBuf>,
    /// Faults, and how often they occur.
    pub faults: Faults,
    /// Unusual forms of good replies, and how often they occur.
    pub shapes: Shapes,
    /// Rate limits of the account.
    pub allowance: Allowance,
    /// Whether reply headers contain the limits.
    pub tell_limits: bool,
    /// The key that requests must have; `None` for any.
    pub key: Option<String>,
    /// Behaviour of batches.
    pub batch: BatchOptions,
    /// Whether its models score only one rationale per request, even if asked about several.
    pub only_one: bool,
    /// How far its scores are from those that others give, at most: each request for scores has its own.
    pub own_mind: f64,
    /// Output tokens charged for a reply in addition to its text, as for thinking.
    pub extra_output_tokens: u64,
    /// Whether tokens are counted by a tokenizer, including schema, pictures and prompt cache; otherwise
    /// approximately.
    pub real_tokens: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Requests that arrived, those in batches included.
    pub requests: u64,
    /// Batches that were accepted.
    pub batches: u64,
    /// Requests with a good reply.
    pub good: u64,
    /// Replies of status 429 because of the rate limits.
    pub limited: u64,
    /// Requests that the service's rules refused.
    pub refused: u64,
    /// The same by reason: a field, `path`, `key`, `model`, `image`.
    pub refusals: HashMap<String, u64>,
    /// Faults shown, by name.
    pub faults: HashMap<&'static str, u64>,
    /// Shapes shown, by name.
    pub shapes: HashMap<&'static str, u64>,
    /// Requests by kind.
    pub kinds: HashMap<&'static str, u64>,
    /// How often each distinct request arrived.
    pub seen: HashMap<[u8; 32], u32>,
    /// How often each distinct request got a good reply.
    pub answered: HashMap<[u8; 32], u32>,
    /// How often each distinct text was asked, follow-ups included.
    pub asked: HashMap<[u8; 32], u32>,
    /// Requests with a picture.
    pub images: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Maximum number of requests answered at once.
    pub peak_in_flight: u64,
    /// Tokens counted.
    pub input_tokens: u64,
    /// Tokens counted.
    pub output_tokens: u64,
}

impl Stats {
    /// Good replies to requests that already had one.
    pub fn bought_again(&self) -> u64 {
        self.answered.values().map(|count| u64::from(count - 1)).sum()
    }

    /// As JSON, for `GET /stats`.
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests, "batches": self.batches, "good": self.good, "limited": self.limited, "faults": self.faults,
            "shapes": self.shapes, "refused": self.refused, "refusals": self.refusals,
            "kinds": self.kinds, "distinct": self.seen.len(), "bought_again": self.bought_again(),
            "images": self.images, "in_flight": self.in_flight, "peak_in_flight": self.peak_in_flight,
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens,
        })
    }
}

/// Shared by all connections.
struct Shared {
    options: Options,
    brain: answer::Brain,
    stats: Mutex<Stats>,
    limiter: Mutex<limit::Limiter>,
    batches: Mutex<batch::Batches>,
    prompt_cache: count::PromptCache,
    records: record::Records,
    slots: Option<tokio::sync::Semaphore>,
}

impl Shared {
    fn profile(&self) -> &'static services::Profile {
        self.options.service.profile()
    }
}

/// A running service; it ends when dropped.
pub struct TeacherService {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TeacherService {
    /// Starts the service on its own thread.
    ///
    /// # Errors
    /// If a dataset cannot be read, or the port is taken.
    pub fn start(options: Options) -> Result<Self, String> {
        let datasets = options.data.iter().map(|path| Dataset::open(path).map_err(|e| e.to_string()));
        let brain = answer::Brain::new(datasets.collect::<Result<Vec<_>, _>>()?)?;
        let limiter = limit::Limiter::new(options.allowance);
        let shared = Arc::new(Shared {
            records: record::Records::new(options.log_requests.as_deref())?,
            slots: options.slots.map(tokio::sync::Semaphore::new),
            options,
            brain,
            stats: Mutex::default(),
            limiter: limiter.into(),
            batches: Mutex::default(),
            prompt_cache: count::PromptCache::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("simulated-teacher")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let port = shared.options.port;
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", port)))
            .map_err(|e| format!("port {port}: {e}"))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        runtime.spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:PORT`, for `--base-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest requests, oldest first, including those in batches.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.records.latest()
    }

    /// The correct answer to the text of a user message.
    ///
    /// # Errors
    /// If the text is no request of the contract, or its problem is not known.
    pub fn right_answer(&self, text: &str) -> Result<Value, String> {
        self.shared.brain.answer(text).map(|(_, answer)| answer)
    }

    /// Sets all counts to zero.
    pub fn reset(&self) {
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        *stats = Stats { in_flight: stats.in_flight, ..Stats::default() };
    }

    /// Serves until the process ends.
    pub fn wait(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(std::future::pending::<()>());
        }
    }
}

impl Drop for TeacherService {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
