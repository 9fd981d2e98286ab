//! Messages of a run to the user, apart from its progress.

use super::Context;
use crate::error::Result;
use crate::items::{self, Job, Kind, Problems};
use crate::send::Session;
use crate::store::Cache;
use crate::tables::completed::Completed;
use schemas::number::counted;
use schemas::settings::Provider;
use schemas::{Rationale, Rollout};

impl Context {
    /// Unknown costs do not count towards the budget.
    pub(super) fn warn_of_unknown_costs(&self, cache: &Cache) -> Result<()> {
        let unknown = cache.unpriced()?;
        if self.settings.budget.max_usd.is_some() && unknown > 0 {
            schemas::warn!(
                "warning: the cost of {} is unknown; --max-usd does not count it",
                counted(unknown, "earlier reply")
            );
        }
        Ok(())
    }

    /// Reports how many pending items are asked without a picture because the source never had it.
    pub(super) fn warn_of_missing_pictures(
        &self,
        job: &Job,
        problems: &Problems,
        completed: &Completed,
        session: &Session,
    ) -> Result<()> {
        if session.teacher.provider == Provider::Reference || !session.questions.images.any_was_never_there()
        {
            return Ok(());
        }
        let (mut without, mut all) = (0, 0);
        for item in self.pending(job, problems, completed)? {
            all += 1;
            without += usize::from(session.questions.images.was_never_there(&item?.problem));
        }
        if without > 0 {
            schemas::warn!(
                "warning: the source has no picture for {without} of {}; the Teacher is asked without it",
                counted(all, "item")
            );
        }
        Ok(())
    }

    /// Whether rationales of the train split were decoded after RL; if corrections then have nothing to ask about, all of
    /// them are empty.
    pub fn has_decoded(&self, round: u32) -> Result<bool> {
        #[derive(serde::Deserialize)]
        struct Row {
            split: String,
            stage: String,
        }
        let mut rows = self.dataset.stream_columns::<Rationale, Row>(round, &["split", "stage"])?;
        let is_decoded = |row: &schemas::Result<Row>| {
            row.as_ref().map_or(true, |row| row.split == "train" && row.stage == "rl")
        };
        Ok(rows.find(is_decoded).transpose()?.is_some())
    }

    /// Whether there are rationales to correct, but none of the round's share.
    fn has_none_in_share(&self, job: &Job) -> Result<bool> {
        if self.settings.corrected(job.round).is_whole() {
            return Ok(false);
        }
        let problems = Problems::load(&self.dataset, self.settings.teacher.provider)?;
        Ok(items::all_items(&self.dataset, job, &problems)?.next().transpose()?.is_some())
    }

    /// Message about what is missing before a job can start.
    pub fn waits_for(&self, job: &Job) -> Result<String> {
        let round = job.round;
        let next = format!("next: train --round {round}{}{}", self.shared_flags, self.dataset.flag());
        Ok(match job.kind {
            Kind::Scores if self.dataset.parts::<Rollout>(round)?.is_empty() => {
                format!("round {round}: no rollouts yet; {next}")
            }
            Kind::Scores => format!("round {round}: no rollout has a sentence; nothing to score"),
            Kind::Corrections if self.has_none_in_share(job)? => {
                format!(
                    "round {round}: sft.corrections_share = {} chooses no train problem with a rationale; raise it",
                    self.settings.sft.corrections_share
                )
            }
            Kind::Corrections if self.has_decoded(round)? => {
                Rationale::nothing_to_correct(round) + &self.dataset.flag()
            }
            Kind::Corrections => {
                format!("round {round}: no rationales after RL yet; {next}")
            }
            Kind::Judgements if !self.dataset.problems()?.iter().any(|problem| problem.split == "test") => {
                format!("round {round}: the dataset has no test problems, so there is nothing to judge")
            }
            Kind::Judgements => {
                let base = job.against.parse().unwrap_or(0);
                let missing =
                    |round: u32| self.dataset.parts::<Rationale>(round).map(|parts| parts.is_empty());
                let (what, next) = if missing(round)? {
                    ("no rationales", next)
                } else if missing(base)? {
                    let command =
                        if base > 0 { format!("train --round {base}") } else { "train eval".into() };
                    let next = format!("next: {command}{}, or another --against", self.dataset.flag());
                    ("no baseline rationales", next)
                } else {
                    ("no test problems with rationales of both sides", next)
                };
                format!("round {round}: {what} to compare with {} yet; {next}", job.against)
            }
        })
    }
}
