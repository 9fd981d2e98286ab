//! Scores of several samples: `{"scores":[{"sample":1,"sentence":1,"score":0.7}, …]}`.
//!
//! Where a reply is sound but for what is missing, a sample whose sentences all have one score counts, whatever became of
//! the others. A reply that may be a draft, or that counts samples and sentences otherwise than the request, gives no score
//! to any.

use super::fitting::DIFFERENT_ANSWERS;
use super::objects::{Object, Objects};
use super::{EMPTY, answer_part, scores};
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
    // A reply without a text counts where the answer stands at the end of its thinking; one that was cut off never came
    // to its text.
    let is_thought = reply.text.trim().is_empty();
    if is_thought && reply.ended == Ended::Truncated {
        return Err(EMPTY.to_owned());
    }
    let text = answer_part(if is_thought { &reply.reasoning } else { &reply.text })?;
    let objects = Objects::of(&text);
    let ends_there = objects.rest.trim_matches(|c: char| c.is_whitespace() || c == '`').is_empty();
    let mut answers = Vec::new();
    for object in &objects.whole {
        answers.extend(answers_of(object)?.iter().map(|entries| of_entries(list, entries)));
    }
    if answers.len() > 1 && answers.first().is_some_and(|first| first.as_ref().is_ok_and(is_example)) {
        drop(answers.remove(0));
    }
    let broken = objects.broken.as_ref().map(|(_, text, _)| text).filter(|text| text.contains("\"scores\""));
    let answers = match (broken, reply.ended) {
        // A list that the limit cut off, if it is all there is: otherwise it may be a draft, or what stands before it.
        (Some(broken), Ended::Truncated) if answers.is_empty() && begins_with(&text, broken) => {
            vec![of_entries(list, &cut_off(broken)?)]
        }
        (Some(_), _) => return Err("its JSON is broken".to_owned()),
        (None, Ended::Complete) if !is_thought => answers,
        (None, _) if ends_there => answers,
        (None, _) => return Err("it does not end with an answer".to_owned()),
    };
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (mut found, earlier) = match answers.split_last() {
        Some((last, earlier)) => (last.clone(), earlier),
        None => return Err("it holds no list of scores".to_owned()),
    };
    let asked = asked(list);
    if is_example(&found) && !(ends_there && asked == EXAMPLE.map(|(sample, sentence, _)| (sample, sentence)))
    {
        return Err("it holds nothing but the example".to_owned());
    }
    for (place, score) in &mut found {
        // A sentence with two different scores has none.
        if earlier.iter().filter_map(|other| other.get(place)).any(|other| other != score) {
            *score = None;
        }
    }
    check_shared(list, &found, &asked)?;
    Ok(found)
}

/// Sample and number, from 1, of each sentence that has a line of its own.
fn asked(list: &[Listed]) -> Vec<(usize, usize)> {
    let all = list
        .iter()
        .enumerate()
        .flat_map(|(sample, listed)| (0..listed.sentences).map(move |at| (sample, at)));
    all.filter(|(sample, at)| home(list, *sample, *at) == *sample)
        .map(|(sample, at)| (sample + 1, at + 1))
        .collect()
}

/// Scores of sentences that have no line of their own: they must be those of the line that stands for them, and nothing
/// may be missing. Who leaves out samples without lines, and counts on, gives the scores of one sample to another.
fn check_shared(list: &[Listed], found: &Found, asked: &[(usize, usize)]) -> Result<(), String> {
    let shared = found.iter().filter_map(|(place, score)| {
        let of = home(list, place.0 - 1, place.1 - 1) + 1;
        (of != place.0).then_some((place, of, score))
    });
    let mut is_any = false;
    for ((sample, sentence), of, score) in shared {
        is_any = true;
        if found.get(&(of, *sentence)) != Some(score) {
            return Err(format!(
                "sentence {sentence} of sample {sample} is that of sample {of}, and has another score"
            ));
        }
    }
    if is_any && let Some((sample, sentence)) = asked.iter().find(|place| !found.contains_key(place)) {
        return Err(format!(
            "sentence {sentence} of sample {sample} has no score, and one without a line has"
        ));
    }
    Ok(())
}

/// The lists of scores in an object.
fn answers_of(object: &Object) -> Result<Vec<Vec<Value>>, String> {
    if object.contradictions.iter().any(|name| name == "scores") {
        return Err(DIFFERENT_ANSWERS.to_owned());
    }
    let entries = |fields: &Map<String, Value>| {
        fields.get("scores")?.as_array().filter(|list| !list.is_empty()).cloned()
    };
    Ok(object.with_inner().into_iter().filter_map(entries).collect())
}

/// Whether nothing but the fence of a code block stands before the object.
fn begins_with(text: &str, object: &str) -> bool {
    let before = text.find(object).and_then(|at| text.get(..at));
    before.is_some_and(|before| {
        matches!(before.trim_matches(|c: char| c.is_whitespace() || c == '`'), "" | "json")
    })
}

