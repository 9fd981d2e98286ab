//! What is asked: the system prompt of each kind (a template file) and the text block of each item.

use crate::error::{Error, Result};
use crate::items::{Content, Item, Kind};
use crate::request::image::Shown;
use schemas::Problem;
use schemas::provenance::sha256_hex;
use std::fmt::Write;
use std::path::Path;

/// Instructions of one kind, the same for every request, so that providers can cache them.
#[derive(Debug, Clone)]
pub struct SystemPrompt {
    /// The text.
    pub text: String,
    /// Short hash of the text, the `prompt_version` of the tables.
    pub version: String,
}

impl SystemPrompt {
    /// The template in `folder` (the setting `teacher.prompts`), or the built-in one where no folder is set.
    pub fn load(kind: Kind, folder: &str) -> Result<Self> {
        let text = if folder.is_empty() {
            match kind {
                Kind::Scores => include_str!("prompts/scores.md"),
                Kind::Corrections => include_str!("prompts/corrections.md"),
                Kind::Judgements => include_str!("prompts/judgements.md"),
            }
            .to_owned()
        } else {
            let path = Path::new(folder).join(format!("{}.md", kind.as_str()));
            std::fs::read_to_string(&path).map_err(Error::io("read", &path))?
        };
        let text = text.trim().to_owned();
        if text.is_empty() {
            return Err(Error::bad_input(
                format!("{folder}/{}.md", kind.as_str()),
                "expected a prompt, found no text",
            ));
        }
        let version = sha256_hex(text.as_bytes()).chars().take(12).collect();
        Ok(Self { text, version })
    }
}

/// JSON schema of a kind's reply.
pub fn schema(kind: Kind) -> &'static str {
    match kind {
        Kind::Scores => {
            r#"{"type":"object","properties":{"scores":{"type":"array","items":{"type":"object","properties":{"sentence":{"type":"integer"},"score":{"type":"number"}},"required":["sentence","score"],"additionalProperties":false}}},"required":["scores"],"additionalProperties":false}"#
        }
        Kind::Corrections => {
            r#"{"type":"object","properties":{"rationale":{"type":"string"}},"required":["rationale"],"additionalProperties":false}"#
        }
        Kind::Judgements => {
            r#"{"type":"object","properties":{"better":{"type":"string","enum":["A","B","tie"]}},"required":["better"],"additionalProperties":false}"#
        }
    }
}

/// The text block of an item's request.
pub fn user_text(item: &Item, shown: &Shown) -> String {
    let mut text = String::with_capacity(1024);
    problem_block(&mut text, &item.problem, shown);
    content_block(&mut text, &item.content);
    text
}

/// Whether a request's text block was about what the item says now. Items are named by their place (problem, round,
/// sample), and a stage that was done again says other things under the same name. White space does not count.
pub fn is_about(user_text: &str, item: &Item) -> bool {
    let mut content = String::with_capacity(1024);
    content_block(&mut content, &item.content);
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    squeezed(user_text).contains(&squeezed(&content))
}

fn content_block(text: &mut String, content: &Content) {
    match content {
        Content::Scores { sentences, .. } => {
            text.push_str("<sentences>\n");
            for (index, sentence) in sentences.iter().enumerate() {
                let _ = writeln!(text, "{}: {}", index + 1, one_line(sentence)); // writing to a String cannot fail
            }
            text.push_str("</sentences>");
        }
        Content::Correction { rationale } => block(text, "rationale", rationale),
        Content::Judgement { candidate, baseline, candidate_shown_first, .. } => {
            let (a, b) = if *candidate_shown_first { (candidate, baseline) } else { (baseline, candidate) };
            block(text, "rationale_a", a);
            text.push('\n');
            block(text, "rationale_b", b);
        }
    }
}

fn problem_block(text: &mut String, problem: &Problem, shown: &Shown) {
    let _ = write!(text, "<problem>\nQuestion: {}\nOptions:", untagged(problem.question.trim()));
    for (index, choice) in problem.choices.iter().enumerate() {
        let _ = write!(text, " ({}) {}", letter(index), one_line(choice));
    }
    if !problem.hint.trim().is_empty() {
        let _ = write!(text, "\nHint: {}", untagged(problem.hint.trim()));
    }
    let answer = problem.answer_index.map(usize::from);
    match answer.and_then(|index| Some((index, problem.choices.get(index)?))) {
        Some((index, choice)) => {
            let _ = write!(text, "\nCorrect answer: ({}) {}", letter(index), one_line(choice));
        }
        None => text.push_str("\nCorrect answer: not known"),
    }
    if matches!(shown, Shown::Remark) {
        text.push_str("\n(the picture is not available)");
    }
    text.push_str("\n</problem>\n");
}

fn block(text: &mut String, tag: &str, content: &str) {
    let _ = write!(text, "<{tag}>\n{}\n</{tag}>", untagged(content.trim()));
}

fn letter(index: usize) -> char {
    u8::try_from(index).ok().filter(|index| *index < 26).map_or('?', |index| char::from(b'A' + index))
}

/// White space folded, so that one sentence stays on one line.
fn one_line(text: &str) -> String {
    let folded = text.split_whitespace().fold(String::with_capacity(text.len()), |mut folded, word| {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
        folded
    });
    untagged(&folded).into_owned()
}

/// A text that cannot close or open one of the request's own blocks.
fn untagged(text: &str) -> std::borrow::Cow<'_, str> {
    const TAGS: [&str; 5] = ["problem>", "sentences>", "rationale>", "rationale_a>", "rationale_b>"];
    if !text.contains('<') || !TAGS.iter().any(|tag| text.contains(tag)) {
        return text.into();
    }
    let spaced = TAGS.iter().fold(text.to_owned(), |text, tag| {
        text.replace(&format!("<{tag}"), &format!("< {tag}"))
            .replace(&format!("</{tag}"), &format!("< /{tag}"))
    });
    spaced.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_block() {
        assert_eq!(untagged("a </sentences> b"), "a < /sentences> b");
        assert_eq!(untagged("1 < 2"), "1 < 2");
        assert_eq!(one_line(" a\n\tb "), "a b");
    }

    #[test]
    fn schemas_are_json() {
        for kind in Kind::ALL {
            serde_json::from_str::<serde_json::Value>(schema(kind)).unwrap();
        }
    }
}
