//! Batches at a service whose results have not been fetched: they are paid for, whatever the settings ask for by now.

use super::Context;
use super::teachers::command;
use crate::error::Result;
use crate::items::Job;
use crate::store::InProgress;
use crate::teacher::Address;
use schemas::number::counted;
use schemas::settings::TeacherSettings;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Open batches to one Teacher, for one kind of feedback of a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenBatches {
    /// ARES round.
    pub round: u32,
    /// scores, corrections or judgements.
    pub kind: &'static str,
    /// Provider that is asked.
    pub provider: &'static str,
    /// Model that is asked.
    pub model: String,
    /// Number of batches.
    pub batches: u64,
    /// Requests in them.
    pub requests: u64,
    /// The command that fetches their results.
    pub command: String,
}

impl OpenBatches {
    /// What the store has of them; `flags` are those that every command of the dataset takes. `None` for a scope that this
    /// version does not know.
    pub fn of(open: InProgress, flags: &str) -> Option<Self> {
        let job = Job::of_scope(&open.scope, open.round)?;
        Some(Self {
            round: open.round,
            kind: job.kind.as_str(),
            provider: open.provider.as_str(),
            command: format!("{} --batch{}{flags}", command(&job), teacher_flags(&job, &open)),
            model: open.model,
            batches: open.batches,
            requests: open.requests,
        })
    }
}

impl Context {
    /// The open batches of the dataset.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open_batches(&self) -> Result<Vec<OpenBatches>> {
        let flags = self.common_flags();
        let open = self.look_into_store()?.map(|cache| cache.in_progress()).transpose()?;
        Ok(open.into_iter().flatten().filter_map(|open| OpenBatches::of(open, &flags)).collect())
    }
}

/// The flags that name a batch's Teacher; one of several with an opinion has its place in the settings.
fn teacher_flags(job: &Job, open: &InProgress) -> String {
    if job.opinion.is_some() {
        return String::new();
    }
    let quoted = |text: &str| schemas::dataset::quoted(Path::new(text));
    let usual = TeacherSettings { provider: open.provider, ..TeacherSettings::default() };
    let is_usual = Address::of(&usual).is_ok_and(|address| address.root_shown() == open.address);
    let address = if is_usual { String::new() } else { format!(" --base-url {}", quoted(&open.address)) };
    format!(" --teacher {} --model {}{address}", open.provider.as_str(), quoted(&open.model))
}

impl fmt::Display for OpenBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, kind, provider, model, batches, requests, command } = self;
        let (is, it) = if *batches == 1 { ("is", "its") } else { ("are", "their") };
        write!(
            f,
            "{} with {} to {provider}/{model} for {kind} of round {round} {is} open at the service; to fetch {it} results: {command}",
            counted(batches, "batch"),
            counted(requests, "request"),
        )
    }
}
