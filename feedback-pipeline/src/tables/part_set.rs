//! A set of files that one run writes.

use super::booking;
use super::identity::outcome_of;
use super::swap::Replacement;
use crate::error::{Error, Result};
use crate::items::{Content, Item, Job, Kind};
use crate::reply::Answer;
use crate::reply::verdict::Verdict;
use crate::store::outcome::{self, ItemOutcome};
use schemas::table::TableWriter;
use schemas::{Correction, Dataset, IdSet, Judgement, Provenance, Reject, Request, Score, TimestampMs};
use std::path::Path;

/// Row counts of a set of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items with an answer.
    pub answered: usize,
    /// Items without a usable answer.
    pub rejected: usize,
    /// Items that share another's reply.
    pub shared: usize,
}

/// A set of files that is being written.
pub struct PartSet {
    requests: TableWriter<Request>,
    rejects: TableWriter<Reject>,
    marker: Marker,
    counts: Counts,
    /// Items that have an outcome here, see [`outcome_of`]; `None` if nothing is carried over from older parts.
    outcomes: Option<IdSet>,
    /// Rows of the ledger, by request and item; kept where `outcomes` are.
    booked: IdSet,
}

enum Marker {
    Scores(TableWriter<Score>),
    Corrections(TableWriter<Correction>),
    Judgements(TableWriter<Judgement>),
}

impl PartSet {
    /// Starts the set with a number. Nothing is visible before [`PartSet::finish`].
    ///
    /// # Errors
    /// If the write fails.
    pub fn create(
        dataset: &Dataset,
        kind: Kind,
        round: u32,
        number: u32,
        provenance: &Provenance,
    ) -> Result<Self> {
        let shared = format!("{}-{number:05}", kind.as_str());
        let own = format!("{number:05}");
        let marker = match kind {
            Kind::Scores => dataset.part_path::<Score>(round, &own),
            Kind::Corrections => dataset.part_path::<Correction>(round, &own),
            Kind::Judgements => dataset.part_path::<Judgement>(round, &own),
        };
        let requests = dataset.part_path::<Request>(round, &shared);
        Self::at(kind, &requests, &dataset.part_path::<Reject>(round, &shared), &marker, None, provenance)
    }

    /// Starts a set that replaces all older ones of a kind and round, and takes rows over from them for items that have no
    /// outcome here. Its answers and rejects are not visible before [`Replacement::commit`]; rows of the ledger are, once it is
    /// finished, unless they replace others too.
    ///
    /// # Errors
    /// If the write fails.
    pub fn replacing(
        dataset: &Dataset,
        kind: Kind,
        round: u32,
        number: u32,
        replacement: &Replacement<'_>,
        provenance: &Provenance,
    ) -> Result<Self> {
        let shared = format!("{}-{number:05}", kind.as_str());
        let own = format!("{number:05}");
        let marker = match kind {
            Kind::Scores => replacement.part_path::<Score>(&own),
            Kind::Corrections => replacement.part_path::<Correction>(&own),
            Kind::Judgements => replacement.part_path::<Judgement>(&own),
        };
        let requests = match replacement.has_ledger() {
            true => replacement.part_path::<Request>(&shared),
            false => dataset.part_path::<Request>(round, &shared),
        };
        let rejects = replacement.part_path::<Reject>(&shared);
        Self::at(kind, &requests, &rejects, &marker, Some(IdSet::default()), provenance)
    }

    fn at(
        kind: Kind,
        requests: &Path,
        rejects: &Path,
        marker: &Path,
        outcomes: Option<IdSet>,
        provenance: &Provenance,
    ) -> Result<Self> {
        Ok(Self {
            requests: TableWriter::create(requests, provenance)?,
            rejects: TableWriter::create(rejects, provenance)?,
            marker: match kind {
                Kind::Scores => Marker::Scores(TableWriter::create(marker, provenance)?),
                Kind::Corrections => Marker::Corrections(TableWriter::create(marker, provenance)?),
                Kind::Judgements => Marker::Judgements(TableWriter::create(marker, provenance)?),
            },
            counts: Counts::default(),
            outcomes,
            booked: IdSet::default(),
        })
    }

    /// Whether an item has an outcome here, see [`outcome_of`].
    pub fn has_outcome(&self, id: &str) -> bool {
        self.outcomes.as_ref().is_some_and(|outcomes| outcomes.contains(id))
    }

    /// Whether the ledger of this set, which replaces another, has a row for an item's request.
    pub fn has_booked(&self, request_key: &str, subject_id: &str) -> bool {
        self.booked.contains(&booking::booking(request_key, subject_id))
    }

    /// Adds an item's row to the ledger.
    pub fn ledger(&mut self, job: &Job, item: &Item, outcome: &ItemOutcome) -> Result<()> {
        if self.outcomes.is_some() {
            self.booked.insert(&booking::booking(&outcome.key_text(), &item.subject_id));
        }
        Ok(self.requests.push(booking::row(job, item, outcome))?)
    }

