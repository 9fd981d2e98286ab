//! Selects examples from a problem's feedback: pairs, labelled rationales, and rationales to imitate.

use super::join::{Sample, folded};
use super::left_out::{LeftOut, Reason};
use super::options::{Plan, Source};
use super::prompt::plain;
use super::source::{Feedback, rows_of};
use serde::Serialize;

/// Tolerance for 32-bit scores: 0.7 − 0.6 must count as a difference of 0.1.
const ROUNDING: f64 = 1e-6;

/// Which rows of which table an example was made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Origin {
    pub(super) problem_id: String,
    pub(super) split: &'static str,
    /// rollouts (with their scores), corrections or judgements.
    pub(super) table: &'static str,
    /// Ids of the rows, in the order of the texts; for a judgement, the round it was compared with.
    pub(super) rows: Vec<String>,
    /// The Teacher that gave the feedback.
    pub(super) teacher: String,
}

/// A better and a worse rationale of a problem.
#[derive(Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) chosen: String,
    pub(super) rejected: String,
    /// Scores of the two, if they were scored.
    pub(super) scores: Option<(f32, f32)>,
    pub(super) origin: Origin,
}

/// A rationale that is good or bad.
#[derive(Debug, PartialEq)]
pub(super) struct Labelled {
    pub(super) text: String,
    pub(super) is_good: bool,
    pub(super) score: Option<f32>,
    pub(super) origin: Origin,
}

/// A rationale to imitate.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) text: String,
    pub(super) score: Option<f32>,
    pub(super) origin: Origin,
}

/// Name in the counts of left-out rows, if one export makes several kinds of examples.
pub(super) type Kind = &'static str;

/// Selects examples by the rules of a plan.
pub(super) struct Selection<'a> {
    plan: &'a Plan,
}

