//! The student's texts in MM-CoT's format: sources of both stages, targets, and parsing of answers.

use schemas::Problem;
use schemas::settings::PromptFormat;

/// Source text of the rationale stage (QCM-E).
pub fn rationale_source(problem: &Problem, use_caption: bool) -> String {
    fold(&format!("{}\nSolution:", question(problem, use_caption)))
}

/// Source text of the answer stage: QCMG-A with the rationale after the options, or QCM-A without it.
pub fn answer_source(problem: &Problem, rationale: &str, use_caption: bool, format: PromptFormat) -> String {
    let question = question(problem, use_caption);
    match format {
        PromptFormat::QcmgA => fold(&format!("{question}\nSolution: {}\nAnswer:", without_label(rationale))),
        PromptFormat::QcmA => fold(&format!("{question}\nAnswer:")),
    }
}

/// Target text of the rationale stage: `Solution: …`, newlines as the two characters `\n`.
pub fn rationale_target(rationale: &str) -> String {
    fold(&format!("Solution: {}", without_label(rationale).trim().replace('\n', "\\n")))
}

/// Target text of the answer stage.
pub fn answer_target(index: u8) -> String {
    format!("The answer is ({}).", letter(index))
}

/// Option named by `The answer is (X)`; `None` unless the pattern occurs exactly once and names an option.
pub fn read_answer(text: &str, choices: usize) -> Option<u8> {
    let mut letters = text.split("The answer is (").skip(1).filter_map(|rest| {
        let mut chars = rest.chars();
        let letter = chars.next().filter(char::is_ascii_uppercase)?;
        (chars.next() == Some(')')).then_some(letter)
    });
    let letter = letters.next()?;
    let index = (letter as u8) - b'A';
    (letters.next().is_none() && usize::from(index) < choices).then_some(index)
}

fn question(problem: &Problem, use_caption: bool) -> String {
    let caption = if use_caption { problem.caption.as_str() } else { "" };
    let context = format!("{} {caption}", problem.hint);
    let context = if context.trim().is_empty() { "N/A" } else { context.trim() };
    let options =
        problem.choices.iter().zip(0u8..).map(|(choice, index)| format!("({}) {choice}", letter(index)));
    let options = options.collect::<Vec<_>>().join(" ");
    format!("Question: {}\nContext: {context}\nOptions: {options}", problem.question)
}

fn letter(index: u8) -> char {
    char::from(b'A' + index.min(25))
}

fn without_label(rationale: &str) -> &str {
    let rationale = rationale.trim_start();
    rationale.strip_prefix("Solution:").unwrap_or(rationale)
}

/// White space folded to single spaces.
fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn problem() -> Problem {
        Problem {
            problem_id: "1".into(),
            split: "train".into(),
            question: "Which is\nfarthest north?".into(),
            choices: vec!["Ohio".into(), "Texas".into()],
            answer_index: Some(0),
            hint: String::new(),
            caption: "A map.".into(),
            lecture: String::new(),
            solution: String::new(),
            image: None,
            subject: None,
            topic: None,
            category: None,
            skill: None,
            grade: None,
            source: "test".into(),
        }
    }

    #[test]
    fn sources_are_those_of_mm_cot() {
        let expected =
            "Question: Which is farthest north? Context: A map. Options: (A) Ohio (B) Texas Solution:";
        assert_eq!(rationale_source(&problem(), true), expected);
        let expected =
            "Question: Which is farthest north? Context: N/A Options: (A) Ohio (B) Texas Solution:";
        assert_eq!(rationale_source(&problem(), false), expected);
        let source = answer_source(&problem(), "Solution: Ohio\nis.", false, PromptFormat::QcmgA);
        let expected = "Question: Which is farthest north? Context: N/A Options: (A) Ohio (B) Texas \
                        Solution: Ohio is. Answer:";
        assert_eq!(source, expected);
        let source = answer_source(&problem(), "Ohio is.", false, PromptFormat::QcmA);
        assert_eq!(
            source,
            "Question: Which is farthest north? Context: N/A Options: (A) Ohio (B) Texas Answer:"
        );
    }

    #[test]
    fn targets_carry_newlines_as_two_characters() {
        assert_eq!(rationale_target("Look.\nOhio  is."), "Solution: Look.\\nOhio is.");
        assert_eq!(rationale_target("Solution: Look."), "Solution: Look.");
        assert_eq!(answer_target(1), "The answer is (B).");
    }

    #[test]
    fn answers_are_read_only_where_they_stand_once() {
        assert_eq!(read_answer("The answer is (B).", 2), Some(1));
        assert_eq!(read_answer("So: The answer is (A)", 2), Some(0));
        assert_eq!(read_answer("The answer is (C).", 2), None);
        assert_eq!(read_answer("The answer is (A). The answer is (B).", 2), None);
        assert_eq!(read_answer("The answer is B.", 2), None);
        assert_eq!(read_answer("The answer is (b).", 2), None);
        assert_eq!(read_answer("", 2), None);
    }
}
