//! Everything that the requests of one job need, and what the run has learned about the service.

use crate::error::Error;
use crate::items::Job;
use crate::request::Questions;
use crate::request::prompt::SystemPrompt;
use crate::send::budget::Budget;
use crate::send::evidence::Evidence;
use crate::send::groups::Groups;
use crate::send::http::HttpClient;
use crate::send::in_flight::InFlight;
use crate::send::pace::Pace;
use crate::send::progress::Progress;
use crate::send::rejects::Rejects;
use crate::send::stop::Stop;
use crate::store::Cache;
use crate::teacher::catalogue::{Model, Price};
use crate::teacher::{Dialect, Dialects, Spoken, Template};
use schemas::settings::TeacherSettings;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The context of a job's requests.
pub struct Session {
    /// The kind of feedback.
    pub job: Job,
    /// Name of the job in the store.
    pub scope: Arc<str>,
    /// The Teacher's settings.
    pub teacher: TeacherSettings,
    /// Model that is asked.
    pub model: String,
    /// Catalogue entry of the model.
    pub known: Model,
    /// Instructions.
    pub prompt: SystemPrompt,
    /// Questions of the items.
    pub questions: Questions,
    /// Replies.
    pub cache: Cache,
    /// Rate limits.
    pub pace: Pace,
    /// Dollars.
    pub budget: Budget,
    /// Prices of the model's single requests.
    pub price: Option<Price>,
    /// How requests are written.
    pub dialects: Arc<Dialects>,
    /// Counts completed attempts, except refusals that changed the dialect.
    pub attempts_ended: watch::Sender<u64>,
    /// Template of this job's requests in the current dialect, with its number of lessons.
    pub templates: Mutex<Templates>,
    /// HTTP; none for the embedded Teacher.
    pub transport: Option<HttpClient>,
    /// How many requests may be in flight.
    pub slots: Arc<InFlight>,
    /// Progress shown to the user.
    pub progress: Progress,
    /// Ends the run early.
    pub stop: Stop,
    /// Learned in this run.
    pub stats: ServiceStats,
    /// Evidence about who is at fault for failures.
    pub evidence: Evidence,
    /// Whether one cause is behind all rejects.
    pub rejects: Rejects,
    /// Whether the model answers requests about several items.
    pub groups: Groups,
    /// Abandoned batches.
    pub abandoned: Vec<String>,
}

/// Templates of a job's requests in one dialect.
pub struct Templates {
    /// Lessons that the dialect took.
    lessons: u32,
    /// Of requests about one item.
    one: Arc<Template>,
    /// Of requests about several, where there may be such.
    grouped: Option<Arc<Template>>,
}

impl Templates {
    /// The templates for questions, in a dialect after this many lessons.
    pub fn new(questions: &Questions, lessons: u32, dialect: &Dialect) -> Self {
        let (grouped, long) = (questions.grouped.as_ref(), dialect.grouped());
        let of_one = if questions.reasons { &long } else { dialect };
        Self {
            lessons,
            one: Arc::new(questions.template.in_dialect(of_one)),
            grouped: grouped.map(|of| Arc::new(of.template.in_dialect(&long))),
        }
    }
}

/// Service statistics of this run.
#[derive(Debug, Default)]
pub struct ServiceStats {
    pub(crate) good_replies: AtomicU64,
    /// Paid replies in an envelope that cannot be opened.
    pub(crate) unreadable: AtomicU64,
    /// Replies with and without usage, and the most output tokens of one.
    pub(crate) told: AtomicU64,
    pub(crate) without_usage: AtomicU64,
    pub(crate) longest_output: AtomicU64,
    /// Whether an earlier run had good replies to the same questions, and so few are left that all of them may be bad.
    pub(crate) good_before: bool,
    /// Maximum cost of the attempts in flight, in 1e-9 dollars.
    pub(crate) in_flight: AtomicU64,
}

impl Session {
    /// The template of this job's requests, for groups if `is_group`, in the current dialect, and its number of lessons.
    pub(super) fn template(&self, is_group: bool) -> (u32, Arc<Template>) {
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let Spoken { lessons, dialect } = self.dialects.spoken();
        if templates.lessons != lessons {
            *templates = Templates::new(&self.questions, lessons, &dialect);
        }
        let template = match &templates.grouped {
            Some(grouped) if is_group => grouped,
            _ => &templates.one,
        };
        (lessons, Arc::clone(template))
    }

    /// Why the run ended early; a fault of the service includes its address.
    pub fn stopped(&self) -> Option<Error> {
        let reason = self.stop.take_reason()?;
        Some(match (reason, &self.transport) {
            (Error::Service { why, hint }, Some(client)) => {
                Error::Service { why: format!("{}: {why}", client.address().shown()), hint }
            }
            (reason, _) => reason,
        })
    }

    /// Maximum tokens of a reply, thinking included.
    pub(super) fn reply_limit(&self, is_group: bool) -> f64 {
        let dialect = self.dialects.spoken().dialect;
        let is_long = self.is_long(is_group);
        f64::from(if is_long { dialect.grouped().max_output_tokens } else { dialect.max_output_tokens })
    }

    /// Whether replies may be as long as those about several items.
    pub(super) fn is_long(&self, is_group: bool) -> bool {
        is_group || self.questions.reasons
    }
}

impl ServiceStats {
    /// Whether the service has answered: what it refuses then is the request's fault.
    pub(crate) fn any_good(&self) -> bool {
        self.good_before || self.good_replies.load(Ordering::Relaxed) > 0
    }
}
