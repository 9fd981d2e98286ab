//! The feedback of a round, problem by problem.
//!
//! Tables are read once, whatever the order of their rows, into temporary files that are indexed by id; then
//! the problems are visited in the order of `problems.parquet`. Memory holds one problem and a few bytes for
//! each row.

use super::join::{RolloutRow, Sample, ScoreRow, folded, one_expected, scored};
use super::left_out::{LeftOut, Reason, Split};
use super::lookup::Lookup;
use super::options::{Plan, Source};
use crate::error::{Error, Result};
use crate::items::Kind;
use schemas::opinions::Opinions;
use schemas::{Correction, Dataset, IdSet, Judgement, Problem, Rationale, Reject, Rollout, Score, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// A correction of a rationale.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Corrected {
    pub(super) rationale_id: String,
    pub(super) problem_id: String,
    pub(super) original: String,
    pub(super) corrected: String,
    pub(super) changed: bool,
    pub(super) teacher: String,
}

/// A comparison of two rationales.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) problem_id: String,
    pub(super) against: String,
    pub(super) candidate: String,
    pub(super) baseline: String,
    pub(super) candidate_shown_first: bool,
    pub(super) verdict: String,
    pub(super) teacher: String,
}

/// A problem with its feedback.
#[derive(Debug)]
pub(super) struct Feedback {
    pub(super) problem: Problem,
    pub(super) split: Split,
    pub(super) samples: Vec<Sample>,
    pub(super) corrections: Vec<Corrected>,
    pub(super) verdicts: Vec<Verdict>,
}

impl Feedback {
    /// Rows that examples can be made from.
    pub(super) fn rows(&self) -> usize {
        self.samples.len() + self.corrections.len() + self.verdicts.len()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct RationaleRow {
    rationale_id: String,
    problem_id: String,
    stage: String,
    deduplicated: String,
}

#[derive(Debug, Deserialize)]
struct RejectRow {
    kind: String,
    subject_id: String,
    problem_id: String,
}

/// Name of a source's rows in messages.
pub(super) fn rows_of(source: Source) -> &'static str {
    match source {
        Source::Scores => "rollouts",
        Source::Corrections => "rationales",
        Source::Judgements => "judgements",
    }
}

/// The feedback of one kind, by problem.
pub(super) struct Sources {
    source: Option<Source>,
    keep_duplicates: bool,
    /// Rollouts, rationales or judgements by their problem.
    rows: Lookup,
    /// Groups of scores, or corrections, by the id of their row.
    answers: Lookup,
    /// Rows without a usable reply; judgements by their problem.
    rejected: IdSet,
    /// Problem ids of rejected judgements.
    rejected_pairs: Vec<String>,
    scores_folder: String,
    opinions: Opinions,
}

impl Sources {
    /// Reads the tables of a plan's source.
    ///
    /// # Errors
    /// If the round has none of this feedback, a table cannot be read, a row belongs to no problem or appears twice.
    pub(super) fn read(dataset: &Dataset, plan: &Plan, left: &mut LeftOut) -> Result<Self> {
        let mut sources = Self {
            source: plan.source,
            keep_duplicates: plan.keep_duplicates,
            rows: Lookup::new(),
            answers: Lookup::new(),
            rejected: IdSet::default(),
            rejected_pairs: Vec::new(),
            scores_folder: dataset.round_dir::<Score>(plan.round).display().to_string(),
            opinions: match plan.source {
                Some(Source::Scores) => Opinions::read(dataset, plan.round, &plan.settings)?,
                _ => Opinions::of(BTreeMap::new(), &plan.settings),
            },
        };
        let mut problems = IdSet::default();
        for problem in dataset.problem_rows()? {
            problems.insert(&problem?.problem_id);
        }
        let Some(source) = plan.source else { return Ok(sources) };
        let found = match source {
            Source::Scores => sources.read_scores(dataset, plan.round, &problems, left)?,
            Source::Corrections => sources.read_corrections(dataset, plan.round, &problems, left)?,
            Source::Judgements => sources.read_judgements(dataset, plan.round, &problems)?,
        };
        if found == 0 {
            let round = plan.round;
            let (table, command) = match source {
                Source::Scores => (Score::NAME, format!("collect-feedback --round {round} --stage scores")),
                Source::Corrections => {
                    (Correction::NAME, format!("collect-feedback --round {round} --stage corrections"))
                }
                Source::Judgements => (Judgement::NAME, format!("collect-feedback judge --round {round}")),
            };
            return Err(Error::NothingToExport {
                message: format!("{}: round {round} has no {table}", dataset.root().display()),
                hint: format!(
                    "collect them first: {command}{}; or choose other feedback with --from",
                    dataset.flag()
                ),
            });
        }
        Ok(sources)
    }

