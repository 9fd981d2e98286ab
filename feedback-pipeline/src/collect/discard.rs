//! `discard` and `undiscard`: remove answers from the tables and restore them, without a request. The answers always stay in
//! the store.
//!
//! The marks are stored first, together with a note that the tables must be rewritten. If the process is killed between the two
//! steps, the next command for that round finds the note and rewrites the tables.

use super::Context;
use super::teachers::{Teachers, discard_command};
use crate::error::{Error, Result};
use crate::items::{self, Job, Kind, Problems};
use crate::reply::verdict::Verdict;
use crate::store::outcome;
use crate::store::{Cache, Whose};
use crate::tables::{outcomes, rebuild};
use crate::teacher::Key;
use schemas::{Correction, Score, Table, TimestampMs};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What `discard` or `undiscard` changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Models, with the number of their requests that were marked, or whose mark was removed.
    pub requests: BTreeMap<String, u64>,
    /// Models of rows that are not in the store, which stay in the tables, with the number of their rows.
    pub unknown: BTreeMap<String, u64>,
    /// Flags of the command that reverses it.
    pub undo: String,
}

impl Changed {
    /// Counts the requests of jobs, and leaves out jobs without any.
    fn count(&mut self, found: Vec<(&Job, Vec<(Key, String)>)>) -> Vec<(Job, Vec<Key>)> {
        let mut requests = Vec::new();
        for (job, found) in found {
            let mut keys = Vec::with_capacity(found.len());
            for (key, model) in found {
                *self.requests.entry(model).or_default() += 1;
                keys.push(key);
            }
            if !keys.is_empty() {
                requests.push((job.clone(), keys));
            }
        }
        requests
    }
}

impl Context {
    /// Removes a Teacher's answers from the tables of a round. They stay in the store and count as spent.
    ///
    /// # Errors
    /// If some of the requests are in a batch at the service, or if a table or the store cannot be read or
    /// written.
    pub fn discard(&self, round: u32, kind: Kind, against: Option<&str>, whose: &Whose) -> Result<Changed> {
        let _lock = self.dataset.lock(crate::PROGRAM)?;
        let Some(cache) = self.store()? else { return Ok(Changed::default()) };
        let mut changed = Changed::default();
        let jobs = jobs(&cache, round, kind, against)?;
        let in_batches = cache.keys_in_batches()?;
        let mut marks = Vec::new();
        for job in &jobs {
            let found = cache.keys_by(job, whose, false)?;
            if let Some((_, model)) = found.iter().find(|(key, _)| in_batches.contains(key)) {
                let message = format!(
                    "round {round}, {}: requests to {model} are in a batch at the service",
                    kind.as_str()
                );
                let whose = self.flags_of(model, Some(&cache))?;
                let collect = format!("{} --batch{whose}{}", job.command(), self.common_flags());
                return Err(Error::OtherTeacher { message, hint: format!("collect it first: {collect}") });
            }
            marks.push((job, found));
        }
        let requests = changed.count(marks);
        if !requests.is_empty() {
            cache.discard(requests, TimestampMs::now().0)?;
        }
        self.finish(&cache, round, kind, jobs.first(), "undiscard", &mut changed)?;
        changed.unknown = match kind {
            Kind::Scores => self.rows_by::<Score>(round, whose)?,
            Kind::Corrections => self.rows_by::<Correction>(round, whose)?,
            Kind::Judgements => BTreeMap::new(),
        };
        Ok(changed)
    }

