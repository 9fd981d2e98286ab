//! Ensures that a round's answers of a kind come from one Teacher, unless the user allows several.

use super::Context;
use crate::error::{Error, Result};
use crate::items::{self, Job, Kind, Order, Problems};
use crate::reply::verdict::Verdict;
use crate::request;
use crate::store::Cache;
use crate::store::outcome::{self, AskedWith};
use crate::tables::completed::Completed;
use crate::teacher;
use schemas::settings::{Provider, TeacherSettings};
use std::collections::BTreeMap;

/// Models, with the number of items that each answered.
pub(super) type Teachers = BTreeMap<String, u64>;

impl Context {
    /// Refuses to ask about pending items if another Teacher has answered, or will answer, items of the same job, or if answers
    /// of this one were discarded. At this point nothing has been sent or changed.
    ///
    /// # Errors
    /// [`Error::OtherTeacher`] if it refuses; also if a table or the cache cannot be read.
    pub(super) fn check_teachers(
        &self,
        job: &Job,
        problems: &Problems,
        completed: &Completed,
        prompt_version: &str,
    ) -> Result<()> {
        let path = self.dataset.feedback_path();
        let cache = if path.is_file() { Some(Cache::open(&path)?) } else { None };
        if !self.mix_teachers {
            let others = self.other_teachers(job, problems, completed, prompt_version, cache.as_ref())?;
            if !others.is_empty() {
                return Err(self.other_teacher(job, &others, cache.as_ref())?);
            }
        }
        match cache {
            Some(cache) if !self.ask_discarded => {
                self.check_discarded(job, problems, completed, prompt_version, &cache)
            }
            _ => Ok(()),
        }
    }

    /// Teachers other than the current one that answered items of a job for which this one would be asked about others:
    /// according to its tables, to the cache if a run ended before writing them, and to batches with such items.
    fn other_teachers(
        &self,
        job: &Job,
        problems: &Problems,
        completed: &Completed,
        prompt_version: &str,
        cache: Option<&Cache>,
    ) -> Result<Teachers> {
        // The table of judgements does not contain the order of a row; the cache does.
        let by_cache_alone = job.kind == Kind::Judgements && cache.is_some();
        let mut others = if by_cache_alone { Teachers::new() } else { completed.others() };
        let scope = job.scope();
        let Some(cache) = cache else { return Ok(others) };
        if others.is_empty() && !cache.knows_other_models(&scope, job.round, &self.model)? {
            return Ok(others);
        }
        let in_batches = cache.keys_in_batches()?;
        let mine = AskedWith { model: &self.model, prompt_version };
        let mut is_any_asked = false;
        let _snapshot = cache.snapshot()?;
        for item in items::all_items(&self.dataset, job, problems)? {
            let item = item?;
            let is_completed = completed.contains(item.id());
            if is_completed && !by_cache_alone {
                continue; // known from the table
            }
            if let Some(found) = outcome::latest(cache, job, &item, Some(mine))? {
                let is_retried = self.retry_rejects && matches!(found.verdict, Verdict::Reject { .. });
                is_any_asked |= is_retried && !is_completed;
                continue;
            }
            let latest = outcome::latest(cache, job, &item, None)?;
            if let Some(found) = latest.filter(|found| found.ask.model != self.model) {
                let is_answer = matches!(found.verdict, Verdict::Answer(_));
                if is_answer {
                    *others.entry(found.ask.model).or_default() += 1;
                }
                is_any_asked |= !is_completed && !is_answer && self.retry_rejects;
                continue;
            }
            let mut batch_of = None;
            if !in_batches.is_empty() {
                for key in cache.used_keys_of(&scope, job.round, &item.subject_id)? {
                    if in_batches.contains(&key) {
                        batch_of = cache.ask(&key)?.map(|ask| ask.model);
                        break;
                    }
                }
            }
            match batch_of {
                Some(model) if model != self.model => *others.entry(model).or_default() += 1,
                Some(_) => {}
                None => is_any_asked |= !is_completed,
            }
        }
        Ok(if is_any_asked { others } else { Teachers::new() })
    }

