//! Parses replies: thinking is removed, and the answer is the last JSON object of the requested form. Several
//! such objects that differ are not an answer.
//!
//! If a reply does not fit, the reason is given in words that the Teacher can act on.

mod answer;
mod correction;
mod fitting;
mod judgement;
mod objects;
mod placeholder;
pub mod reasons;
mod samples;
mod scores;
mod thinking;
pub mod verdict;

pub use answer::Answer;
pub use judgement::Better;

use crate::items::Content;
use crate::teacher::{Ended, Envelope};
use answer::EMPTY;
use fitting::resolve;
use objects::Objects;
use serde_json::{Map, Value};

const ENDLESS_THINKING: &str = "its thinking does not end";

/// Reads a reply to `content`; an error says why it cannot be used.
///
/// A truncated reply is valid if its answer is complete and only white space follows. A reply without a text
/// is valid if its only answer is at the end of its thinking.
pub fn read(content: &Content, reply: &Envelope) -> Result<Answer, String> {
    match (reply.ended, reply.text.trim().is_empty()) {
        (Ended::Truncated, _) => read_last(content, &reply.text),
        (_, true) => read_last(content, &reply.reasoning).map_err(|_| EMPTY.to_owned()),
        (_, false) => read_text(content, &reply.text),
    }
}

/// True if a truncated reply ends within its thinking.
pub fn is_all_thinking(reply: &Envelope) -> bool {
    match thinking::cut(&reply.text) {
        None => true,
        Some(rest) => rest.trim().is_empty() && (reply.has_thought || !reply.text.trim().is_empty()),
    }
}

/// Parses a text.
pub fn read_text(content: &Content, text: &str) -> Result<Answer, String> {
    let text = answer_part(text)?;
    resolve(content, &Objects::of(&text), &text)
}

/// Parses a text that must end with its answer.
fn read_last(content: &Content, text: &str) -> Result<Answer, String> {
    let text = answer_part(text)?;
    let objects = Objects::of(&text);
    match objects.rest.trim_matches(|c: char| c.is_whitespace() || c == '`').is_empty() {
        true => resolve(content, &objects, &text),
        false => Err("it does not end with an answer".to_owned()),
    }
}

/// The part of a text that may hold the answer.
fn answer_part(text: &str) -> Result<String, String> {
    // An answer written as a JSON string that contains JSON.
    let unwrapped = text.trim().starts_with('"').then(|| serde_json::from_str::<String>(text).ok()).flatten();
    let text = unwrapped.as_deref().unwrap_or(text);
    // A text that is a single object is not thinking, whatever it contains.
    let is_one_object = || serde_json::from_str::<Map<String, Value>>(text).is_ok();
    match thinking::cut(text) {
        Some(rest) if rest.len() == text.len() => Ok(text.to_owned()),
        _ if is_one_object() => Ok(text.to_owned()),
        Some(rest) => Ok(rest.to_owned()),
        None => Err(ENDLESS_THINKING.to_owned()),
    }
}

/// The complaint sent to a Teacher whose reply could not be used.
pub fn complaint(reason: &str) -> String {
    format!(
        "Your reply could not be used: {reason}. Reply again with one JSON object in the format that was asked for, and nothing else."
    )
}

#[cfg(test)]
mod tests {
    use super::fitting::DIFFERENT_ANSWERS;
    use super::*;

    #[test]
    fn object_is_found_in_another() {
        let text = "{\"result\":{\"scores\":[{\"sentence\":1,\"score\":0.5}]}}";
        assert_eq!(read_text(&scores(1), text), Ok(Answer::Scores(vec![0.5])));
        let first = "{\"result\":{\"scores\":{}},\"more\":1}";
        assert_eq!(
            read_text(&scores(1), first),
            Err("`scores` is no list".to_owned()),
            "what was meant says why"
        );
    }

    fn scores(count: usize) -> Content {
        Content::Scores { sample: 0, sentences: vec!["a".into(); count] }
    }

    #[test]
    fn object_is_found_in_chatter() {
        let text = "Sure {not json}! Here: ```json\n{\"note\":1}\n{\"scores\":[{\"sentence\":1,\"score\":0.5}]}\n```";
        assert_eq!(read_text(&scores(1), text), Ok(Answer::Scores(vec![0.5])));
    }