/// The whole entries of a list that was cut off.
fn cut_off(broken: &str) -> Result<Vec<Value>, String> {
    if broken.matches("\"scores\"").count() > 1 {
        return Err(DIFFERENT_ANSWERS.to_owned());
    }
    let list = broken.split_once("\"scores\"").and_then(|(_, rest)| rest.split_once('['));
    let (_, mut rest) = list.ok_or("its list of scores is broken")?;
    let mut entries = Vec::new();
    while let Some(entry) = rest.trim_start_matches([' ', '\n', '\r', '\t', ',']).strip_prefix('{') {
        let whole = rest.get(rest.len() - entry.len() - 1..).unwrap_or_default();
        let Ok((value, length)) = lenient::prefix::<Value>(whole) else { break };
        entries.push(value);
        rest = whole.get(length..).unwrap_or_default();
    }
    // Behind the last whole entry there may be one that was cut off, or the end of the list, and nothing else.
    let rest = rest.trim_matches([' ', '\n', '\r', '\t', ',']);
    if entries.is_empty() || !(rest.is_empty() || rest == "]" || rest.starts_with('{')) {
        return Err("its list of scores is broken".to_owned());
    }
    Ok(entries)
}

/// Scores by sample and sentence. A number of a sample or sentence that is not there spoils the reply: who counts otherwise
/// means others.
fn of_entries(list: &[Listed], entries: &[Value]) -> Result<Found, String> {
    let mut found = Found::new();
    for entry in entries.iter().filter_map(Value::as_object) {
        let Some(sample) = entry.get("sample").and_then(scores::index) else { continue };
        let Some(listed) = sample.checked_sub(1).and_then(|place| list.get(place)) else {
            return Err(format!("there is no sample {sample}, only 1 to {}", list.len()));
        };
        let Some(sentence) = entry.get("sentence").and_then(scores::index) else { continue };
        if !(1..=listed.sentences).contains(&sentence) {
            return Err(format!(
                "sample {sample} has no sentence {sentence}, only 1 to {}",
                listed.sentences
            ));
        }
        let score =
            entry.get("score").and_then(scores::number_of).filter(|score| (0.0..=1.0).contains(score));
        let score = score.map(|score| score as f32);
        let known = found.entry((sample, sentence)).or_insert(score);
        if *known != score {
            *known = None;
        }
    }
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
        let again = reply(&[&WHOLE[..], &[(3, 1, 0.5)]].concat());
        assert_eq!(
            read_all(&again, Ended::Complete),
            expected,
            "scored again with the sample that it is part of"
        );
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
            usable(
                &format!("{text} {}", reply(&[&WHOLE[..2], &[(2, 1, 0.0)], &WHOLE[3..]].concat())),
                Ended::Complete
            ),
            [true, false, true]
        );
        let high = text.replace(&entry(2, 1, 1.0), &entry(2, 1, 1.5));
        assert_eq!(usable(&high, Ended::Complete), [true, false, true]);
        let from_zero = reply(&[(0, 1, 0.5), (0, 2, 0.25), (1, 1, 1.0), (2, 1, 0.75)]);
        assert_eq!(usable(&from_zero, Ended::Complete), [false; 3], "it counts otherwise");
        for nothing in ["", "no", "{}", "{\"scores\":[{\"sentence\":1,\"score\":1}]}", "{\"scores\":[]}"] {
            assert_eq!(usable(nothing, Ended::Complete), [false; 3], "{nothing}");
        }
    }

    #[test]
    fn a_reply_that_may_be_a_draft_gives_no_score() {
        let nothing = |reply: &Envelope| (0..3).all(|sample| read(&list(), sample, reply).is_err());
        let text = reply(&WHOLE);
        let other = reply(&[(1, 1, 0.0), (1, 2, 0.0), (2, 1, 0.0), (3, 2, 0.0)]);
        let example = reply(&[(1, 1, 0.7), (2, 1, 0.0)]);
        let half = &other[..other.len() - 20];
        let (complete, truncated) = (Ended::Complete, Ended::Truncated);
        for (text, ended) in [
            (format!("Draft: {text}\nWait, that is wrong. Sample 1"), truncated),
            (format!("Draft: {half}"), truncated),
            (format!("{text} final {half}"), truncated),
            (format!("{half}\nSorry, again: {text}"), complete),
            (format!("{half}\nSorry, again: {text}"), truncated),
            (half.to_owned(), complete),
            (text.replace("]}", "] Wait"), truncated),
            (format!("{{\"scores\":[{}],{}", entry(1, 1, 0.0), &text[1..]), complete),
            (format!("The format is {example}. Let me think"), truncated),
            (example.clone(), complete),
            (format!("{example} I would rather not score these texts."), complete),
            // A sentence that is not there, one without a line that is scored otherwise, and one too many.
            (text.replace(&entry(2, 1, 1.0), &entry(2, 7, 1.0)), complete),
            (reply(&[&WHOLE[..], &[(3, 1, 0.0)]].concat()), complete),
            (reply(&[&WHOLE[..3], &[(3, 1, 0.5)]].concat()), complete),
        ] {
            assert!(nothing(&envelope(&text, ended)), "{text}");
        }
        let thought =
            |reasoning: &str, ended| Envelope { reasoning: reasoning.into(), ..envelope("", ended) };
        assert!(nothing(&thought(&text, truncated)));
        assert!(nothing(&thought(&format!("{text} That is all wrong. I cannot say."), complete)));
        assert!(!nothing(&thought(&format!("Perhaps {text}"), complete)));
        // One sentence each: the answer may be that of the example.
        let two = Listed::list(&[vec!["a"], vec!["b"]]);
        assert_eq!(read(&two, 0, &envelope(&example, complete)), Ok(vec![0.7]));
        let refused = format!("{example} I would rather not.");
        assert!(read(&two, 0, &envelope(&refused, complete)).is_err());
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
