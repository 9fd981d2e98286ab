//! Reading what the Teacher said: the first JSON object in the text that fits what was asked for.
//!
//! A reply that does not fit is told why in words that the Teacher can act on.

mod correction;
mod judgement;
mod scores;
pub mod verdict;

pub use judgement::Better;

use crate::items::Content;
use serde_json::{Map, Value};

/// A usable reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A score for each sentence, in order.
    Scores(Vec<f32>),
    /// The corrected rationale.
    Correction(String),
    /// Which rationale is better.
    Judgement(Better),
}

/// Reads a reply to `content`; an error says why it cannot be used.
pub fn read(content: &Content, text: &str) -> Result<Answer, String> {
    let mut reason = None;
    for object in objects(text).flat_map(|outer| with_inner(outer, DEEPEST)) {
        let answer = match content {
            Content::Scores { sentences, .. } => scores::read(&object, sentences.len()).map(Answer::Scores),
            Content::Correction { .. } => correction::read(&object).map(Answer::Correction),
            Content::Judgement { .. } => judgement::read(&object).map(Answer::Judgement),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(why) => reason = reason.or(Some(why)),
        }
    }
    Err(reason.unwrap_or_else(|| match text.trim() {
        "" => "it is empty".to_owned(),
        _ => "it holds no JSON object".to_owned(),
    }))
}

/// What a Teacher is told when its reply could not be used.
pub fn complaint(reason: &str) -> String {
    format!(
        "Your reply could not be used: {reason}. Reply again with one JSON object in the format that was asked for, and nothing else."
    )
}

/// All JSON objects in a text, from left to right, those inside others left out unless the outer one is broken.
fn objects(text: &str) -> impl Iterator<Item = Map<String, Value>> + '_ {
    /// More opening braces than any honest reply has; bounds the work on a hostile one.
    const MOST_TRIES: usize = 200;
    let mut from = 0;
    let mut tries = 0;
    std::iter::from_fn(move || {
        while tries < MOST_TRIES {
            let start = from + text.get(from..)?.find('{')?;
            tries += 1;
            let mut stream =
                serde_json::Deserializer::from_str(text.get(start..)?).into_iter::<Map<String, Value>>();
            if let Some(Ok(object)) = stream.next() {
                from = start + stream.byte_offset();
                return Some(object);
            }
            from = start + 1;
        }
        None
    })
}

/// Objects inside an object that may hold the answer: `{"result": {"scores": …}}`.
const DEEPEST: u32 = 3;

/// An object and then those among its values, down to some depth; lists hold parts of an answer, no answers.
fn with_inner(object: Map<String, Value>, depth: u32) -> Vec<Map<String, Value>> {
    let mut all = Vec::new();
    if depth > 0 {
        for value in object.values() {
            if let Value::Object(inner) = value {
                all.extend(with_inner(inner.clone(), depth - 1));
            }
        }
    }
    all.insert(0, object);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_found_in_another() {
        let text = "{\"result\":{\"scores\":[{\"sentence\":1,\"score\":0.5}]}}";
        assert_eq!(read(&scores(1), text), Ok(Answer::Scores(vec![0.5])));
        let first = "{\"result\":{\"scores\":{}},\"more\":1}";
        assert_eq!(read(&scores(1), first), Err("`scores` is missing".to_owned()), "the outermost says why");
    }

    fn scores(count: usize) -> Content {
        Content::Scores { sample: 0, sentences: vec!["a".into(); count] }
    }

    #[test]
    fn object_is_found_in_chatter() {
        let text = "Sure {not json}! Here: ```json\n{\"note\":1}\n{\"scores\":[{\"sentence\":1,\"score\":0.5}]}\n```";
        assert_eq!(read(&scores(1), text), Ok(Answer::Scores(vec![0.5])));
    }

    #[test]
    fn reasons_are_told() {
        let table = [
            ("", "it is empty"),
            ("nothing here", "it holds no JSON object"),
            ("{\"scores\":[", "it holds no JSON object"),
            ("{\"score\":1}", "`scores` is missing"),
            ("{\"scores\":{}}", "`scores` is no list"),
            ("{\"scores\":[{\"sentence\":1,\"score\":0.1}]}", "sentence 2 has no score"),
            (
                "{\"scores\":[{\"sentence\":1,\"score\":1.5},{\"sentence\":2,\"score\":1}]}",
                "the score of sentence 1 is 1.5, not within 0.0 and 1.0",
            ),
            (
                "{\"scores\":[{\"sentence\":1,\"score\":\"high\"},{\"sentence\":2,\"score\":1}]}",
                "the score of sentence 1 is \"high\", not a number",
            ),
            (
                "{\"scores\":[{\"sentence\":1,\"score\":0.1},{\"sentence\":1,\"score\":0.1}]}",
                "sentence 1 is scored twice",
            ),
            ("{\"scores\":[{\"sentence\":3,\"score\":0.1}]}", "there is no sentence 3, only 1 to 2"),
            ("{\"scores\":[{\"sentence\":-1,\"score\":0.1}]}", "-1 is no sentence number"),
            ("{\"scores\":[{\"score\":0.1}]}", "an entry has no `sentence`"),
            ("{\"scores\":[{\"sentence\":1}]}", "sentence 1 has no `score`"),
            ("{\"scores\":[0.1,0.2]}", "an entry of `scores` is no object"),
        ];
        for (text, reason) in table {
            assert_eq!(read(&scores(2), text), Err(reason.to_owned()), "{text}");
        }
        let correction = Content::Correction { rationale: "a".into() };
        for (text, reason) in [
            ("{\"rationale\":\" \"}", "`rationale` is empty"),
            ("{\"rationale\":1}", "`rationale` is no text"),
            ("{}", "`rationale` is missing"),
        ] {
            assert_eq!(read(&correction, text), Err(reason.to_owned()), "{text}");
        }
        let judgement = Content::Judgement {
            against: "base".into(),
            candidate: "a".into(),
            baseline: "b".into(),
            candidate_shown_first: true,
        };
        assert_eq!(
            read(&judgement, "{\"better\":\"C\"}"),
            Err("`better` is \"C\", not \"A\", \"B\" or \"tie\"".to_owned())
        );
        assert_eq!(read(&judgement, "{\"better\":\"tie\"}"), Ok(Answer::Judgement(Better::Tie)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", count in 0_usize..4) {
            let _ = read(&scores(count), &text);
        }

        #[test]
        fn scores_come_back(values in proptest::collection::vec(0.0_f32..=1.0, 1..12), before in "[^{]{0,20}") {
            let list: Vec<_> = values.iter().enumerate().rev()
                .map(|(index, score)| serde_json::json!({"sentence": index + 1, "score": score})).collect();
            let text = format!("{before}{}", serde_json::json!({"scores": list}));
            proptest::prop_assert_eq!(read(&scores(values.len()), &text), Ok(Answer::Scores(values)));
        }
    }
}
