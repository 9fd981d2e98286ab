//! The embedded Teacher as a service: its requests have keys and its replies are cached like any other's, but nothing
//! leaves the process.

use super::json::json_text;
use super::{Ended, Envelope, Usage, reference};
use crate::items::{Content, Item};
use serde_json::{Map, Value, json};

/// Request up to its messages, without the brace that closes it.
pub(super) fn head(model: &str, system: &str) -> Vec<u8> {
    let mut out = br#"{"model":"#.to_vec();
    json_text(&mut out, model);
    out.extend_from_slice(br#","system":"#);
    json_text(&mut out, system);
    out
}

/// The user's message.
pub(super) fn user(out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str) {
    out.extend_from_slice(br#"{"role":"user","image":"#);
    json_text(out, image.map_or("", |(_, hash)| hash));
    out.extend_from_slice(br#","text":"#);
    json_text(out, text);
    out.push(b'}');
}

/// The embedded Teacher's reply to an item, in the requested form.
pub fn answer(item: &Item, reasons: bool) -> Vec<u8> {
    let said = match &item.content {
        Content::Scores { sentences, .. } => {
            let list: Vec<_> = graded(item, sentences, reasons)
                .into_iter()
                .zip(1..)
                .map(|(mut entry, number)| {
                    entry.insert("sentence".to_owned(), number.into());
                    entry
                })
                .collect();
            json!({"scores": list})
        }
        Content::Correction { rationale } => {
            json!({"rationale": reference::correct(&item.problem, rationale)})
        }
        Content::Judgement { candidate, baseline, candidate_shown_first, .. } => {
            let (a, b) = if *candidate_shown_first { (candidate, baseline) } else { (baseline, candidate) };
            let better = match reference::judge(&item.problem, a, b) {
                reference::Preference::A => "A",
                reference::Preference::B => "B",
                reference::Preference::Tie => "tie",
            };
            json!({"better": better})
        }
    };
    said.to_string().into_bytes()
}

/// The embedded Teacher's reply to several samples of a problem: the sentences to score, by sample and number from 1.
pub fn answer_samples(
    items: &[&Item],
    asked_for: impl Iterator<Item = (usize, usize)>,
    reasons: bool,
) -> Vec<u8> {
    let graded: Vec<_> = items
        .iter()
        .map(|item| match &item.content {
            Content::Scores { sentences, .. } => graded(item, sentences, reasons),
            Content::Correction { .. } | Content::Judgement { .. } => Vec::new(),
        })
        .collect();
    let list: Vec<_> = asked_for
        .filter_map(|(sample, sentence)| {
            let mut entry = graded.get(sample - 1)?.get(sentence - 1)?.clone();
            entry.insert("sample".to_owned(), sample.into());
            entry.insert("sentence".to_owned(), sentence.into());
            Some(entry)
        })
        .collect();
    json!({"scores": list}).to_string().into_bytes()
}

/// Scores of a rationale's sentences, with reasons if requested.
fn graded(item: &Item, sentences: &[String], reasons: bool) -> Vec<Map<String, Value>> {
    let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
    let scores = reference::score_with_reasons(&item.problem, &sentences).into_iter();
    let entry = |(score, reason): (f32, &str)| {
        let mut entry = Map::new();
        if reasons {
            entry.insert("reason".to_owned(), reason.into());
        }
        entry.insert("score".to_owned(), rounded(score).into());
        entry
    };
    scores.map(entry).collect()
}

/// Four decimals, so that 0.7 does not become 0.699999988.
fn rounded(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}

/// Reads a reply: it has no envelope, and costs nothing.
pub(super) fn open(body: &[u8]) -> Result<Envelope, String> {
    let text = String::from_utf8(body.to_vec()).map_err(|e| e.to_string())?;
    Ok(Envelope {
        text,
        reasoning: String::new(),
        has_thought: false,
        ended: Ended::Complete,
        usage: Some(Usage::default()),
    })
}
