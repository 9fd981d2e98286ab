//! A sampled rationale and the scores of its sentences.

use super::left_out::Reason;
use crate::error::{Error, Result};
use schemas::Sentence;
use schemas::opinions::{OnRollout, Opinions};
use serde::{Deserialize, Serialize};

/// A sampled rationale with a score for each of its sentences.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) rollout_id: String,
    pub(super) text: String,
    pub(super) sentences: Vec<String>,
    pub(super) scores: Vec<f32>,
    /// Spread of each sentence's scores; empty if there is at most one opinion.
    pub(super) spreads: Vec<f32>,
    pub(super) truncated: bool,
    pub(super) teacher: String,
    /// The Teachers that scored.
    pub(super) opinions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RolloutRow {
    pub(super) rollout_id: String,
    pub(super) problem_id: String,
    pub(super) rationale: String,
    pub(super) sentences: Vec<Sentence>,
    pub(super) truncated: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScoreRow {
    pub(super) rollout_id: String,
    pub(super) sentence_index: u32,
    pub(super) sentence: String,
    pub(super) score: f32,
    pub(super) teacher: String,
    pub(super) repeat: Option<u32>,
}

/// A rollout with its scores, or why it has no line. This is the only place that checks the scores of a sentence: one of each
/// opinion that counts; these are combined.
pub(super) fn scored(
    rollout: RolloutRow,
    rows: Vec<ScoreRow>,
    opinions: &Opinions,
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
    let mut on = OnRollout::default();
    for row in rows {
        let index = row.sentence_index as usize;
        if sentences.get(index).is_none_or(|sentence| folded(sentence) != folded(&row.sentence)) {
            return Ok(Err(Reason::OtherText));
        }
        let opinion = opinions.number(&row.teacher, row.repeat);
        if opinion.is_none_or(|opinion| !on.insert(opinion, row.sentence_index, row.score)) {
            let whose = format!("sentence {index} of rollout `{rollout_id}` by each opinion");
            return Err(one_expected(folder, &whose, 2, [row.teacher.as_str()]));
        }
    }
    let combined = match opinions.combined(&on, sentences.len()) {
        Ok(Some(combined)) => combined,
        Ok(None) => return Ok(Err(Reason::Pending)),
        Err(_) => return Ok(Err(Reason::PartlyScored)),
    };
    let names = combined.opinions.iter().filter_map(|number| Some(opinions.get(*number)?.to_string()));
    let names: Vec<String> = names.collect();
    let scores = combined.sentences.iter().map(|sentence| sentence.score).collect();
    let spreads = match opinions.are_several() {
        true => combined.sentences.iter().map(|sentence| sentence.spread).collect(),
        false => Vec::new(),
    };
    Ok(Ok(Sample {
        rollout_id,
        text: without_label(&rationale),
        sentences,
        scores,
        spreads,
        truncated,
        teacher: names.join(", "),
        opinions: names,
    }))
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
    use schemas::opinions::Opinion;
    use schemas::settings::Resolved;
    use std::collections::BTreeMap;
    use std::path::Path;

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
            repeat: None,
        }
    }

    /// Where `a` and `b` are asked once each.
    fn opinions(found: &[&str]) -> Opinions {
        let text = "[teacher]\nprovider = \"openai\"\nmodel = \"a\"\n\n[[teachers]]\nprovider = \"openai\"\nmodel = \"b\"\n";
        let settings = Resolved::from_parts(Some((Path::new("ares.toml"), text)), &BTreeMap::new()).unwrap();
        let found = found.iter().map(|teacher| (Opinion { teacher: (*teacher).into(), repeat: 0 }, 1));
        Opinions::of(found.collect(), &settings.settings)
    }

    fn reason(rollout: RolloutRow, rows: Vec<ScoreRow>, is_rejected: bool) -> Option<Reason> {
        scored(rollout, rows, &opinions(&["a"]), is_rejected, "scores").unwrap().err()
    }

    #[test]
    fn a_rollout_has_one_score_for_each_sentence_or_no_line() {
        let two = || rollout(&["One.", "Two."]);
        // Part files may contain the scores in any order.
        let rows = vec![score(1, "Two.", 0.2, "a"), score(0, "One.", 1.0, "a")];
        let sample = scored(two(), rows, &opinions(&["a"]), false, "scores").unwrap().unwrap();
        assert_eq!((sample.scores.as_slice(), sample.text.as_str()), ([1.0, 0.2].as_slice(), "One. Two."));
        assert_eq!(reason(rollout(&[]), vec![], false), Some(Reason::Empty));
        assert_eq!(reason(two(), vec![], false), Some(Reason::Pending));
        assert_eq!(reason(two(), vec![], true), Some(Reason::Rejected));
        assert_eq!(reason(two(), vec![score(0, "One.", 1.0, "a")], false), Some(Reason::PartlyScored));
        assert_eq!(reason(two(), vec![score(0, "Uno.", 1.0, "a")], false), Some(Reason::OtherText));
        assert_eq!(reason(two(), vec![score(2, "Two.", 1.0, "a")], false), Some(Reason::OtherText));
    }

    #[test]
    fn several_opinions_are_combined_and_one_has_one_score() {
        let both = opinions(&["a", "b"]);
        let rows = || vec![score(0, "One.", 1.0, "a"), score(0, "One.", 0.5, "b")];
        let sample = scored(rollout(&["One."]), rows(), &both, false, "scores").unwrap().unwrap();
        assert_eq!((sample.scores, sample.spreads, sample.teacher.as_str()), (vec![0.75], vec![0.5], "a, b"));
        // One of them alone.
        let sample =
            scored(rollout(&["One."]), rows().split_off(1), &both, false, "scores").unwrap().unwrap();
        assert_eq!((sample.scores, sample.spreads, sample.teacher.as_str()), (vec![0.5], vec![0.0], "b"));
        let twice = [rows(), rows().split_off(1)].concat();
        let error = scored(rollout(&["One."]), twice, &both, false, "scores/round").unwrap_err();
        let expected = "scores/round: expected one row for sentence 0 of rollout `p-r1-s0` by each opinion, found 2, by b";
        assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 2));
    }
}