    fn read_scores(
        &mut self,
        dataset: &Dataset,
        round: u32,
        problems: &IdSet,
        left: &mut LeftOut,
    ) -> Result<usize> {
        let names = ["rollout_id", "problem_id", "rationale", "sentences", "truncated"];
        let mut ids = IdSet::default();
        for row in dataset.stream_columns::<Rollout, RolloutRow>(round, &names)? {
            let row = row?;
            known(problems, Rollout::NAME, &row.rollout_id, &row.problem_id)?;
            once::<Rollout>(dataset, round, &mut ids, "rollout_id", &row.rollout_id)?;
            self.rows.push(&row.problem_id, &row)?;
        }
        let names = ["rollout_id", "sentence_index", "sentence", "score", "teacher", "repeat"];
        let mut group: Vec<ScoreRow> = Vec::new();
        let (mut orphans, mut found) = (IdSet::default(), 0);
        let mut push = |group: &mut Vec<ScoreRow>, answers: &mut Lookup| -> Result<()> {
            let Some(first) = group.first() else { return Ok(()) };
            match ids.contains(&first.rollout_id) {
                true => answers.push(&first.rollout_id, &*group)?,
                false => {
                    orphans.insert(&first.rollout_id);
                }
            }
            group.clear();
            Ok(())
        };
        for row in dataset.stream_columns::<Score, ScoreRow>(round, &names)? {
            let row = row?;
            found += 1;
            if group.first().is_some_and(|first| first.rollout_id != row.rollout_id) {
                push(&mut group, &mut self.answers)?;
            }
            group.push(row);
        }
        push(&mut group, &mut self.answers)?;
        left.count("scored rollouts", Reason::NoRow, orphans.len());
        self.read_rejects(dataset, round, Kind::Scores)?;
        Ok(found)
    }

    fn read_corrections(
        &mut self,
        dataset: &Dataset,
        round: u32,
        problems: &IdSet,
        left: &mut LeftOut,
    ) -> Result<usize> {
        let names = ["rationale_id", "problem_id", "stage", "deduplicated"];
        let mut ids = IdSet::default();
        for row in dataset.stream_columns::<Rationale, RationaleRow>(round, &names)? {
            let row = row?;
            if row.stage != "rl" {
                continue;
            }
            known(problems, Rationale::NAME, &row.rationale_id, &row.problem_id)?;
            once::<Rationale>(dataset, round, &mut ids, "rationale_id", &row.rationale_id)?;
            self.rows.push(&row.problem_id, &row)?;
        }
        let names = ["rationale_id", "problem_id", "original", "corrected", "changed", "teacher"];
        let (mut corrected, mut found) = (IdSet::default(), 0);
        for row in dataset.stream_columns::<Correction, Corrected>(round, &names)? {
            let row = row?;
            found += 1;
            once::<Correction>(dataset, round, &mut corrected, "rationale_id", &row.rationale_id)?;
            match ids.contains(&row.rationale_id) {
                true => self.answers.push(&row.rationale_id, &row)?,
                false => left.count("corrections", Reason::NoRow, 1),
            }
        }
        self.read_rejects(dataset, round, Kind::Corrections)?;
        Ok(found)
    }

    fn read_judgements(&mut self, dataset: &Dataset, round: u32, problems: &IdSet) -> Result<usize> {
        let names =
            ["problem_id", "against", "candidate", "baseline", "candidate_shown_first", "verdict", "teacher"];
        for row in dataset.stream_columns::<Judgement, Verdict>(round, &names)? {
            let row = row?;
            known(problems, Judgement::NAME, &row.against, &row.problem_id)?;
            self.rows.push(&row.problem_id, &row)?;
        }
        self.read_rejects(dataset, round, Kind::Judgements)?;
        Ok(self.rows.len())
    }

    fn read_rejects(&mut self, dataset: &Dataset, round: u32, kind: Kind) -> Result<()> {
        for row in
            dataset.stream_columns::<Reject, RejectRow>(round, &["kind", "subject_id", "problem_id"])?
        {
            let row = row?;
            if row.kind == kind.as_str() {
                match kind {
                    Kind::Judgements => self.rejected_pairs.push(row.problem_id),
                    Kind::Scores | Kind::Corrections => {
                        self.rejected.insert(&row.subject_id);
                    }
                }
            }
        }
        self.rejected_pairs.sort_unstable();
        Ok(())
    }

    /// Whether a problem has rows; formats without a source export every problem.
    pub(super) fn has(&mut self, problem_id: &str) -> Result<bool> {
        Ok(self.source.is_none() || !self.rows.get::<serde::de::IgnoredAny>(problem_id)?.is_empty())
    }

