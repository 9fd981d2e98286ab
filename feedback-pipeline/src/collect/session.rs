//! What every job of a run works with, and the session that its requests are sent with.

use crate::error::{Error, Result};
use crate::items::Job;
use crate::request::Questions;
use crate::request::prompt::SystemPrompt;
use crate::send::budget::{Budget, Price, Prices};
use crate::send::fault::Evidence;
use crate::send::http::HttpClient;
use crate::send::in_flight::InFlight;
use crate::send::pace::Pace;
use crate::send::progress::Progress;
use crate::send::rejects::Rejects;
use crate::send::stop::Stop;
use crate::send::{ServiceStats, Session};
use crate::store::Cache;
use crate::teacher::{self, Secret};
use schemas::settings::{Provider, Resolved, Settings};
use schemas::{Dataset, Provenance, TimestampMs};
use std::time::Duration;

/// Room on the disk for one reply with its request, about.
const BYTES_PER_REPLY: u64 = 16 << 10;

/// So few items may all be bad ones where the service answered in an earlier run; if more are refused from the start, the
/// settings are at fault.
const FEW_ITEMS: usize = 3;

/// What every job of a run works with.
pub struct Context {
    /// The dataset.
    pub dataset: Dataset,
    /// The settings.
    pub settings: Settings,
    /// Stands in every file that is written.
    pub provenance: Provenance,
    /// Model that is asked.
    pub model: String,
    /// Whether requests go out in batches.
    pub batch: bool,
    /// Whether items that were rejected are asked anew.
    pub retry_rejects: bool,
    /// Batches that are given up: their requests are sent again.
    pub abandoned: Vec<String>,
    /// When the run began, in ms since 1970.
    pub began_ms: i64,
}

impl Context {
    /// A run's context.
    pub fn new(dataset: Dataset, resolved: Resolved) -> Self {
        let provenance = Provenance::new(crate::PROGRAM, &resolved.show());
        let model = teacher::model(&resolved.settings.teacher);
        Self {
            dataset,
            settings: resolved.settings,
            provenance,
            model,
            batch: false,
            retry_rejects: false,
            abandoned: Vec::new(),
            began_ms: TimestampMs::now().0,
        }
    }

    /// Price of the model; the embedded Teacher is free.
    pub fn price(&self) -> Result<Option<Price>> {
        if self.settings.teacher.provider == Provider::Reference {
            return Ok(Some(Price::FREE));
        }
        let price = Prices::load(&self.settings.budget.prices)?.of(&self.model);
        if price.is_none() && self.settings.budget.max_usd.is_some() {
            let message = format!(
                "expected a model with a known price, found `{}`: add it to a copy of prices.toml and name that with --prices",
                self.model
            );
            return Err(Error::bad_input("--max-usd", message));
        }
        Ok(price)
    }

    /// What `due` items of a job are asked with.
    pub fn session(&self, job: &Job, prompt: SystemPrompt, due: usize) -> Result<Session> {
        let teacher = &self.settings.teacher;
        let limits = &self.settings.limits;
        let price = self.price()?.map(|price| if self.batch { price.in_batch() } else { price });
        let transport = match teacher.provider {
            Provider::Reference => None,
            _ => Some(HttpClient::new(
                teacher,
                Secret::from_environment(teacher)?.as_ref(),
                limits.concurrency,
            )?),
        };
        // Where a pace is set, that limits what leaves; the embedded Teacher takes any number.
        let takes_all = transport.is_none() || limits.requests_per_minute.is_some();
        let timeout = Duration::from_secs(teacher.timeout_secs);
        let cache = Cache::open(&self.dataset.feedback_path())?;
        // What runs in batches at the service will be charged, so it counts as spent until it is.
        let spent = cache.spent_usd()? + cache.lost_usd()? + cache.running_usd()?;
        if transport.is_some() {
            let replies = u64::from(limits.concurrency).min(due as u64).clamp(1, 4_096);
            cache.make_room(replies * BYTES_PER_REPLY)?;
        }
        let good_before = due <= FEW_ITEMS && cache.has_answers(&self.model, &prompt.version)?;
        Ok(Session {
            job: job.clone(),
            scope: job.scope().into(),
            model: self.model.clone(),
            questions: Questions::new(&self.dataset, teacher, job, &prompt)?,
            prompt,
            pace: Pace::new(limits, teacher.max_output_tokens),
            budget: Budget::new(self.settings.budget.max_usd, spent),
            price,
            transport,
            slots: InFlight::new(limits.concurrency, timeout, takes_all),
            progress: Progress::new(job, due as u64),
            stop: Stop::default(),
            evidence: Evidence::default(),
            rejects: Rejects::default(),
            stats: ServiceStats { good_before, ..ServiceStats::default() },
            abandoned: self.abandoned.clone(),
            teacher: teacher.clone(),
            cache,
        })
    }
}
