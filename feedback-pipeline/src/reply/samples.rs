//! Scores of several samples: `{"scores":[{"sample":1,"sentence":1,"score":0.7}, …]}`.
//!
//! What can be used is used: a sample whose sentences all have one score counts, whatever became of the others, also where
//! the reply was cut off behind it.

use super::objects::Objects;
use super::{answer_part, scores};
use crate::items::samples::{Listed, home};
use crate::teacher::{Ended, Envelope, lenient};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The example in the instructions, which some models repeat before they answer.
const EXAMPLE: [(usize, usize, f32); 2] = [(1, 1, 0.7), (2, 1, 0.0)];

/// Scores of one sentence, by sample and number from 1; none where its entries cannot be used.
type Found = HashMap<(usize, usize), Option<f32>>;

/// The scores of one sample, from 0, in a reply to several; an error says why there are none.
pub(super) fn read(list: &[Listed], sample: usize, reply: &Envelope) -> Result<Vec<f32>, String> {
    if reply.ended == Ended::Refused {
        return Err("refusal".to_owned());
    }
    let found = found(list, reply).map_err(|why| match reply.ended {
        Ended::Truncated => "truncated".to_owned(),
        _ => format!("malformed: {why}"),
    })?;
    let sentences = list.get(sample).map_or(0, |listed| listed.sentences);
    let scores = (0..sentences).map(|sentence| {
        let place = (home(list, sample, sentence) + 1, sentence + 1);
        found.get(&place).copied().flatten().ok_or_else(|| match reply.ended {
            Ended::Truncated => "truncated".to_owned(),
            _ => format!("malformed: sentence {} of sample {} has no score", place.1, place.0),
        })
    });
    scores.collect()
}

fn found(list: &[Listed], reply: &Envelope) -> Result<Found, String> {
    let text = if reply.text.trim().is_empty() { &reply.reasoning } else { &reply.text };
    let text = answer_part(text)?;
    let objects = Objects::of(&text);
    let mut answers: Vec<Vec<Value>> = Vec::new();
    for (number, object) in objects.whole.iter().enumerate() {
        add_broken(&mut answers, &objects, number);
        answers.extend(object.with_inner().into_iter().filter_map(entries));
    }
    add_broken(&mut answers, &objects, objects.whole.len());
    let mut read = Vec::new();
    for entries in &answers {
        read.push(of_entries(list, entries)?);
    }
    if let [first, _, ..] = &read[..]
        && is_example(first)
    {
        read.remove(0);
    }
    let mut read = read.into_iter();
    let mut found = read.next().ok_or("it holds no list of scores")?;
    for more in read {
        for (place, score) in more {
            // A sentence with two different scores has none.
            let known = found.entry(place).or_insert(score);
            if *known != score {
                *known = None;
            }
        }
    }
    Ok(found)
}

fn entries(object: &Map<String, Value>) -> Option<Vec<Value>> {
    object.get("scores")?.as_array().filter(|list| !list.is_empty()).cloned()
}

/// The whole entries of a list that was cut off, where the broken object stands before so many whole ones.
fn add_broken(answers: &mut Vec<Vec<Value>>, objects: &Objects, number: usize) {
    let Some((_, broken, _)) = objects.broken.as_ref().filter(|(before, ..)| *before == number) else {
        return;
    };
    let list = broken.split_once("\"scores\"").and_then(|(_, rest)| rest.split_once('['));
    let Some((_, mut rest)) = list else { return };
    let mut entries = Vec::new();
    while let Some(at) = rest.find('{') {
        rest = rest.get(at..).unwrap_or_default();
        let Ok((entry, length)) = lenient::prefix::<Value>(rest) else { break };
        entries.push(entry);
        rest = rest.get(length..).unwrap_or_default();
    }
    if !entries.is_empty() {
        answers.push(entries);
    }
}

/// Scores by sample and sentence. A number of a sample or sentence that is not there spoils the reply, or the sample: who
/// counts otherwise means others.
fn of_entries(list: &[Listed], entries: &[Value]) -> Result<Found, String> {
    let mut found = Found::new();
    let mut spoiled = Vec::new();
    for entry in entries.iter().filter_map(Value::as_object) {
        let Some(sample) = entry.get("sample").and_then(scores::index) else { continue };
        let Some(listed) = sample.checked_sub(1).and_then(|place| list.get(place)) else {
            return Err(format!("there is no sample {sample}, only 1 to {}", list.len()));
        };
        let sentence = entry.get("sentence").and_then(scores::index);
        let Some(sentence) = sentence.filter(|number| (1..=listed.sentences).contains(number)) else {
            spoiled.push(sample);
            continue;
        };
        let score =
            entry.get("score").and_then(scores::number_of).filter(|score| (0.0..=1.0).contains(score));
        let score = score.map(|score| score as f32);
        let known = found.entry((sample, sentence)).or_insert(score);
        if *known != score {
            *known = None;
        }
    }
    found.retain(|(sample, _), _| !spoiled.contains(sample));
    Ok(found)
}