    /// Restores discarded answers of a round to its tables, without a request.
    ///
    /// # Errors
    /// If the round now has answers of another Teacher, or if a table or the store cannot be read or written.
    pub fn undiscard(&self, round: u32, kind: Kind, against: Option<&str>, whose: &Whose) -> Result<Changed> {
        let _lock = self.dataset.lock(crate::PROGRAM)?;
        let Some(cache) = self.store()? else { return Ok(Changed::default()) };
        let mut changed = Changed::default();
        let problems = Problems::load(&self.dataset, schemas::settings::Provider::Anthropic)?;
        let jobs = jobs(&cache, round, kind, against)?;
        let mut marks = Vec::new();
        for job in &jobs {
            let found = cache.keys_by(job, whose, true)?;
            let mut teachers = self.answers_by(job, &problems, &cache)?;
            teachers.retain(|model, _| !found.iter().any(|(_, discarded)| discarded == model));
            if let Some(model) = teachers.keys().next().filter(|_| !found.is_empty() && !self.mix_teachers) {
                let message = format!(
                    "round {round}, {}: expected no answers of another Teacher, found {} by {model}",
                    kind.as_str(),
                    teachers.get(model).copied().unwrap_or_default()
                );
                let whose = self.flags_of(model, Some(&cache))?;
                let discard = format!("{}{whose}{}", discard_command("discard", job), self.common_flags());
                let hint = format!(
                    "discard those first: {discard}\n      to allow answers of several Teachers in one round: --mix-teachers"
                );
                return Err(Error::OtherTeacher { message, hint });
            }
            marks.push((job, found));
        }
        let requests = changed.count(marks);
        if !requests.is_empty() {
            cache.undiscard(requests)?;
        }
        self.finish(&cache, round, kind, jobs.first(), "discard", &mut changed)?;
        Ok(changed)
    }

    /// Rewrites the tables of a job if `discard` or `undiscard` was killed before doing so.
    pub(super) fn finish_discards(&self, job: &Job) -> Result<()> {
        if let Some(cache) = self.store()? {
            rebuild::after_discards(&self.dataset, &self.provenance, &cache, job.kind, job.round)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<Option<Cache>> {
        let path = self.dataset.feedback_path();
        if path.is_file() { Cache::open(&path).map(Some) } else { Ok(None) }
    }

    fn finish(
        &self,
        cache: &Cache,
        round: u32,
        kind: Kind,
        job: Option<&Job>,
        undo: &str,
        changed: &mut Changed,
    ) -> Result<()> {
        rebuild::after_discards(&self.dataset, &self.provenance, cache, kind, round)?;
        if let (Some(job), Some(model)) = (job, changed.requests.keys().next()) {
            let mut whose = String::new();
            if changed.requests.len() == 1 {
                whose = self.flags_of(model, Some(cache))?;
            }
            changed.undo = format!("{}{whose}{}", discard_command(undo, job), self.common_flags());
        }
        Ok(())
    }

    /// Models that have answered items of a job in their current form.
    fn answers_by(&self, job: &Job, problems: &Problems, cache: &Cache) -> Result<Teachers> {
        let mut teachers = Teachers::new();
        let _snapshot = cache.snapshot()?;
        for item in items::all_items(&self.dataset, job, problems)? {
            if let Some(found) = outcome::latest(cache, job, &item?, None)?
                && matches!(found.verdict, Verdict::Answer(_))
            {
                *teachers.entry(found.ask.model).or_default() += 1;
            }
        }
        Ok(teachers)
    }

    /// The rows of a table that are by these Teachers.
    fn rows_by<T: Table>(&self, round: u32, whose: &Whose) -> Result<BTreeMap<String, u64>> {
        #[derive(Deserialize)]
        struct By {
            teacher: String,
        }
        let mut rows = BTreeMap::new();
        // The table does not contain the service.
        if whose.provider.is_some() && whose.model.is_none() {
            return Ok(rows);
        }
        for row in self.dataset.stream_columns::<T, By>(round, &["teacher"])? {
            let By { teacher } = row?;
            if whose.model.as_ref().is_none_or(|model| *model == teacher) {
                *rows.entry(teacher).or_default() += 1;
            }
        }
        Ok(rows)
    }
}

/// The jobs of a kind and round, against one baseline or all.
fn jobs(cache: &Cache, round: u32, kind: Kind, against: Option<&str>) -> Result<Vec<Job>> {
    let mut jobs = outcomes::jobs(cache, kind, round)?;
    jobs.retain(|job| against.is_none_or(|against| job.against == against));
    Ok(jobs)
}
