//! Selects the answer among the objects in a text: the last valid one, if all valid ones agree.

use super::answer::{Answer, EMPTY};
use super::objects::Objects;
use super::placeholder::is_placeholder;
use super::{correction, judgement, scores};
use crate::items::Content;

pub(super) const DIFFERENT_ANSWERS: &str = "it holds several different answers";

/// The result for the objects of a text.
pub(super) fn resolve(content: &Content, objects: &Objects, text: &str) -> Result<Answer, String> {
    let key = match content {
        Content::Scores { .. } => "scores",
        Content::Correction { .. } => "rationale",
        Content::Judgement { .. } => "better",
    };
    let mut fitting = Vec::new();
    // Why none is valid, judged by the last one meant as an answer; and what followed the last valid one.
    let (mut first_reason, mut reason, mut doubt) = (None, None, None);
    for (number, object) in objects.whole.iter().enumerate() {
        for fields in object.with_inner() {
            let answer = match content {
                _ if object.contradictions.iter().any(|name| name == key) => {
                    Err(DIFFERENT_ANSWERS.to_owned())
                }
                Content::Scores { sentences, .. } => {
                    scores::read(fields, sentences.len()).map(Answer::Scores)
                }
                Content::Correction { .. } => correction::read(fields).map(Answer::Correction),
                Content::Judgement { .. } => judgement::read(fields).map(Answer::Judgement),
            };
            match (answer, fields.get(key)) {
                (Ok(answer), _) => {
                    fitting.push(answer);
                    doubt = None;
                }
                (Err(why), Some(value)) => {
                    if !is_placeholder(value) {
                        doubt = Some(why.clone());
                    }
                    reason = Some(why);
                }
                (Err(why), None) => first_reason = first_reason.or(Some(why)),
            }
        }
        if let Some((before, broken, why)) = &objects.broken
            && *before == number + 1
        {
            doubt = doubt.or_else(|| doubt_of_broken(broken, key, why));
        }
    }
    if let Some(last) = without_examples(&fitting).last() {
        return match doubt {
            _ if without_examples(&fitting).iter().any(|other| other != last) => {
                Err(DIFFERENT_ANSWERS.to_owned())
            }
            Some(why) => Err(format!("its last answer does not fit: {why}")),
            None => Ok(last.clone()),
        };
    }
    let broken = objects.broken.as_ref().map(|(_, _, why)| format!("its JSON is broken: {why}"));
    Err(reason.or(broken).or(first_reason).unwrap_or_else(|| match text.trim() {
        "" => EMPTY.to_owned(),
        _ => "it holds no JSON object".to_owned(),
    }))
}

/// A broken object after the answer may be a later answer, unless it only quotes the format.
fn doubt_of_broken(broken: &str, key: &str, why: &str) -> Option<String> {
    let is_quote = broken.contains('…') || broken.contains("...");
    (broken.contains(&format!("\"{key}\"")) && !is_quote).then(|| format!("its JSON is broken: {why}"))
}

/// Answers, without examples from the instructions repeated before them.
fn without_examples(mut answers: &[Answer]) -> &[Answer] {
    loop {
        answers = match answers {
            [Answer::Scores(first), rest @ ..] if !rest.is_empty() && first[..] == scores::EXAMPLE => rest,
            [Answer::Judgement(a), Answer::Judgement(b), Answer::Judgement(c), rest @ ..]
                if !rest.is_empty() && [*a, *b, *c] == judgement::EXAMPLES =>
            {
                rest
            }
            answers => return answers,
        };
    }
}