    fn other_teacher(&self, job: &Job, others: &Teachers, cache: Option<&Cache>) -> Result<Error> {
        let (round, kind, flag) = (job.round, job.kind.as_str(), self.common_flags());
        let found = others.iter().map(|(teacher, items)| format!("{} by {teacher}", job.counted(items)));
        let found: Vec<String> = found.collect();
        let message = format!(
            "round {round}, {kind}: expected answers of one Teacher, found {}; {} would answer the rest",
            found.join(", "),
            self.model
        );
        let mut hint = Vec::new();
        for teacher in others.keys() {
            let whose = self.flags_of(teacher, cache)?;
            hint.push(format!("to continue with {teacher}: {}{whose}{flag}", command(job)));
        }
        for teacher in others.keys() {
            let whose = self.flags_of(teacher, cache)?;
            hint.push(format!(
                "to start over with {}: {}{whose}{flag}",
                self.model,
                discard_command("discard", job)
            ));
        }
        if job.kind == Kind::Scores {
            hint.push("to have each rationale scored by both: [[teachers]] in ares.toml".to_owned());
        }
        hint.push("to allow answers of several Teachers in one round: --mix-teachers".to_owned());
        Ok(Error::OtherTeacher { message, hint: hint.join("\n      ") })
    }

    /// Refuses if pending items have discarded answers of the current Teacher: they would be bought again.
    fn check_discarded(
        &self,
        job: &Job,
        problems: &Problems,
        completed: &Completed,
        prompt_version: &str,
        cache: &Cache,
    ) -> Result<()> {
        let discarded = cache.discarded(job)?;
        if discarded.is_empty() {
            return Ok(());
        }
        let mut items = 0_u64;
        {
            let _snapshot = cache.snapshot()?;
            for item in self.pending(job, problems, completed)? {
                let item = item?;
                // An item requested again since then is answered by the new request.
                if outcome::latest(cache, job, &item, None)?
                    .is_some_and(|found| found.ask.model == self.model)
                {
                    continue;
                }
                for key in cache.keys_of(&job.scope(), job.round, &item.subject_id)? {
                    if discarded.contains(&key)
                        && let Some(ask) = cache.ask(&key)?
                        && ask.model == self.model
                        && ask.prompt_version == prompt_version
                        && request::is_about(&ask.user_text, &item)
                        && !cache.replies(&key)?.is_empty()
                    {
                        items += 1;
                        break;
                    }
                }
            }
        }
        if items == 0 {
            return Ok(());
        }
        let (flag, whose) = (self.common_flags(), self.flags_of(&self.model, Some(cache))?);
        let message = format!(
            "round {}, {}: answers of {} to {} were discarded; asking again would pay for them twice",
            job.round,
            job.kind.as_str(),
            self.model,
            job.counted(items)
        );
        let undo = discard_command("undiscard", job);
        let hint = format!(
            "to use them again, without a request: {undo}{whose}{flag}\n      to ask again: the same command with --ask-discarded"
        );
        Err(Error::OtherTeacher { message, hint })
    }

    /// The flags that name a Teacher.
    pub(super) fn flags_of(&self, model: &str, cache: Option<&Cache>) -> Result<String> {
        let usual = |provider| teacher::model(&TeacherSettings { provider, ..TeacherSettings::default() });
        if model == usual(Provider::Reference) {
            return Ok(" --teacher reference".to_owned());
        }
        let provider = cache.map(|cache| cache.provider_of(model)).transpose()?.flatten();
        let provider =
            provider.map_or_else(String::new, |provider| format!(" --teacher {}", provider.as_str()));
        Ok(format!("{provider} --model {}", schemas::dataset::quoted(std::path::Path::new(model))))
    }

    /// The flags common to all commands on this dataset.
    pub fn common_flags(&self) -> String {
        format!("{}{}", self.config_flag, self.dataset.flag())
    }
}

/// The command that runs a job.
pub(super) fn command(job: &Job) -> String {
    let order = match job.order {
        Order::Shuffled(0) => String::new(),
        Order::Shuffled(seed) => format!(" --order-seed {seed}"),
        Order::CandidateFirst | Order::BaselineFirst => " --both-orders".to_owned(),
    };
    format!("{}{}", job.command(), if job.kind == Kind::Judgements { order } else { String::new() })
}

/// The command that discards the answers of a job, or restores them.
pub(super) fn discard_command(verb: &str, job: &Job) -> String {
    let against = match job.kind {
        Kind::Judgements => format!(" --against {}", job.against),
        Kind::Scores | Kind::Corrections => String::new(),
    };
    format!("collect-feedback {verb} --round {} --stage {}{against}", job.round, job.kind.as_str())
}
