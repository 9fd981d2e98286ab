//! The scorings of a round: every Teacher of the settings, with its number of repeats.
//!
//! Each scoring is a job of its own, with its own requests, outcomes and pending items; they share the tables, the budget and
//! the ledger. The first scoring by the round's first Teacher is the same job as in a round with one opinion, so that more
//! opinions can be added to a round later and nothing is bought twice.

use super::Context;
use crate::error::{Error, Result};
use crate::items::{Job, Kind, Problems};
use crate::request::prompt::SystemPrompt;
use crate::store::Cache;
use crate::tables::completed::{Asker, Completed};
use crate::tables::outcomes;
use crate::teacher::{self, Secret};
use schemas::opinions::Opinion;
use schemas::settings::{LimitSettings, Settings, TeacherSettings};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// The Teachers of a run.
pub struct Panel<'a> {
    main: &'a Context,
    teachers: Vec<Seat>,
}

/// A Teacher with the contexts of its runs.
struct Seat {
    /// For its first scoring; none for the main Teacher, which uses the run's own context.
    first: Option<Context>,
    /// For its other scorings.
    again: Option<Context>,
    repeats: u32,
}

/// A scoring of a round's rollouts.
pub struct Scoring<'a> {
    /// The Teacher.
    pub context: &'a Context,
    /// The job.
    pub job: Job,
}

impl Scoring<'_> {
    /// The opinion it produces.
    pub fn opinion(&self) -> Opinion {
        Opinion { teacher: self.context.model.clone(), repeat: self.job.repeat() }
    }
}

impl<'a> Panel<'a> {
    /// The Teachers of the settings.
    pub fn of(main: &'a Context) -> Self {
        let seat = |first: Option<Context>, repeats| {
            let asked = first.as_ref().unwrap_or(main);
            let settings = &asked.settings;
            let again =
                (repeats > 1).then(|| main.asking(settings.teacher.clone(), settings.limits.clone(), true));
            Seat { first, again, repeats }
        };
        let mut teachers = vec![seat(None, main.settings.teacher.repeats)];
        for further in &main.settings.teachers {
            let context = main.asking(further.teacher.clone(), further.limits.clone(), false);
            teachers.push(seat(Some(context), further.teacher.repeats));
        }
        Self { main, teachers }
    }

    /// Whether there is more than one opinion on a rollout.
    pub fn are_several(&self) -> bool {
        self.teachers.len() > 1 || self.teachers.iter().any(|seat| seat.repeats > 1)
    }

    /// The scorings of a round: the first by each Teacher, then the second by each, and so on.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn scorings(&self, round: u32) -> Result<Vec<Scoring<'_>>> {
        let firsts: Vec<&Context> =
            self.teachers.iter().map(|seat| seat.first.as_ref().unwrap_or(self.main)).collect();
        let models: Vec<&str> = firsts.iter().map(|context| context.model.as_str()).collect();
        let own = self.own_jobs(round, &models)?;
        let mut scorings = Vec::new();
        for repeat in 0..self.teachers.iter().map(|seat| seat.repeats).max().unwrap_or(1) {
            for ((seat, first), has_own) in self.teachers.iter().zip(&firsts).zip(&own) {
                if repeat >= seat.repeats {
                    continue;
                }
                let teacher = first.model.clone();
                let job = match repeat == 0 && !has_own {
                    true => Job::new(Kind::Scores, round),
                    false => Job::opinion(round, Opinion { teacher, repeat }),
                };
                let context = if repeat == 0 { *first } else { seat.again.as_ref().unwrap_or(first) };
                scorings.push(Scoring { context, job });
            }
        }
        Ok(scorings)
    }

    /// For each Teacher, whether its first scoring is a job of its own. At most one has the job of a round with one opinion:
    /// the Teacher that was asked for it before, else the main Teacher.
    fn own_jobs(&self, round: u32, models: &[&str]) -> Result<Vec<bool>> {
        let (mut before, mut own) = (BTreeMap::new(), BTreeSet::new());
        if let Some(cache) = self.main.look_into_store()? {
            own = own_models(&cache, round)?;
            if models.len() > 1 || !own.is_empty() {
                before = cache.models_of(&Job::new(Kind::Scores, round).scope(), round)?;
            }
        }
        // A Teacher whose answers are all discarded may be asked again.
        let asked = |discarded: bool| models.iter().position(|model| before.get(*model) == Some(&discarded));
        let has_it = asked(false).or_else(|| asked(true)).or_else(|| {
            let is_free = models.first().is_some_and(|main| !own.contains(*main));
            is_free.then_some(0)
        });
        Ok((0..models.len()).map(|place| Some(place) != has_it).collect())
    }

    /// Refuses unusable settings of any Teacher before anything is sent to another.
    ///
    /// # Errors
    /// If a Teacher with pending scores has no key, or a required price is unknown.
    pub fn check(&self, round: u32) -> Result<()> {
        if self.teachers.len() == 1 {
            return Ok(());
        }
        for scoring in self.scorings(round)?.iter().filter(|scoring| scoring.job.repeat() == 0) {
            scoring.context.price()?;
            let teacher = &scoring.context.settings.teacher;
            let key = Secret::from_environment(teacher);
            if key.is_err() && scoring.pending()? > 0 {
                key?;
            }
        }
        Ok(())
    }

    /// Publishes answers that killed runs bought from Teachers no longer in the settings.
    ///
    /// # Errors
    /// If a table or the store cannot be read, or the write fails.
    pub fn publish_others(&self, round: u32) -> Result<()> {
        let Some(cache) = self.main.look_into_store()? else { return Ok(()) };
        let asked: Vec<Job> = self.scorings(round)?.into_iter().map(|scoring| scoring.job).collect();
        let mut jobs = outcomes::jobs(&cache, Kind::Scores, round)?;
        jobs.retain(|job| job.opinion.is_some() && !asked.contains(job));
        if jobs.is_empty() {
            return Ok(());
        }
        let dataset = &self.main.dataset;
        let _lock = dataset.lock(crate::PROGRAM)?;
        let problems = Problems::load(dataset, self.main.settings.teacher.provider)?;
        let seated = BTreeSet::new();
        for job in &jobs {
            // For any prompt version, since nothing is sent.
            let asker = Asker { model: "", prompt_version: "", retry_rejects: false, seated: &seated };
            let completed = Completed::find(dataset, job, asker)?;
            let publisher = self.main.publisher(job, &problems, &cache);
            if !publisher.has_unpublished(&completed, "", None)? {
                publisher.unbooked()?;
            }
        }
        Ok(())
    }
}

