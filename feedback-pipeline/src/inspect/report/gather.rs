//! The input of a report: the texts of its round, grouped by problem.

use crate::error::Result;
use crate::inspect::opinions;
use schemas::opinions::Number;
use schemas::{
    Answer, Correction, Dataset, Judgement, Metric, Problem, Rationale, Reject, Rollout, Score, Sentence,
    Settings,
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
    teacher: String,
    reason: Option<String>,
    repeat: Option<u32>,
}

/// Scores of a round by rollout, in the order of the sentences.
pub(super) struct Scores {
    scores: opinions::Scores,
    /// Reasons, if any, by rollout, sentence and opinion.
    reasons: HashMap<String, BTreeMap<(u32, Number), String>>,
    /// Scores of each Teacher.
    pub(super) by_teacher: BTreeMap<String, usize>,
}

impl Scores {
    pub(super) fn read(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Self> {
        let scores = opinions::Scores::read(dataset, round, settings)?;
        let mut read = Self { scores, reasons: HashMap::new(), by_teacher: BTreeMap::new() };
        let names = ["rollout_id", "sentence_index", "teacher", "reason", "repeat"];
        for row in dataset.project::<Score, ScoreOf>(round, &names)? {
            let opinion = read.scores.opinions.number(&row.teacher, row.repeat);
            if let (Some(reason), Some(opinion)) = (row.reason, opinion) {
                let of_rollout = read.reasons.entry(row.rollout_id).or_default();
                of_rollout.insert((row.sentence_index, opinion), reason);
            }
            match read.by_teacher.get_mut(&row.teacher) {
                Some(count) => *count += 1,
                None => {
                    read.by_teacher.insert(row.teacher, 1);
                }
            }
        }
        Ok(read)
    }

    /// Whether a rationale may have several opinions.
    pub(super) fn are_several(&self) -> bool {
        self.scores.rollouts().iter().any(|id| self.scores.on(id).is_some_and(|on| on.opinions().len() > 1))
    }

    /// The reason for a sentence's score; with several opinions, that of each.
    pub(super) fn reason(&self, rollout_id: &str, sentence: usize) -> Option<String> {
        let place = u32::try_from(sentence).ok()?;
        let reasons = self.reasons.get(rollout_id);
        let reason = |opinion| reasons.and_then(|reasons| reasons.get(&(place, opinion)));
        let on = self.scores.on(rollout_id)?;
        let all = on.opinions();
        if all.len() < 2 {
            return reason(*all.first()?).cloned();
        }
        let one = |number: Number| {
            let score = on.of(number).find(|(at, _)| *at == place)?.1;
            let why = reason(number).map_or_else(String::new, |reason| format!(": {reason}"));
            Some(format!("{} {score:.2}{why}", self.scores.opinions.get(number)?))
        };
        Some(all.into_iter().filter_map(one).collect::<Vec<_>>().join("; "))
    }

    /// Scores of a rollout; `None` unless there is one for each of its sentences.
    pub(super) fn of(&self, rollout: &RolloutText) -> Option<Vec<f32>> {
        let rows = self.scores.combined(&rollout.rollout_id);
        let whole =
            rows.len() == rollout.sentences.len() && rows.iter().zip(0..).all(|(row, at)| row.0 == at);
        (whole && !rows.is_empty()).then(|| rows.iter().map(|row| row.1.score).collect())
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
    pub(super) fn read(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Self> {
        let corrections = dataset.read::<Correction>(round)?;
        Ok(Self {
            round,
            problems: dataset.problems()?,
            rollouts: dataset.project::<Rollout, RolloutText>(round, &ROLLOUT_COLUMNS)?,
            scores: Scores::read(dataset, round, settings)?,
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
        // If each rationale has several opinions, several Teachers are intended.
        if !self.scores.are_several() {
            kinds.insert("scores".to_owned(), self.scores.by_teacher.clone());
        }
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
