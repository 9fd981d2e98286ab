//! The context shared by all jobs of a run, and the session that its requests are sent with.

use crate::error::{Error, Result};
use crate::items::{Job, Kind};
use crate::request::image::ImageLimits;
use crate::request::prompt::{self, SystemPrompt};
use crate::request::question::Grouped;
use crate::request::{Questions, samples};
use crate::send::budget::Budget;
use crate::send::evidence::Evidence;
use crate::send::http::HttpClient;
use crate::send::in_flight::InFlight;
use crate::send::pace::Pace;
use crate::send::progress::Progress;
use crate::send::rejects::Rejects;
use crate::send::stop::Stop;
use crate::send::{Groups, ServiceStats, Session, Templates};
use crate::store::Cache;
use crate::teacher::catalogue::{self, Catalogue, Model, Price, Service};
use crate::teacher::{self, Address, Dialect, Dialects, Secret, Template};
use schemas::settings::{Provider, Resolved, Settings};
use schemas::{Dataset, Provenance, TimestampMs, opinions};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// Approximate disk space of one reply with its request.
const BYTES_PER_REPLY: u64 = 16 << 10;

/// Up to this many items may all be bad if the service answered in an earlier run; if more are refused from
/// the start, the settings are at fault.
const FEW_ITEMS: usize = 3;

/// The context shared by all jobs of a run.
pub struct Context {
    /// The dataset.
    pub dataset: Dataset,
    /// The settings.
    pub settings: Settings,
    /// Provenance recorded in every file that is written.
    pub provenance: Provenance,
    /// The model to ask.
    pub model: String,
    /// Whether requests go out in batches.
    pub batch: bool,
    /// Whether rejected items are asked again.
    pub retry_rejects: bool,
    /// Whether a round may have answers of several Teachers.
    pub mix_teachers: bool,
    /// Whether requests of this Teacher that were discarded are sent again.
    pub ask_discarded: bool,
    /// Flags that select the same Teacher in another command, each with a leading space.
    pub teacher_flags: String,
    /// Flags to pass to `train` as well, each with a leading space.
    pub shared_flags: String,
    /// `--config` with its file, if given, with a leading space.
    pub config_flag: String,
    /// Abandoned batches: their requests are sent again.
    pub abandoned: Vec<String>,
    /// When the run began, in ms since 1970.
    pub began_ms: i64,
    /// Whether requests are repeats: the Teacher scores the same rationales again.
    pub is_repeat: bool,
    /// Models of all Teachers in the settings.
    pub panel: Vec<String>,
    /// The resolved Teacher, once known.
    pub(super) teacher: OnceLock<Asked>,
}

/// The model and the service: their catalogue entries, the address, and the request format.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The model.
    pub model: Model,
    /// The service.
    pub service: Service,
    /// Its address.
    pub address: Address,
    /// The request format; adjustments learned in one job apply to the next.
    pub dialects: Arc<Dialects>,
}

impl Context {
    /// A run's context.
    pub fn new(dataset: Dataset, resolved: Resolved) -> Self {
        let provenance = Provenance::new(crate::PROGRAM, &resolved.show());
        let model = teacher::model(&resolved.settings.teacher);
        let panel = opinions::seats(&resolved.settings).into_iter().map(|seat| seat.teacher).collect();
        Self {
            dataset,
            settings: resolved.settings,
            provenance,
            model,
            batch: false,
            retry_rejects: false,
            mix_teachers: false,
            ask_discarded: false,
            teacher_flags: String::new(),
            shared_flags: String::new(),
            config_flag: String::new(),
            abandoned: Vec::new(),
            began_ms: TimestampMs::now().0,
            is_repeat: false,
            panel,
            teacher: OnceLock::new(),
        }
    }

    /// Price of the model; the embedded Teacher is free.
    pub fn price(&self) -> Result<Option<Price>> {
        if self.settings.teacher.provider == Provider::Reference {
            return Ok(Some(Price::FREE));
        }
        let price = self.asked()?.model.price.clone();
        if price.is_none() && self.settings.budget.max_usd.is_some() {
            let message = format!(
                "expected a model with a known price, found `{}`: add its price to a file and pass it with --prices",
                self.model
            );
            return Err(Error::bad_input("--max-usd", message));
        }
        Ok(price)
    }

    /// The resolved Teacher.
    ///
    /// # Errors
    /// If the address or a file of models is malformed.
    pub fn asked(&self) -> Result<&Asked> {
        if let Some(asked) = self.teacher.get() {
            return Ok(asked);
        }
        let settings = &self.settings.teacher;
        let address = Address::of(settings)?;
        let catalogue = Catalogue::load(&settings.models, &self.settings.budget.prices)?;
        let (mut model, service) =
            (catalogue.model_or_unlisted(&self.model), catalogue.service(&address.host_and_port()));
        model.price = model.price.map(|price| price.times(service.price_factor));
        let dialect = Dialect::new(settings, &model, &service);
        let dialect = if self.is_repeat { dialect.for_repeats() } else { dialect };
        let dialects = Arc::new(Dialects::new(dialect));
        let notice = (settings.provider != Provider::Reference && !self.is_repeat)
            .then(|| model.end_notice(catalogue::today()));
        if let Some(notice) = notice.flatten() {
            schemas::warn!("warning: {notice}");
        }
        Ok(self.teacher.get_or_init(|| Asked { model, service, address, dialects }))
    }