impl Scoring<'_> {
    /// Number of rollouts pending for it.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn pending(&self) -> Result<usize> {
        let (context, job) = (self.context, &self.job);
        let prompt = SystemPrompt::load(job.kind, &context.settings.teacher)?;
        let problems = Problems::load(&context.dataset, context.settings.teacher.provider)?;
        let completed = context.completed(job, &problems, &prompt.version)?;
        Ok(context.count(job, &problems, &completed)?.1)
    }
}

/// Teachers whose first scoring of a round is a job of its own.
fn own_models(cache: &Cache, round: u32) -> Result<BTreeSet<String>> {
    let opinions = outcomes::jobs(cache, Kind::Scores, round)?.into_iter().filter_map(|job| job.opinion);
    Ok(opinions.filter(|opinion| opinion.repeat == 0).map(|opinion| opinion.teacher).collect())
}

impl Context {
    /// The run's context for another Teacher, or for its repeats.
    fn asking(&self, teacher: TeacherSettings, limits: LimitSettings, is_repeat: bool) -> Self {
        Self {
            dataset: self.dataset.clone(),
            model: teacher::model(&teacher),
            settings: Settings { teacher, limits, ..self.settings.clone() },
            provenance: self.provenance.clone(),
            is_repeat,
            panel: self.panel.clone(),
            abandoned: self.abandoned.clone(),
            teacher_flags: self.teacher_flags.clone(),
            shared_flags: self.shared_flags.clone(),
            config_flag: self.config_flag.clone(),
            teacher: OnceLock::new(),
            ..*self
        }
    }

    pub(super) fn look_into_store(&self) -> Result<Option<Cache>> {
        let path = self.dataset.feedback_path();
        if path.is_file() { Cache::look(&path).map(Some) } else { Ok(None) }
    }

    /// Other Teachers whose scores of a round are separate opinions.
    pub(super) fn seated(&self, job: &Job) -> Result<BTreeSet<String>> {
        if job.kind != Kind::Scores || job.opinion.is_some() || job.audit.is_some() {
            return Ok(BTreeSet::new());
        }
        let mut seated: BTreeSet<String> = self.panel.iter().cloned().collect();
        if let Some(cache) = self.look_into_store()? {
            seated.extend(own_models(&cache, job.round)?);
        }
        seated.remove(&self.model);
        Ok(seated)
    }
}

/// Whether the other Teachers can still be asked after this error of one.
pub fn is_of_one_teacher(error: &Error) -> bool {
    matches!(error, Error::Service { .. })
}
