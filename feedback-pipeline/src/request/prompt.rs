//! What is asked: the system prompt of each kind (a template file) and the text block of each item.

use crate::error::{Error, Result};
use crate::items::{Content, Item, Kind};
use crate::request::format;
use crate::request::image::Shown;
use schemas::Problem;
use schemas::provenance::sha256_hex;
use schemas::settings::TeacherSettings;
use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// Instructions of one kind, the same for every request, so that providers can cache them.
#[derive(Debug, Clone)]
pub struct SystemPrompt {
    /// The text.
    pub text: String,
    /// Short hash of the text, the `prompt_version` of the tables.
    pub version: String,
    /// Whether a reason is asked for with each score.
    pub reasons: bool,
}

impl SystemPrompt {
    /// The template in the folder `teacher.prompts`, or the built-in one where no folder is set.
    ///
    /// # Errors
    /// If the file cannot be read, or is empty.
    pub fn load(kind: Kind, teacher: &TeacherSettings) -> Result<Self> {
        let folder = teacher.prompts.as_str();
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
        let prompt = Self::new(text);
        // Answers with and without reasons are to the same rules, so they have one version: nothing is bought again.
        Ok(match kind == Kind::Scores && teacher.reasons {
            true => Self { text: format::with_reasons(&prompt.text), reasons: true, ..prompt },
            false => prompt,
        })
    }

    fn new(text: String) -> Self {
        let version = version_of(&text);
        Self { text, version, reasons: false }
    }

    /// Instructions for scores of several samples at once. Their rules are the same, so answers to them count as answers
    /// to this version.
    pub fn for_samples(&self) -> Self {
        Self { text: format::for_samples(&self.text, self.reasons), ..self.clone() }
    }
}

/// Short hash of instructions.
pub fn version_of(text: &str) -> String {
    sha256_hex(text.as_bytes()).chars().take(12).collect()
}

/// JSON schema of a kind's reply, with reasons where scores are to have them.
pub fn schema(kind: Kind, reasons: bool) -> &'static str {
    match kind {
        Kind::Scores if reasons => {
            r#"{"type":"object","properties":{"scores":{"type":"array","items":{"type":"object","properties":{"sentence":{"type":"integer"},"reason":{"type":"string"},"score":{"type":"number"}},"required":["sentence","reason","score"],"additionalProperties":false}}},"required":["scores"],"additionalProperties":false}"#
        }
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
    problem_block(&mut text, &item.problem, shown, &BLOCKS);
    content_block(&mut text, &item.content);
    text
}

/// A text without what does not count when texts are compared.
pub(super) fn squeezed(text: &str) -> String {
    let bracket = |c: char| match c {
        '<' | '\u{fe64}' | '\u{ff1c}' => '[',
        '>' | '\u{fe65}' | '\u{ff1e}' => ']',
        other => other,
    };
    text.chars().filter(|c| !c.is_whitespace()).map(bracket).collect()
}