    #[test]
    fn reasons_are_told() {
        let table = [
            ("", "it is empty"),
            ("nothing here", "it holds no JSON object"),
            ("{\"scores\":[", "its JSON is broken: EOF while parsing a list at line 1 column 11"),
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
            assert_eq!(read_text(&scores(2), text), Err(reason.to_owned()), "{text}");
        }
        let correction = Content::Correction { rationale: "a".into() };
        for (text, reason) in [
            ("{\"rationale\":\" \"}", "`rationale` is empty"),
            ("{\"rationale\":1}", "`rationale` is no text"),
            ("{}", "`rationale` is missing"),
        ] {
            assert_eq!(read_text(&correction, text), Err(reason.to_owned()), "{text}");
        }
        let judgement = judgement();
        assert_eq!(
            read_text(&judgement, "{\"better\":\"C\"}"),
            Err("`better` is \"C\", not \"A\", \"B\" or \"tie\"".to_owned())
        );
        assert_eq!(read_text(&judgement, "{\"better\":\"tie\"}"), Ok(Answer::Judgement(Better::Tie)));
    }

    fn judgement() -> Content {
        Content::Judgement {
            against: "base".into(),
            candidate: "a".into(),
            baseline: "b".into(),
            candidate_shown_first: true,
        }
    }

    fn correction() -> Content {
        Content::Correction { rationale: "a".into() }
    }

