//! Reasons of scores, if a reply has any. They are optional: a score without one is valid.

use super::objects::Objects;
use super::{answer_part, scores};
use crate::items::samples::{Listed, home};
use crate::teacher::Envelope;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The reasons of the scores that a reply gives to one rationale, `None` where there is none.
pub fn of_one(reply: &Envelope, scores: &[f32]) -> Vec<Option<String>> {
    let found = found(reply, false);
    let of = |(sentence, score): (usize, &f32)| found.get(&(0, sentence, score.to_bits())).cloned();
    (1..).zip(scores).map(of).collect()
}

/// The same for the sample at `place`, from 0, of a reply to several.
pub fn of_sample(reply: &Envelope, list: &[Listed], place: usize, scores: &[f32]) -> Vec<Option<String>> {
    let found = found(reply, true);
    let of = |(sentence, score): (usize, &f32)| {
        let sample = home(list, place, sentence) + 1;
        found.get(&(sample, sentence + 1, score.to_bits())).cloned()
    };
    scores.iter().enumerate().map(of).collect()
}

/// Reasons by sample, sentence and score; of several the last counts.
fn found(reply: &Envelope, has_samples: bool) -> HashMap<(usize, usize, u32), String> {
    let text = if reply.text.trim().is_empty() { &reply.reasoning } else { &reply.text };
    let Ok(text) = answer_part(text) else { return HashMap::new() };
    let objects = Objects::of(&text);
    let mut found = HashMap::new();
    for fields in objects.whole.iter().flat_map(|object| object.with_inner()) {
        let entries = fields.get("scores").and_then(Value::as_array);
        for entry in entries.into_iter().flatten().filter_map(Value::as_object) {
            if let Some((place, reason)) = entry_of(entry, has_samples) {
                found.insert(place, reason);
            }
        }
    }
    found
}

fn entry_of(entry: &Map<String, Value>, has_samples: bool) -> Option<((usize, usize, u32), String)> {
    let sample = if has_samples { entry.get("sample").and_then(scores::index)? } else { 0 };
    let sentence = entry.get("sentence").and_then(scores::index)?;
    let score = entry.get("score").and_then(scores::number_of)? as f32;
    let reason = entry.get("reason")?.as_str()?.trim();
    let is_said = reason.contains(char::is_alphanumeric);
    is_said.then(|| ((sample, sentence, score.to_bits()), reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::Ended;

    fn envelope(text: &str) -> Envelope {
        let reasoning = String::new();
        Envelope { text: text.into(), reasoning, has_thought: false, ended: Ended::Complete, usage: None }
    }

    #[test]
    fn reasons_belong_to_the_scores_that_count() {
        let text = r#"As in {"scores":[{"sentence":1,"reason":"…","score":0.7},{"sentence":2,"reason":"…","score":0.0}]}:
            {"scores":[{"sentence":1,"reason":" True. ","score":0.7},{"sentence":2,"reason":1,"score":0.5},{"sentence":3,"score":1}]}"#;
        assert_eq!(of_one(&envelope(text), &[0.7, 0.5, 1.0]), [Some("True.".to_owned()), None, None]);
        assert_eq!(of_one(&envelope(text), &[0.1]), [None], "another score has another reason");
        assert_eq!(of_one(&envelope("no"), &[0.1]), [None]);
        let list = Listed::list(&[vec!["a", "b"], vec!["a", "c"]]);
        let several = r#"{"scores":[{"sample":1,"sentence":1,"reason":"A.","score":0.7},{"sample":1,"sentence":2,"reason":"B.","score":0.5},{"sample":2,"sentence":2,"reason":"C.","score":0.5}]}"#;
        let of = |place| of_sample(&envelope(several), &list, place, &[0.7, 0.5]);
        assert_eq!(of(0), [Some("A.".to_owned()), Some("B.".to_owned())]);
        assert_eq!(of(1), [Some("A.".to_owned()), Some("C.".to_owned())]);
    }
}