fn is_example(found: &Found) -> bool {
    found.len() == EXAMPLE.len()
        && EXAMPLE
            .iter()
            .all(|(sample, sentence, score)| found.get(&(*sample, *sentence)) == Some(&Some(*score)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list() -> Vec<Listed> {
        Listed::list(&[vec!["a", "b"], vec!["c"], vec!["a", "d"]])
    }

    fn envelope(text: &str, ended: Ended) -> Envelope {
        Envelope { text: text.into(), reasoning: String::new(), has_thought: false, ended, usage: None }
    }

    fn read_all(text: &str, ended: Ended) -> Vec<Result<Vec<f32>, String>> {
        (0..3).map(|sample| read(&list(), sample, &envelope(text, ended))).collect()
    }

    fn entry(sample: u32, sentence: u32, score: f32) -> String {
        format!("{{\"sample\":{sample},\"sentence\":{sentence},\"score\":{score}}}")
    }

    fn reply(entries: &[(u32, u32, f32)]) -> String {
        let entries: Vec<_> = entries.iter().map(|(a, b, c)| entry(*a, *b, *c)).collect();
        format!("{{\"scores\":[{}]}}", entries.join(","))
    }

    const WHOLE: [(u32, u32, f32); 4] = [(1, 1, 0.5), (1, 2, 0.25), (2, 1, 1.0), (3, 2, 0.75)];

    #[test]
    fn a_sentence_that_is_listed_once_counts_for_each_sample() {
        let text = reply(&WHOLE);
        let expected = [Ok(vec![0.5, 0.25]), Ok(vec![1.0]), Ok(vec![0.5, 0.75])];
        assert_eq!(read_all(&text, Ended::Complete), expected);
        assert_eq!(read_all(&format!("```json\n{text}\n```"), Ended::Complete), expected);
        assert_eq!(read_all(&format!("<think>{{\"scores\":[]}}</think>{text}"), Ended::Complete), expected);
        let example = reply(&[(1, 1, 0.7), (2, 1, 0.0)]);
        assert_eq!(read_all(&format!("As in {example}: {text}"), Ended::Complete), expected);
        let and_more = reply(&[&WHOLE[..], &[(3, 1, 0.0)]].concat());
        assert_eq!(read_all(&and_more, Ended::Complete), expected, "what was not asked is left aside");
    }

    #[test]
    fn what_can_be_used_of_a_bad_reply_is_kept() {
        let usable = |text: &str, ended| read_all(text, ended).iter().map(Result::is_ok).collect::<Vec<_>>();
        let text = reply(&WHOLE);
        assert_eq!(usable(&reply(&WHOLE[..3]), Ended::Complete), [true, true, false]);
        assert_eq!(
            usable(&reply(&WHOLE[1..]), Ended::Complete),
            [false, true, false],
            "1.1 is of two samples"
        );
        let cut = &text[..text.len() - 20];
        assert_eq!(usable(cut, Ended::Truncated), [true, true, false]);
        assert_eq!(read_all(cut, Ended::Truncated)[2], Err("truncated".to_owned()));
        assert_eq!(usable(&text, Ended::Refused), [false; 3]);
        assert_eq!(
            usable(&format!("{text} {}", reply(&[(2, 1, 0.0)])), Ended::Complete),
            [true, false, true]
        );
        let odd = text.replace(&entry(2, 1, 1.0), &entry(2, 7, 1.0));
        assert_eq!(usable(&odd, Ended::Complete), [true, false, true]);
        let high = text.replace(&entry(2, 1, 1.0), &entry(2, 1, 1.5));
        assert_eq!(usable(&high, Ended::Complete), [true, false, true]);
        let from_zero = reply(&[(0, 1, 0.5), (0, 2, 0.25), (1, 1, 1.0), (2, 1, 0.75)]);
        assert_eq!(usable(&from_zero, Ended::Complete), [false; 3], "it counts otherwise");
        for nothing in ["", "no", "{}", "{\"scores\":[{\"sentence\":1,\"score\":1}]}", "{\"scores\":[]}"] {
            assert_eq!(usable(nothing, Ended::Complete), [false; 3], "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\{|\\}|\"scores\"|\"sample\"|\\[|\\]|:|,|1| |é){0,40}") {
            let _ = read_all(&text, Ended::Truncated);
        }

        #[test]
        fn a_reply_cut_anywhere_gives_right_scores_or_none(cut in 0_usize..200) {
            let (text, whole) = (reply(&WHOLE), read_all(&reply(&WHOLE), Ended::Complete));
            let part = text.get(..cut.min(text.len())).unwrap();
            for (part, whole) in read_all(part, Ended::Truncated).into_iter().zip(whole) {
                prop_assert!(part.is_err() || part == whole);
            }
        }
    }
}