    #[test]
    fn the_last_answer_counts_and_different_ones_are_none() {
        let corrected = |text: &str| read_text(&correction(), text);
        let is = |text: &str| Ok(Answer::Correction(text.to_owned()));
        let draft = r#"{"rationale":"Ice sinks."}"#;
        let answer = r#"{"rationale":"Ice floats."}"#;
        for text in [
            format!("<think>{draft}? No.</think>\n{answer}"),
            format!("{draft}? No.</think>{answer}"),
            format!("<thinking>\n{draft}\n</thinking>\n```json\n{answer}\n```"),
            format!("<reasoning>{draft}</reasoning>{answer}"),
            format!(r#"The format is {{"rationale":"…"}}. {answer}"#),
            format!(r#"{{"rationale":"..."}} {answer}"#),
            format!(r#"{{"rationale":"<the corrected rationale>"}} {answer} as {{"rationale":"…"}}"#),
            format!("{answer} and again {answer}"),
            format!(r#"{answer} in the form of {{"rationale": …}}"#),
            serde_json::to_string(answer).unwrap(),
        ] {
            assert_eq!(corrected(&text), is("Ice floats."), "{text}");
        }
        let different = Err(DIFFERENT_ANSWERS.to_owned());
        for text in [
            format!("{draft}\nWait, that is wrong:\n{answer}"),
            format!("```json\n{draft}\n```\n```json\n{answer}\n```"),
            format!(r#"{{"draft":{draft},"final":{answer}}}"#),
            r#"{"rationale":"Ice sinks.","rationale":"Ice floats."}"#.to_owned(),
        ] {
            assert_eq!(corrected(&text), different, "{text}");
        }
        for text in [
            format!("<think>Perhaps {draft}"),
            format!("{answer}<think>{draft}"),
            format!("<think>{answer}</think>"),
            format!(r#"{answer} Better: {{"rationale":"Ice flo"#),
            format!(r#"{{"before":{draft},"rationale":"Ice flo"#),
            r#"{"rationale":"…"}"#.to_owned(),
        ] {
            assert!(corrected(&text).is_err(), "{text}: {:?}", corrected(&text));
        }
        let tags = r#"{"rationale":"The tag <think> opens, </think> closes."}"#;
        assert_eq!(corrected(tags), is("The tag <think> opens, </think> closes."));
    }

    #[test]
    fn examples_of_the_instructions_are_no_answers() {
        let judged = |text: &str| read_text(&judgement(), text);
        let all = r#"{"better":"A"}, {"better":"B"} or {"better":"tie"}"#;
        assert_eq!(
            judged(&format!("Format: {all}. I say {{\"better\":\"B\"}}")),
            Ok(Answer::Judgement(Better::B))
        );
        assert_eq!(judged(all), Err(DIFFERENT_ANSWERS.to_owned()));
        assert_eq!(judged(r#"{"better":"A"} no, {"better":"TIE"}"#), Err(DIFFERENT_ANSWERS.to_owned()));
        let list = |a: f32, b: f32| {
            format!(r#"{{"scores":[{{"sentence":1,"score":{a}}},{{"sentence":2,"score":{b}}}]}}"#)
        };
        let (example, answer) = (list(0.7, 0.0), list(0.5, 1.0));
        let graded = |text: &str| read_text(&scores(2), text);
        assert_eq!(graded(&format!("As in {example}: {answer}")), Ok(Answer::Scores(vec![0.5, 1.0])));
        assert_eq!(graded(&example), Ok(Answer::Scores(vec![0.7, 0.0])));
        assert_eq!(graded(&format!("{answer} {example}")), Err(DIFFERENT_ANSWERS.to_owned()));
        let three =
            r#"{"scores":[{"sentence":1,"score":1},{"sentence":2,"score":1},{"sentence":3,"score":0}]}"#;
        assert_eq!(
            read_text(&scores(3), &format!("As in {example}: {three}")),
            Ok(Answer::Scores(vec![1.0, 1.0, 0.0]))
        );
        let partly = r#"{"scores":[{"sentence":2,"score":0.2}]}"#;
        assert!(graded(&format!("{answer} Correction: {partly}")).unwrap_err().contains("does not fit"));
    }

    #[test]
    fn lenient_where_the_meaning_is_plain() {
        for text in [
            r#"{"scores":[{"sentence":"1","score":"0.5"},{"sentence":"2","score":" 1 "}]}"#,
            r#"{"scores":[{"sentence":1.0,"score":0.5},{"sentence":2.0,"score":1}],}"#,
            "{\"scores\":[{\"sentence\":1,\"score\":0.5,\"why\":\"a\nb\"},\n{\"sentence\":2,\"score\":1},]}",
        ] {
            assert_eq!(read_text(&scores(2), text), Ok(Answer::Scores(vec![0.5, 1.0])), "{text}");
        }
        for score in ["\"high\"", "\"\"", "\"NaN\"", "\"inf\"", "\"1.5\"", "\"70%\"", "true", "null", "-0.1"]
        {
            let text = format!(r#"{{"scores":[{{"sentence":1,"score":{score}}}]}}"#);
            assert!(read_text(&scores(1), &text).is_err(), "{text}");
        }
        for number in ["1.5", "\"one\"", "-1", "null", "1e99", "\"\""] {
            let text = format!(r#"{{"scores":[{{"sentence":{number},"score":1}}]}}"#);
            assert!(read_text(&scores(1), &text).is_err(), "{text}");
        }
        for (text, rationale) in [
            ("{\"rationale\":\"Line 1.\nLine 2 with \\( x \\).\"}", "Line 1.\nLine 2 with \\( x \\)."),
            (r#"{"rationale":"It is \frac{1}{2}, not rac{1}{3}."}"#, r"It is \frac{1}{2}, not \frac{1}{3}."),
            (r#"{"rationale":"Half \ud83d pair."}"#, "Half \u{fffd} pair."),
        ] {
            assert_eq!(
                read_text(&correction(), text),
                Ok(Answer::Correction(rationale.to_owned())),
                "{text}"
            );
        }
    }

    fn envelope(text: &str, reasoning: &str, ended: Ended) -> Envelope {
        Envelope {
            text: text.into(),
            reasoning: reasoning.into(),
            has_thought: !reasoning.is_empty(),
            ended,
            usage: None,
        }
    }

    #[test]
    fn whole_answers_count_though_the_limit_was_reached() {
        let cut_off = |text: &str| read(&judgement(), &envelope(text, "", Ended::Truncated)).ok();
        let b = Some(Answer::Judgement(Better::B));
        assert_eq!(cut_off("{\"better\":\"B\"} \n \n \n"), b);
        assert_eq!(cut_off("```json\n{\"better\":\"B\"}\n```"), b);
        for text in ["{\"better\":\"B\"", "{\"better\":\"B\"} But then", "<think>{\"better\":\"B\"}", ""] {
            assert_eq!(cut_off(text), None, "{text}");
        }
    }

    #[test]
    fn answers_in_the_field_for_thinking() {
        let thought =
            |text: &str, reasoning: &str| read(&judgement(), &envelope(text, reasoning, Ended::Complete));
        let b = Ok(Answer::Judgement(Better::B));
        assert_eq!(thought("", r#"{"better":"B"}"#), b);
        assert_eq!(thought(" ", r#"B is right, so {"better":"B"}"#), b);
        for reasoning in [r#"{"better":"A"}? No: {"better":"B"}"#, r#"{"better":"B"} Is that so?"#, "Hm.", ""]
        {
            assert_eq!(thought("", reasoning), Err(EMPTY.to_owned()), "{reasoning}");
        }
        assert_eq!(thought(r#"{"better":"B"}"#, r#"{"better":"A"}"#), b, "the text goes first");
        assert!(thought("Hm.", r#"{"better":"A"}"#).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", count in 0_usize..4) {
            let _ = read_text(&scores(count), &text);
        }

        #[test]
        fn scores_come_back(values in proptest::collection::vec(0.0_f32..=1.0, 1..12), before in "[^{]{0,20}") {
            let list: Vec<_> = values.iter().enumerate().rev()
                .map(|(index, score)| serde_json::json!({"sentence": index + 1, "score": score})).collect();
            let text = format!("{before}{}", serde_json::json!({"scores": list}));
            proptest::prop_assert_eq!(read_text(&scores(values.len()), &text), Ok(Answer::Scores(values)));
        }
    }
}