impl<'a> Selection<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self { plan }
    }

    /// Pairs: corrected over original, best over worst sample, preferred over other.
    pub(super) fn pairs(&self, feedback: &Feedback, left: &mut LeftOut) -> Vec<Pair> {
        match self.plan.source {
            Some(Source::Corrections) => {
                let pair = |row: &super::source::Corrected| {
                    let (chosen, rejected) = (prose(&row.corrected), prose(&row.original));
                    match row.changed && chosen != rejected {
                        true => {
                            Ok(Pair { chosen, rejected, scores: None, origin: correction(feedback, row) })
                        }
                        false => Err(Reason::Unchanged),
                    }
                };
                let pairs = feedback.corrections.iter().map(pair);
                keep(pairs, "rationales for preference", left)
            }
            Some(Source::Judgements) => {
                let pairs = feedback.verdicts.iter().map(|row| {
                    let (chosen, rejected) = decided(row)?;
                    Ok(Pair { chosen, rejected, scores: None, origin: judgement(feedback, row) })
                });
                keep(pairs, "judgements for preference", left)
            }
            Some(Source::Scores) => self.best_over_worst(feedback, left).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn best_over_worst(&self, feedback: &Feedback, left: &mut LeftOut) -> Option<Pair> {
        const KIND: Kind = "rollouts for preference";
        let samples = &feedback.samples;
        let truncated = samples.iter().filter(|sample| sample.truncated).count();
        let best = self.best(samples);
        // A truncated rationale can be the worse one, never the better one.
        let Some((best, high)) = best else {
            left.count(KIND, Reason::Truncated, truncated);
            return None;
        };
        let worst = samples
            .iter()
            .filter(|sample| sample.rollout_id != best.rollout_id)
            .map(|sample| (sample, self.score(sample)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        let Some((worst, low)) = worst else {
            left.count(KIND, Reason::OnlySample, 1);
            return None;
        };
        let distance = high - low;
        if distance < ROUNDING || distance + ROUNDING < self.plan.pair_margin() {
            left.count(KIND, Reason::WithinMargin, samples.len());
            return None;
        }
        if folded(&best.text) == folded(&worst.text) {
            left.count(KIND, Reason::SameTexts, samples.len());
            return None;
        }
        left.count(KIND, Reason::BetweenBestAndWorst, samples.len() - 2);
        Some(Pair {
            chosen: clean(&best.text),
            rejected: clean(&worst.text),
            scores: Some((high as f32, low as f32)),
            origin: rollouts(feedback, &[best, worst]),
        })
    }

    /// Good and bad rationales.
    pub(super) fn labelled(&self, feedback: &Feedback, left: &mut LeftOut) -> Vec<Labelled> {
        let (threshold, margin) = (self.plan.threshold, self.plan.label_margin());
        match self.plan.source {
            Some(Source::Scores) => {
                let samples = feedback.samples.iter().map(|sample| {
                    let score = self.score(sample);
                    let is_good = score > threshold + ROUNDING;
                    match (is_good, (score - threshold).abs() + ROUNDING < margin) {
                        (_, true) => Err(Reason::NearThreshold),
                        (true, _) if sample.truncated => Err(Reason::Truncated),
                        _ => Ok(Labelled {
                            text: clean(&sample.text),
                            is_good,
                            score: Some(score as f32),
                            origin: rollouts(feedback, &[sample]),
                        }),
                    }
                });
                keep(samples, "rollouts for kto", left)
            }
            Some(Source::Corrections) => {
                let both = feedback.corrections.iter().flat_map(|row| {
                    let origin = correction(feedback, row);
                    let one = |text: &str, is_good| Labelled {
                        text: prose(text),
                        is_good,
                        score: None,
                        origin: origin.clone(),
                    };
                    let original = match row.changed {
                        true => Ok(one(&row.original, false)),
                        false => Err(Reason::Unchanged),
                    };
                    [Ok(one(&row.corrected, true)), original]
                });
                keep(both, "originals for kto", left)
            }
            Some(Source::Judgements) => {
                let decided = feedback.verdicts.iter().map(|row| Ok((row, decided(row)?)));
                let decided = keep(decided, "judgements for kto", left);
                let both = decided.into_iter().flat_map(|(row, (better, worse))| {
                    let origin = judgement(feedback, row);
                    let one = |text, is_good| Labelled { text, is_good, score: None, origin: origin.clone() };
                    [one(better, true), one(worse, false)]
                });
                both.collect()
            }
            None => Vec::new(),
        }
    }

    /// Rationales to imitate: corrections, the best sample of a problem if it is good, the preferred rationale.
    pub(super) fn targets(&self, feedback: &Feedback, left: &mut LeftOut) -> Vec<Target> {
        match self.plan.source {
            Some(Source::Corrections) => {
                let target = |row: &super::source::Corrected| match row.corrected.trim().is_empty() {
                    true => Err(Reason::Empty),
                    false => Ok(Target {
                        text: clean(&row.corrected),
                        score: None,
                        origin: correction(feedback, row),
                    }),
                };
                keep(feedback.corrections.iter().map(target), "rationales for sft", left)
            }
            Some(Source::Judgements) => {
                let targets = feedback.verdicts.iter().map(|row| {
                    let (text, _) = decided(row)?;
                    Ok(Target { text, score: None, origin: judgement(feedback, row) })
                });
                keep(targets, "judgements for sft", left)
            }
            Some(Source::Scores) => {
                let best = self.best(&feedback.samples).map(|(best, _)| best.rollout_id.as_str());
                let targets = feedback.samples.iter().map(|sample| {
                    let score = self.score(sample);
                    match () {
                        () if sample.truncated => Err(Reason::Truncated),
                        () if best != Some(sample.rollout_id.as_str()) => Err(Reason::NotBest),
                        () if score <= self.plan.threshold + ROUNDING => Err(Reason::NotGood),
                        () => Ok(Target {
                            text: clean(&sample.text),
                            score: Some(score as f32),
                            origin: rollouts(feedback, &[sample]),
                        }),
                    }
                });
                keep(targets, "rollouts for sft", left)
            }
            None => Vec::new(),
        }
    }

    /// The best of the samples that are not truncated; of several, the first.
    fn best<'s>(&self, samples: &'s [Sample]) -> Option<(&'s Sample, f64)> {
        let whole = samples.iter().filter(|sample| !sample.truncated);
        let scored = whole.map(|sample| (sample, self.score(sample)));
        scored.rev().max_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    fn score(&self, sample: &Sample) -> f64 {
        self.plan.aggregate.of(&sample.scores)
    }
}

/// The better and the worse text of a judgement.
fn decided(row: &super::source::Verdict) -> Result<(String, String), Reason> {
    let (candidate, baseline) = (prose(&row.candidate), prose(&row.baseline));
    match row.verdict.as_str() {
        _ if candidate == baseline => Err(Reason::SameTexts),
        "win" => Ok((candidate, baseline)),
        "loss" => Ok((baseline, candidate)),
        _ => Err(Reason::Tie),
    }
}

fn keep<T>(examples: impl Iterator<Item = Result<T, Reason>>, kind: Kind, left: &mut LeftOut) -> Vec<T> {
    let mut kept = Vec::new();
    for example in examples {
        match example {
            Ok(example) => kept.push(example),
            Err(reason) => left.count(kind, reason, 1),
        }
    }
    kept
}

fn clean(text: &str) -> String {
    plain(text.trim())
}

/// A text without line breaks. Only one of two compared texts may have them (de-duplicated rationales have
/// one sentence per line), and a student would learn to tell them apart by that.
fn prose(text: &str) -> String {
    plain(&folded(text))
}

fn origin(feedback: &Feedback, table: &'static str, rows: Vec<String>, teacher: &str) -> Origin {
    Origin {
        problem_id: feedback.problem.problem_id.clone(),
        split: feedback.split.as_str(),
        table,
        rows,
        teacher: teacher.to_owned(),
    }
}

/// Origin of an example that was made from samples.
pub(super) fn rollouts(feedback: &Feedback, samples: &[&Sample]) -> Origin {
    let mut teachers: Vec<&str> = samples.iter().map(|sample| sample.teacher.as_str()).collect();
    teachers.dedup();
    let ids = samples.iter().map(|sample| sample.rollout_id.clone()).collect();
    origin(feedback, rows_of(Source::Scores), ids, &teachers.join(", "))
}

fn correction(feedback: &Feedback, row: &super::source::Corrected) -> Origin {
    origin(feedback, "corrections", vec![row.rationale_id.clone()], &row.teacher)
}

fn judgement(feedback: &Feedback, row: &super::source::Verdict) -> Origin {
    origin(feedback, "judgements", vec![row.against.clone()], &row.teacher)
}

#[cfg(test)]
mod tests;
