//! The input of a report: the texts of its round, grouped by problem.

use crate::error::Result;
use schemas::{
    Answer, Correction, Dataset, Judgement, Metric, Problem, Rationale, Reject, Rollout, Score, Sentence,
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A rollout with its scores; the token columns are not read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RolloutText {
    pub(super) rollout_id: String,
    pub(super) problem_id: String,
    pub(super) sample: u32,
    pub(super) sentences: Vec<Sentence>,
    pub(super) truncated: bool,
    pub(super) policy: String,
}

/// Columns of [`RolloutText`].
pub(super) const ROLLOUT_COLUMNS: [&str; 6] =
    ["rollout_id", "problem_id", "sample", "sentences", "truncated", "policy"];

#[derive(Deserialize)]
struct ScoreOf {
    rollout_id: String,
    sentence_index: u32,
    score: f32,
    teacher: String,
    reason: Option<String>,
}

/// Scores of a round by rollout, in the order of the sentences.
#[derive(Debug, Default)]
pub(super) struct Scores {
    by_rollout: HashMap<String, Vec<(u32, f32)>>,
    /// Reasons, where there are any, by rollout and sentence.
    reasons: HashMap<String, BTreeMap<u32, String>>,
    /// Scores of each Teacher.
    pub(super) by_teacher: BTreeMap<String, usize>,
}

impl Scores {
    pub(super) fn read(dataset: &Dataset, round: u32) -> Result<Self> {
        let mut scores = Self::default();
        let names = ["rollout_id", "sentence_index", "score", "teacher", "reason"];
        for row in dataset.project::<Score, ScoreOf>(round, &names)? {
            if let Some(reason) = row.reason {
                let of_rollout = scores.reasons.entry(row.rollout_id.clone()).or_default();
                of_rollout.insert(row.sentence_index, reason);
            }
            scores.by_rollout.entry(row.rollout_id).or_default().push((row.sentence_index, row.score));
            match scores.by_teacher.get_mut(&row.teacher) {
                Some(count) => *count += 1,
                None => {
                    scores.by_teacher.insert(row.teacher, 1);
                }
            }
        }
        for rows in scores.by_rollout.values_mut() {
            rows.sort_by_key(|row| row.0);
        }
        Ok(scores)
    }

    /// Why a sentence of a rollout has its score.
    pub(super) fn reason(&self, rollout_id: &str, sentence: usize) -> Option<&str> {
        self.reasons.get(rollout_id)?.get(&u32::try_from(sentence).ok()?).map(String::as_str)
    }

    /// Scores of a rollout; `None` unless there is one for each of its sentences.
    pub(super) fn of(&self, rollout: &RolloutText) -> Option<Vec<f32>> {
        let rows = self.by_rollout.get(&rollout.rollout_id)?;
        let whole =
            rows.len() == rollout.sentences.len() && rows.iter().zip(0..).all(|(row, at)| row.0 == at);
        whole.then(|| rows.iter().map(|row| row.1).collect())
    }
}

/// The tables of the report's round.
pub(super) struct Gathered {
    pub(super) round: u32,
    pub(super) problems: Vec<Problem>,
    pub(super) rollouts: Vec<RolloutText>,
    pub(super) scores: Scores,
    pub(super) rationales: Vec<Rationale>,
    pub(super) corrections: HashMap<String, Correction>,
    pub(super) answers: Vec<Answer>,
    pub(super) judgements: Vec<Judgement>,
    pub(super) rejects: Vec<Reject>,
    pub(super) metrics: Vec<Metric>,
}

impl Gathered {
    pub(super) fn read(dataset: &Dataset, round: u32) -> Result<Self> {
        let corrections = dataset.read::<Correction>(round)?;
        Ok(Self {
            round,
            problems: dataset.problems()?,
            rollouts: dataset.project::<Rollout, RolloutText>(round, &ROLLOUT_COLUMNS)?,
            scores: Scores::read(dataset, round)?,
            rationales: dataset.read(round)?,
            corrections: corrections.into_iter().map(|row| (row.rationale_id.clone(), row)).collect(),
            answers: dataset.read(round)?,
            judgements: dataset.read(round)?,
            rejects: dataset.read(round)?,
            metrics: dataset.read(round)?,
        })
    }
}

impl Gathered {
    /// Kinds of feedback given by several Teachers, each with the number of rows by Teacher. Judgements
    /// against different baselines count as different kinds.
    pub(super) fn mixed(&self) -> Vec<(String, BTreeMap<String, usize>)> {
        let mut kinds: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        kinds.insert("scores".to_owned(), self.scores.by_teacher.clone());
        let mut count = |kind: String, teacher: &String| {
            *kinds.entry(kind).or_default().entry(teacher.clone()).or_default() += 1;
        };
        self.corrections.values().for_each(|row| count("corrections".to_owned(), &row.teacher));
        for row in &self.judgements {
            count(format!("judgements against {}", row.against), &row.teacher);
        }
        kinds.into_iter().filter(|(_, teachers)| teachers.len() > 1).collect()
    }
}

/// Which sentences repeat an earlier one of the same rationale.
pub(super) fn repeats<'a>(sentences: impl IntoIterator<Item = &'a str>) -> Vec<bool> {
    let mut seen = std::collections::HashSet::new();
    sentences.into_iter().map(|sentence| !seen.insert(schemas::sentences::repeat_key(sentence))).collect()
}