    /// Adds a completed item's answer or reject.
    pub fn outcome(&mut self, job: &Job, item: &Item, outcome: ItemOutcome) -> Result<()> {
        if let Some(outcomes) = &mut self.outcomes {
            outcomes.insert(&outcome_of(job, item, &outcome.ask.model));
        }
        let request_key = outcome.key_text();
        let reasons = match &outcome.verdict {
            Verdict::Answer(Answer::Scores(scores)) => outcome::reasons(&outcome, item, scores),
            _ => Vec::new(),
        };
        let ItemOutcome { ask, replies, verdict } = outcome;
        let cached = !ask.is_paid_by(job, item);
        let problem_id = item.problem.problem_id.clone();
        let repeat = (job.kind == Kind::Scores).then(|| job.repeat());
        let at = TimestampMs(replies.last().map_or(0, |reply| reply.replied_at_ms));
        self.counts.shared += usize::from(cached);
        let answer = match verdict {
            Verdict::Answer(answer) => answer,
            Verdict::Reject { reason, reply } => {
                self.counts.rejected += 1;
                let attempts = replies.iter().map(|reply| reply.attempts).sum();
                self.rejects.push(Reject {
                    kind: job.kind.as_str().to_owned(),
                    subject_id: item.subject_id.clone(),
                    problem_id,
                    round: item.round,
                    reason,
                    reply,
                    attempts: if cached { 0 } else { attempts },
                    request_key,
                    teacher: Some(ask.model),
                    repeat,
                })?;
                return Ok(());
            }
            Verdict::Ask(_) | Verdict::Missing { .. } => {
                return Err(Error::Failed(format!("{}: no outcome yet", item.subject_id)));
            }
        };
        self.counts.answered += 1;
        let (teacher, prompt_version) = (ask.model, ask.prompt_version);
        match (&mut self.marker, &item.content, answer) {
            (Marker::Scores(table), Content::Scores { sample, sentences }, Answer::Scores(scores)) => {
                let scored = sentences.iter().zip(scores).zip(reasons);
                for (((sentence, score), reason), sentence_index) in scored.zip(0..) {
                    table.push(Score {
                        rollout_id: item.subject_id.clone(),
                        problem_id: problem_id.clone(),
                        round: item.round,
                        sample: *sample,
                        sentence_index,
                        sentence: sentence.clone(),
                        score,
                        teacher: teacher.clone(),
                        prompt_version: prompt_version.clone(),
                        request_key: request_key.clone(),
                        cached,
                        scored_at: at,
                        reason,
                        repeat,
                    })?;
                }
            }
            (
                Marker::Corrections(table),
                Content::Correction { rationale },
                Answer::Correction(corrected),
            ) => {
                let changed = !rationale.split_whitespace().eq(corrected.split_whitespace());
                table.push(Correction {
                    rationale_id: item.subject_id.clone(),
                    problem_id,
                    round: item.round,
                    original: rationale.clone(),
                    corrected,
                    changed,
                    teacher,
                    prompt_version,
                    request_key,
                    cached,
                    corrected_at: at,
                })?;
            }
            (
                Marker::Judgements(table),
                Content::Judgement { against, candidate, baseline, candidate_shown_first },
                Answer::Judgement(better),
            ) => table.push(Judgement {
                problem_id,
                round: item.round,
                against: against.clone(),
                candidate: candidate.clone(),
                baseline: baseline.clone(),
                candidate_shown_first: *candidate_shown_first,
                verdict: better.verdict(*candidate_shown_first).to_owned(),
                teacher,
                prompt_version,
                request_key,
                judged_at: at,
            })?,
            _ => return Err(Error::Failed(format!("{}: the answer is of another kind", item.subject_id))),
        }
        Ok(())
    }

    /// Takes over a row of an older ledger.
    pub fn keep_request(&mut self, row: Request) -> Result<()> {
        Ok(self.requests.push(row)?)
    }

    /// Takes over a row of an older part.
    pub fn keep_score(&mut self, row: Score) -> Result<()> {
        match &mut self.marker {
            Marker::Scores(table) => Ok(table.push(row)?),
            _ => Err(Error::Failed(format!("{}: a score among other feedback", row.rollout_id))),
        }
    }

    /// Takes over a row of an older part.
    pub fn keep_correction(&mut self, row: Correction) -> Result<()> {
        match &mut self.marker {
            Marker::Corrections(table) => Ok(table.push(row)?),
            _ => Err(Error::Failed(format!("{}: a correction among other feedback", row.rationale_id))),
        }
    }

    /// Takes over a row of an older part.
    pub fn keep_judgement(&mut self, row: Judgement) -> Result<()> {
        match &mut self.marker {
            Marker::Judgements(table) => Ok(table.push(row)?),
            _ => Err(Error::Failed(format!("{}: a judgement among other feedback", row.problem_id))),
        }
    }

    /// Takes over a row of an older part.
    pub fn keep_reject(&mut self, row: Reject) -> Result<()> {
        Ok(self.rejects.push(row)?)
    }

    /// Publishes the ledger, and drops the rest.
    ///
    /// # Errors
    /// If the write fails.
    pub fn finish_ledger(self) -> Result<()> {
        self.requests.finish()?;
        Ok(())
    }

    /// Publishes the files, the marker last.
    pub fn finish(self) -> Result<Counts> {
        self.requests.finish()?;
        // Also without rejects: an empty table shows that there are none, a missing one does not.
        self.rejects.finish()?;
        match self.marker {
            Marker::Scores(table) => table.finish()?,
            Marker::Corrections(table) => table.finish()?,
            Marker::Judgements(table) => table.finish()?,
        };
        Ok(self.counts)
    }
}