    /// The rows of a problem that examples can be made from; the others are counted as left out.
    pub(super) fn of(&mut self, problem: Problem, splits: &[Split], left: &mut LeftOut) -> Result<Feedback> {
        let split = Split::of(&problem.split);
        let mut feedback =
            Feedback { problem, split, samples: Vec::new(), corrections: Vec::new(), verdicts: Vec::new() };
        let Some(source) = self.source else { return Ok(feedback) };
        let id = feedback.problem.problem_id.clone();
        if !splits.contains(&split) {
            let rows = self.rows.get::<serde::de::IgnoredAny>(&id)?.len();
            left.count(rows_of(source), Reason::Split(split), rows);
            return Ok(feedback);
        }
        match source {
            Source::Scores => feedback.samples = self.samples(&id, left)?,
            Source::Corrections => feedback.corrections = self.corrections(&id, left)?,
            Source::Judgements => feedback.verdicts = self.verdicts(&id, left)?,
        }
        Ok(feedback)
    }

    fn samples(&mut self, problem_id: &str, left: &mut LeftOut) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut texts = HashSet::new();
        for row in self.rows.get::<RolloutRow>(problem_id)? {
            let groups = self.answers.get::<Vec<ScoreRow>>(&row.rollout_id)?;
            let is_rejected = self.rejected.contains(&row.rollout_id);
            let rows = groups.into_iter().flatten().collect();
            match scored(row, rows, &self.opinions, is_rejected, &self.scores_folder)? {
                Err(reason) => left.count("rollouts", reason, 1),
                Ok(sample) if !self.keep_duplicates && !texts.insert(folded(&sample.text)) => {
                    left.count("rollouts", Reason::Duplicate, 1);
                }
                Ok(sample) => samples.push(sample),
            }
        }
        Ok(samples)
    }

    fn corrections(&mut self, problem_id: &str, left: &mut LeftOut) -> Result<Vec<Corrected>> {
        let mut corrections = Vec::new();
        for row in self.rows.get::<RationaleRow>(problem_id)? {
            let correction = self.answers.get::<Corrected>(&row.rationale_id)?.pop();
            let reason = match correction {
                Some(correction) if folded(&correction.original) == folded(&row.deduplicated) => {
                    corrections.push(correction);
                    continue;
                }
                Some(_) => Reason::OtherText,
                None if row.deduplicated.trim().is_empty() => Reason::Empty,
                None if self.rejected.contains(&row.rationale_id) => Reason::Rejected,
                None => Reason::Pending,
            };
            left.count("rationales", reason, 1);
        }
        Ok(corrections)
    }

    /// One verdict for each baseline. A pair shown in both orders counts if both verdicts agree.
    fn verdicts(&mut self, problem_id: &str, left: &mut LeftOut) -> Result<Vec<Verdict>> {
        let first = self.rejected_pairs.partition_point(|other| other.as_str() < problem_id);
        let rejected =
            self.rejected_pairs.iter().skip(first).take_while(|other| *other == problem_id).count();
        left.count("judgements", Reason::Rejected, rejected);
        let mut by_baseline: BTreeMap<String, Vec<Verdict>> = BTreeMap::new();
        for row in self.rows.get::<Verdict>(problem_id)? {
            by_baseline.entry(row.against.clone()).or_default().push(row);
        }
        let mut verdicts = Vec::new();
        for (against, rows) in by_baseline {
            let shown: HashSet<bool> = rows.iter().map(|row| row.candidate_shown_first).collect();
            if shown.len() < rows.len() {
                return Err(one_expected(
                    "judgements",
                    &format!("problem `{problem_id}` against {against}, for each order"),
                    rows.len(),
                    rows.iter().map(|row| row.teacher.as_str()),
                ));
            }
            let mut rows = rows.into_iter();
            let Some(row) = rows.next() else { continue };
            match rows.next() {
                Some(other) if other.verdict != row.verdict => {
                    left.count("judgements", Reason::OrdersDisagree, 2);
                }
                Some(_) => {
                    left.count("judgements", Reason::Duplicate, 1);
                    verdicts.push(row);
                }
                None => verdicts.push(row),
            }
        }
        Ok(verdicts)
    }
}

fn known(problems: &IdSet, table: &str, row: &str, problem_id: &str) -> Result<()> {
    if problems.contains(problem_id) {
        return Ok(());
    }
    Err(Error::bad_input(
        format!("{table}, row `{row}`"),
        format!("problem_id: expected a problem of problems.parquet, found `{problem_id}`"),
    ))
}

fn once<T: Table>(
    dataset: &Dataset,
    round: u32,
    ids: &mut IdSet,
    column: &'static str,
    id: &str,
) -> Result<()> {
    match ids.insert(id) {
        true => Ok(()),
        false => {
            let path = dataset.round_dir::<T>(round);
            Err(schemas::Error::Duplicate { path, column, value: id.to_owned() }.into())
        }
    }
}
