//! Thinking within the text, which some servers do not remove: it is not part of the answer.

/// Names of the tags that models think in.
const NAMES: [&str; 9] = [
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "analysis",
    "scratchpad",
    "reflection",
    "seed:think",
];

/// Markers of other forms, in lower case: start and end of thinking.
const MARKS: [(&str, &str); 4] = [
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
];

/// The text after the last end of thinking; the whole text if there is none. `None` if thinking does not end:
/// then there is no answer.
pub(super) fn cut(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase(); // ASCII only, so positions stay the same
    let ends = tags(&lower, "</", true).chain(MARKS.iter().filter_map(|(_, end)| last(&lower, end)));
    let Some(end) = ends.max() else { return begins(&lower).is_none().then_some(text) };
    begins(lower.get(end..)?).is_none().then(|| text.get(end..)).flatten()
}

/// Start of thinking in a lower-case text.
fn begins(lower: &str) -> Option<usize> {
    tags(lower, "<", false).chain(MARKS.iter().filter_map(|(begin, _)| last(lower, begin))).next()
}

/// Position after the last marker.
fn last(lower: &str, mark: &str) -> Option<usize> {
    lower.rfind(mark).map(|at| at + mark.len())
}

/// Positions after thinking tags that begin with `<` or `</`.
fn tags<'a>(lower: &'a str, opening: &'a str, is_end: bool) -> impl Iterator<Item = usize> + 'a {
    lower.match_indices(opening).filter_map(move |(at, _)| {
        let inside = lower.get(at + opening.len()..)?;
        let length = inside.find('>')?;
        let (name, attributes) = match inside.get(..length)?.split_once(char::is_whitespace) {
            Some((name, attributes)) => (name, attributes.trim()),
            None => (inside.get(..length)?, ""),
        };
        let is_tag = NAMES.contains(&name) && (attributes.is_empty() || !is_end);
        is_tag.then_some(at + opening.len() + length + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_cut_off() {
        let table = [
            ("a", Some("a")),
            ("<think>x</think>a", Some("a")),
            ("x</think>a", Some("a")),
            ("<think>x</think>y</think>a", Some("a")),
            ("<THINK>x</Think >\na", Some("\na")),
            ("<think about=\"x\">y</think>a", Some("a")),
            ("<thinking>x</thinking><reasoning>y</reasoning>a", Some("a")),
            ("[THINK]x[/THINK]a", Some("a")),
            ("◁think▷x◁/think▷a", Some("a")),
            (
                "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>a",
                Some("a"),
            ),
            ("<think>x", None),
            ("<think>x</think>a<think>y", None),
            ("a <b>c</b> 1 < 2 > 0, <thinkers>", Some("a <b>c</b> 1 < 2 > 0, <thinkers>")),
            ("é<think>É</think>ü", Some("ü")),
        ];
        for (text, rest) in table {
            assert_eq!(cut(text), rest, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(<|</|think|>|◁|▷|/|\\[|\\]|é| ){0,20}") {
            let _ = cut(&text);
        }
    }
}