    /// The questions of a job, in the initial dialect of a run.
    ///
    /// # Errors
    /// As [`Context::asked`], and if the dataset's list of missing pictures cannot be read.
    pub fn questions(&self, job: &Job, prompt: &SystemPrompt) -> Result<Questions> {
        let Asked { service, dialects, .. } = self.asked()?;
        let teacher = &self.settings.teacher;
        let schema = prompt::schema(job.kind, prompt.reasons);
        let long = prompt.reasons.then(|| dialects.first().grouped());
        let dialect = long.as_ref().unwrap_or(dialects.first());
        let template = Template::new(dialect, &self.model, job.kind, &prompt.text, schema);
        let mut limits = ImageLimits::new(teacher.provider, teacher.max_image_edge);
        limits.takes_gif |= service.takes_gif;
        if let Some(most) = service.max_image_bytes.and_then(|most| usize::try_from(most).ok()) {
            limits.max_bytes = limits.max_bytes.min(most);
        }
        Questions::new(
            &self.dataset,
            teacher,
            job,
            template,
            (self.grouped(job, prompt)?, prompt.reasons),
            limits,
        )
    }

    /// Grouping of a problem's samples in requests; an audit repeats individual requests.
    fn grouped(&self, job: &Job, prompt: &SystemPrompt) -> Result<Option<Grouped>> {
        let samples = self.settings.teacher.samples_per_request as usize;
        if job.kind != Kind::Scores || job.audit.is_some() || samples == 1 {
            return Ok(None);
        }
        let Asked { model, dialects, .. } = self.asked()?;
        let dialect = dialects.first().grouped();
        let system = prompt.for_samples();
        let template =
            Template::new(&dialect, &self.model, job.kind, &system.text, samples::schema(prompt.reasons));
        let thinks = model.thinks(dialect.effort.as_deref());
        Ok(Some(Grouped { template, samples, thinks, reasons: prompt.reasons }))
    }

    /// The session for the `pending` items of a job.
    ///
    /// # Errors
    /// If the settings are incomplete, the cache cannot be opened, or the disk is full.
    pub fn session(&self, job: &Job, prompt: SystemPrompt, pending: usize) -> Result<Session> {
        let teacher = &self.settings.teacher;
        let limits = &self.settings.limits;
        let Asked { model, service, address, dialects } = self.asked()?.clone();
        let price = self.price()?;
        let transport = match teacher.provider {
            Provider::Reference => None,
            _ => {
                let key = Secret::from_environment(teacher)?;
                Some(HttpClient::new(teacher, &address, service.auth, key.as_ref(), limits.concurrency)?)
            }
        };
        // A listed model with a configured rate limit is a hosted service, so it does not start with few
        // requests in flight, as a self-hosted server does.
        let is_hosted = model.is_listed && limits.requests_per_minute.is_some();
        let takes_all = is_hosted || transport.is_none();
        let timeout = Duration::from_secs(teacher.timeout_secs);
        let cache = Cache::open(&self.dataset.feedback_path())?;
        // Open batches will be billed, so they count as spent until then.
        let spent = cache.spent_usd()? + cache.lost_usd()? + cache.running_usd()?;
        if transport.is_some() {
            let replies = u64::from(limits.concurrency).min(pending as u64).clamp(1, 4_096);
            cache.make_room(replies * BYTES_PER_REPLY)?;
        }
        let good_before = pending <= FEW_ITEMS && cache.has_answers(&self.model, &prompt.version)?;
        let questions = self.questions(job, &prompt)?;
        let concurrency =
            service.max_in_flight.map_or(limits.concurrency, |most| most.min(limits.concurrency));
        Ok(Session {
            job: job.clone(),
            scope: job.scope().into(),
            model: self.model.clone(),
            known: model,
            templates: Mutex::new(Templates::new(&questions, 0, dialects.first())),
            groups: Groups::default(),
            questions,
            attempts_ended: watch::Sender::new(0),
            prompt,
            pace: Pace::new(limits, dialects.first().max_output_tokens),
            budget: Budget::new(self.settings.budget.max_usd, spent),
            price,
            transport,
            slots: InFlight::new(concurrency, timeout, takes_all),
            progress: Progress::new(job, pending as u64),
            stop: Stop::default(),
            evidence: Evidence::default(),
            rejects: Rejects::default(),
            stats: ServiceStats { good_before, ..ServiceStats::default() },
            dialects,
            abandoned: self.abandoned.clone(),
            teacher: teacher.clone(),
            cache,
        })
    }
}
