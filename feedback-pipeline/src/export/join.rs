//! A sampled rationale and the scores of its sentences.

use super::left_out::Reason;
use crate::error::{Error, Result};
use schemas::Sentence;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A sampled rationale with a score for each of its sentences.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) rollout_id: String,
    pub(super) text: String,
    pub(super) sentences: Vec<String>,
    pub(super) scores: Vec<f32>,
    pub(super) truncated: bool,
    pub(super) teacher: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RolloutRow {
    pub(super) rollout_id: String,
    pub(super) problem_id: String,
    pub(super) rationale: String,
    pub(super) sentences: Vec<Sentence>,
    pub(super) truncated: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ScoreRow {
    pub(super) rollout_id: String,
    pub(super) sentence_index: u32,
    pub(super) sentence: String,
    pub(super) score: f32,
    pub(super) teacher: String,
}

/// A rollout with its scores, or why it has no line. This is the one place that says how many scores a sentence has: one.
pub(super) fn scored(
    rollout: RolloutRow,
    rows: Vec<ScoreRow>,
    is_rejected: bool,
    folder: &str,
) -> Result<std::result::Result<Sample, Reason>> {
    let RolloutRow { rollout_id, rationale, sentences, truncated, .. } = rollout;
    let sentences: Vec<String> = sentences.into_iter().map(|sentence| sentence.text).collect();
    if sentences.is_empty() {
        return Ok(Err(Reason::Empty));
    }
    if rows.is_empty() {
        return Ok(Err(if is_rejected { Reason::Rejected } else { Reason::Pending }));
    }
    let mut by_sentence: BTreeMap<usize, ScoreRow> = BTreeMap::new();
    for row in rows {
        let index = row.sentence_index as usize;
        if let Some(first) = by_sentence.get(&index) {
            let teachers = [first.teacher.as_str(), row.teacher.as_str()];
            let whose = format!("sentence {index} of rollout `{rollout_id}`");
            return Err(one_expected(folder, &whose, teachers.len(), teachers));
        }
        if sentences.get(index).is_none_or(|sentence| folded(sentence) != folded(&row.sentence)) {
            return Ok(Err(Reason::OtherText));
        }
        by_sentence.insert(index, row);
    }
    if by_sentence.len() < sentences.len() {
        return Ok(Err(Reason::PartlyScored));
    }
    let teachers: BTreeSet<&str> = by_sentence.values().map(|row| row.teacher.as_str()).collect();
    let teacher = teachers.into_iter().collect::<Vec<_>>().join(", ");
    let scores = by_sentence.values().map(|row| row.score).collect();
    Ok(Ok(Sample { rollout_id, text: without_label(&rationale), sentences, scores, truncated, teacher }))
}

pub(super) fn one_expected<'a>(
    table: &str,
    whose: &str,
    found: usize,
    teachers: impl IntoIterator<Item = &'a str>,
) -> Error {
    let teachers: Vec<&str> = teachers.into_iter().collect();
    Error::bad_input(
        table,
        format!("expected one row for {whose}, found {found}, by {}", teachers.join(" and ")),
    )
}

/// A rationale without the label that MM-CoT-style students begin with.
fn without_label(rationale: &str) -> String {
    let text = rationale.trim();
    text.strip_prefix("Solution:").unwrap_or(text).trim().to_owned()
}

/// A text in the form in which two are compared: white space does not matter.
pub(super) fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(sentences: &[&str]) -> RolloutRow {
        RolloutRow {
            rollout_id: "p-r1-s0".into(),
            problem_id: "p".into(),
            rationale: format!("Solution: {}", sentences.join(" ")),
            sentences: sentences.iter().map(|text| Sentence { text: (*text).into(), token_end: 0 }).collect(),
            truncated: false,
        }
    }

    fn score(sentence_index: u32, sentence: &str, score: f32, teacher: &str) -> ScoreRow {
        ScoreRow {
            rollout_id: "p-r1-s0".into(),
            sentence_index,
            sentence: sentence.into(),
            score,
            teacher: teacher.into(),
        }
    }

    fn reason(rollout: RolloutRow, rows: Vec<ScoreRow>, is_rejected: bool) -> Option<Reason> {
        scored(rollout, rows, is_rejected, "scores").unwrap().err()
    }

    #[test]
    fn a_rollout_has_one_score_for_each_sentence_or_no_line() {
        let two = || rollout(&["One.", "Two."]);
        // Part files may contain the scores in any order.
        let rows = vec![score(1, "Two.", 0.2, "a"), score(0, "One.", 1.0, "a")];
        let sample = scored(two(), rows, false, "scores").unwrap().unwrap();
        assert_eq!((sample.scores.as_slice(), sample.text.as_str()), ([1.0, 0.2].as_slice(), "One. Two."));
        assert_eq!(reason(rollout(&[]), vec![], false), Some(Reason::Empty));
        assert_eq!(reason(two(), vec![], false), Some(Reason::Pending));
        assert_eq!(reason(two(), vec![], true), Some(Reason::Rejected));
        assert_eq!(reason(two(), vec![score(0, "One.", 1.0, "a")], false), Some(Reason::PartlyScored));
        assert_eq!(reason(two(), vec![score(0, "Uno.", 1.0, "a")], false), Some(Reason::OtherText));
        assert_eq!(reason(two(), vec![score(2, "Two.", 1.0, "a")], false), Some(Reason::OtherText));
    }

    #[test]
    fn two_scores_of_a_sentence_are_an_error() {
        let rows = vec![score(0, "One.", 1.0, "a"), score(0, "One.", 0.5, "b")];
        let error = scored(rollout(&["One."]), rows, false, "scores/round").unwrap_err();
        let expected =
            "scores/round: expected one row for sentence 0 of rollout `p-r1-s0`, found 2, by a and b";
        assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2));
    }
}