pub(super) fn content_block(text: &mut String, content: &Content) {
    match content {
        Content::Scores { sentences, .. } => {
            text.push_str("<sentences>\n");
            for (index, sentence) in sentences.iter().enumerate() {
                let _ = writeln!(text, "{}: {}", index + 1, one_line(sentence, &BLOCKS)); // writing to a String cannot fail
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

pub(super) fn problem_block(text: &mut String, problem: &Problem, shown: &Shown, blocks: &[&str]) {
    let untagged = |text| untagged_of(text, blocks);
    let _ = write!(text, "<problem>\nQuestion: {}\nOptions:", untagged(problem.question.trim()));
    for (index, choice) in problem.choices.iter().enumerate() {
        let _ = write!(text, " ({}) {}", letter(index), one_line(choice, blocks));
    }
    if !problem.hint.trim().is_empty() {
        let _ = write!(text, "\nHint: {}", untagged(problem.hint.trim()));
    }
    let answer = problem.answer_index.map(usize::from);
    match answer.and_then(|index| Some((index, problem.choices.get(index)?))) {
        Some((index, choice)) => {
            let _ = write!(text, "\nCorrect answer: ({}) {}", letter(index), one_line(choice, blocks));
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
pub(super) fn one_line(text: &str, blocks: &[&str]) -> String {
    let folded = text.split_whitespace().fold(String::with_capacity(text.len()), |mut folded, word| {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
        folded
    });
    untagged_of(&folded, blocks).into_owned()
}

/// Names of the blocks in the text of a request about one item.
pub(super) const BLOCKS: [&str; 6] =
    ["problem", "sentences", "rationale", "rationale_a", "rationale_b", "gold"];

/// A text that cannot close or open one of the request's own blocks: anything that could be read as such a tag, in any
/// case and with any white space, is put in square brackets.
pub(super) fn untagged(text: &str) -> Cow<'_, str> {
    untagged_of(text, &BLOCKS)
}

/// The same for blocks of these names.
pub(super) fn untagged_of<'a>(text: &'a str, blocks: &[&str]) -> Cow<'a, str> {
    let mut out = String::new();
    let mut copied = 0;
    for (start, opening) in text.char_indices().filter(|(_, c)| matches!(c, '<' | '\u{fe64}' | '\u{ff1c}')) {
        let after = start + opening.len_utf8();
        let Some(closing) = text.get(after..).and_then(|rest| tag(rest, blocks)) else { continue };
        out.push_str(text.get(copied..start).unwrap_or_default());
        out.push('[');
        copied = after;
        if let Some((place, length)) = closing {
            out.push_str(text.get(after..after + place).unwrap_or_default());
            out.push(']');
            copied = after + place + length;
        }
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out.into()
}

/// Whether what follows a `<` makes it a tag of a block; if the tag ends immediately, position and length of its `>`.
fn tag(rest: &str, blocks: &[&str]) -> Option<Option<(usize, usize)>> {
    let is_slash = |c: char| matches!(c, '/' | '\\' | '\u{2044}' | '\u{2215}' | '\u{ff0f}');
    let mut seen = rest.char_indices().filter(|(_, c)| !is_blank(*c)).peekable();
    while seen.next_if(|(_, c)| is_slash(*c)).is_some() {}
    // Letters of a name follow each other, except for invisible marks.
    let from = seen.peek()?.0;
    let name: String = rest
        .get(from..)?
        .chars()
        .filter(|c| c.is_whitespace() || !is_blank(*c))
        .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        .take(16)
        .flat_map(|c| c.to_uppercase().flat_map(char::to_lowercase))
        .collect();
    if !blocks.contains(&name.as_str()) {
        return None;
    }
    let end = seen.find(|(_, c)| !c.is_alphanumeric() && *c != '_');
    Some(end.filter(|(_, c)| matches!(c, '>' | '\u{fe65}' | '\u{ff1e}')).map(|(at, c)| (at, c.len_utf8())))
}

/// White space, and what takes no room.
fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::about::is_about;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn problem(text: &str) -> Problem {
        Problem {
            problem_id: "p".to_owned(),
            question: text.to_owned(),
            choices: vec![text.to_owned(), "red".to_owned(), "blue".to_owned()],
            answer_index: Some(0),
            hint: text.to_owned(),
            split: "train".to_owned(),
            caption: String::new(),
            lecture: String::new(),
            solution: String::new(),
            image: None,
            subject: None,
            topic: None,
            category: None,
            skill: None,
            grade: None,
            source: "test".to_owned(),
        }
    }

    fn item(problem: Problem, content: Content) -> Item {
        Item { subject_id: "s".to_owned(), round: 1, problem: Arc::new(problem), content }
    }

    fn contents(text: &str) -> [(Content, &'static [&'static str]); 3] {
        let text = text.to_owned();
        [
            (Content::Scores { sample: 0, sentences: vec![text.clone(), text.clone()] }, &["sentences"]),
            (Content::Correction { rationale: text.clone() }, &["rationale"]),
            (
                Content::Judgement {
                    against: "base".to_owned(),
                    candidate: text.clone(),
                    baseline: text,
                    candidate_shown_first: true,
                },
                &["rationale_a", "rationale_b"],
            ),
        ]
    }

    /// The text as a lenient reader sees it: without case, white space and invisible characters.
    fn careless(text: &str) -> String {
        text.chars().filter(|c| !is_blank(*c)).collect::<String>().to_lowercase()
    }

    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "<",
            "<",
            ">",
            "/",
            "\u{ff1c}",
            "\u{ff1e}",
            " ",
            "\n",
            "\u{a0}",
            "\u{2003}",
            "\u{200b}",
            "\u{3000}",
            "\u{feff}",
            "sentences",
            "Sentences",
            "SENTENCES",
            "problem",
            "Rationale",
            "rationale_A",
            "rationale_b",
            "gold",
            "Gold",
            "x",
            "1",
            "\n2: ",
            "=\"y\"",
            "[",
            "é",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_block(text in pieces()) {
            for (content, own) in contents(&text) {
                let item = item(problem(&text), content);
                let asked = user_text(&item, &Shown::None);
                let read = careless(&asked);
                for name in BLOCKS {
                    let expected = usize::from(name == "problem" || own.contains(&name));
                    for tag in [format!("<{name}>"), format!("</{name}>")] {
                        prop_assert_eq!(read.matches(&tag).count(), expected, "{} in {}", tag, asked);
                    }
                }
                prop_assert!(is_about(&asked, &item));
                if let Content::Scores { sentences, .. } = &item.content {
                    let (_, block) = asked.rsplit_once("<sentences>\n").unwrap();
                    prop_assert_eq!(block.lines().count(), sentences.len() + 1, "{}", asked);
                }
            }
        }
    }

    #[test]
    fn text_cannot_leave_its_block() {
        for (text, expected) in [
            ("a </sentences> b", "a [/sentences] b"),
            ("a </Sentences> b", "a [/Sentences] b"),
            ("</rationale_a >", "[/rationale_a ]"),
            ("< / problem>", "[ / problem]"),
            ("<\u{a0}/\u{2003}GOLD\u{3000}>", "[\u{a0}/\u{2003}GOLD\u{3000}]"),
            ("<\u{200b}/sen\u{200b}tences>", "[\u{200b}/sen\u{200b}tences]"),
            ("<problem id=\"3\">", "[problem id=\"3\">"),
            ("<sentences", "[sentences"),
            ("<<problem>>", "<[problem]>"),
            ("\u{ff1c}/problem\u{ff1e}", "[/problem]"),
            ("</ſentences>", "[/ſentences]"),
        ] {
            assert_eq!(untagged(text), expected);
        }
        for harmless in [
            "1 < 2",
            "a < b > c",
            "<b>problem</b>",
            "<problems>",
            "<problem-solving>",
            "x <= problem",
            "<",
            "if x<sentence",
        ] {
            assert_eq!(untagged(harmless), harmless);
        }
        assert_eq!(one_line(" a\n\tb\u{2028}2: c ", &BLOCKS), "a b 2: c");
    }

    #[test]
    fn replies_to_texts_that_were_escaped_as_before_still_count() {
        let text = "It says </sentences> and </Sentences>. Then more.";
        let item = item(problem("x"), Content::Correction { rationale: text.to_owned() });
        let before = text.replace("</sentences>", "< /sentences>");
        assert!(is_about(&format!("<problem>\nx\n</problem>\n<rationale>\n{before}\n</rationale>"), &item));
        assert!(!is_about("<problem>\nx\n</problem>\n<rationale>\nIt says more.\n</rationale>", &item));
    }

    #[test]
    fn the_right_answer_is_named_by_its_letter() {
        let choices: Vec<String> = (0..26).map(|number| format!("choice {number}")).collect();
        for (index, letter) in ('A'..='Z').enumerate() {
            let problem =
                Problem { choices: choices.clone(), answer_index: Some(index as u8), ..problem("Which?") };
            let asked =
                user_text(&item(problem, Content::Correction { rationale: "x".to_owned() }), &Shown::None);
            assert!(asked.contains(&format!("\nCorrect answer: ({letter}) choice {index}\n")), "{asked}");
            assert!(asked.contains(&format!(" ({letter}) choice {index}")), "{asked}");
        }
        let unknown = Problem { answer_index: None, ..problem("Which?") };
        let asked =
            user_text(&item(unknown, Content::Correction { rationale: "x".to_owned() }), &Shown::Remark);
        assert!(
            asked.contains("\nCorrect answer: not known\n(the picture is not available)\n</problem>"),
            "{asked}"
        );
    }

    #[test]
    fn schemas_are_json() {
        for kind in Kind::ALL {
            serde_json::from_str::<serde_json::Value>(schema(kind, false)).unwrap();
            serde_json::from_str::<serde_json::Value>(schema(kind, true)).unwrap();
        }
    }
}
