//! The prompt of a student: the question, never its answer.

use schemas::Problem;
use std::fmt::Write;

/// Words in angle brackets that multimodal loaders replace with a picture or another medium.
const PLACEHOLDERS: [&str; 3] = ["image", "video", "audio"];

/// Question, hint and options, the caption if the picture is not shown, and the instruction; never the
/// answer, the lecture or the solution.
pub(super) fn text(problem: &Problem, has_picture: bool, instruction: &str) -> String {
    let mut text = format!("Question: {}", problem.question.trim());
    if !problem.hint.trim().is_empty() {
        let _ = write!(text, "\nContext: {}", problem.hint.trim()); // writing to a String cannot fail
    }
    if !has_picture && !problem.caption.trim().is_empty() {
        let _ = write!(text, "\nPicture: {}", problem.caption.trim());
    }
    text.push_str("\nOptions:");
    for (index, choice) in problem.choices.iter().enumerate() {
        let _ = write!(text, "\n({}) {}", letter(index), choice.trim());
    }
    if !instruction.is_empty() {
        let _ = write!(text, "\n{instruction}");
    }
    plain(&text)
}

/// Name of an option: a letter, or its number beyond Z.
pub(super) fn letter(index: usize) -> String {
    u8::try_from(index)
        .ok()
        .filter(|index| *index < 26)
        .map_or_else(|| (index + 1).to_string(), |index| char::from(b'A' + index).to_string())
}

/// A text without anything that a loader would take for a picture placeholder: `<image>` becomes `[image]`.
pub(super) fn plain(text: &str) -> String {
    PLACEHOLDERS
        .iter()
        .fold(text.to_owned(), |text, medium| text.replace(&format!("<{medium}>"), &format!("[{medium}]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            problem_id: "1".into(),
            split: "train".into(),
            question: "Which is <image> north? ".into(),
            choices: vec!["Ohio".into(), "Texas".into()],
            answer_index: Some(1),
            hint: "Use the map.".into(),
            caption: "A map.".into(),
            lecture: "The lecture.".into(),
            solution: "The solution.".into(),
            image: Some("images/1.png".into()),
            subject: None,
            topic: None,
            category: None,
            skill: None,
            grade: None,
            source: "test".into(),
        }
    }

    #[test]
    fn a_prompt_holds_the_question_and_a_caption_only_without_the_picture() {
        let expected =
            "Question: Which is [image] north?\nContext: Use the map.\nOptions:\n(A) Ohio\n(B) Texas";
        assert_eq!(text(&problem(), true, ""), expected);
        let expected = "Question: Which is [image] north?\nContext: Use the map.\nPicture: A map.\nOptions:\n(A) Ohio\n(B) Texas\nExplain.";
        assert_eq!(text(&problem(), false, "Explain."), expected);
        let bare = Problem { hint: " ".into(), caption: String::new(), ..problem() };
        assert_eq!(
            text(&bare, false, ""),
            "Question: Which is [image] north?\nOptions:\n(A) Ohio\n(B) Texas"
        );
        // The prompt does not depend on the answer.
        assert_eq!(
            text(&Problem { answer_index: Some(0), ..problem() }, true, ""),
            text(&problem(), true, "")
        );
    }

    #[test]
    fn options_beyond_z_have_numbers() {
        assert_eq!([0, 25, 26].map(letter), ["A", "Z", "27"]);
    }
}
