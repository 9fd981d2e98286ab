//! The texts of replies: drafts before answers, and sloppy JSON.

use super::Shape;
use serde_json::{Value, json};

/// An answer of the same kind that differs in every part.
pub(crate) fn draft(answer: &Value) -> Value {
    if let Some(scores) = answer["scores"].as_array() {
        let moved = |score: &Value| {
            let score = score.as_f64().unwrap_or_default();
            let other = if score >= 0.5 { score - 0.5 } else { score + 0.5 };
            (other * 1e4).round() / 1e4
        };
        let scores = scores
            .iter()
            .map(|entry| {
                let mut entry = entry.clone();
                entry["score"] = json!(moved(&entry["score"]));
                entry
            })
            .collect::<Vec<_>>();
        return json!({ "scores": scores });
    }
    if answer["rationale"].is_string() {
        return json!({"rationale": "This draft was thrown away."});
    }
    json!({"better": if answer["better"] == "A" { "B" } else { "A" }})
}

/// The text of a reply in a shape, and why it ended.
pub(crate) fn say(shape: Shape, answer: &Value) -> (String, &'static str) {
    let (draft, plain) = (draft(answer), answer.to_string());
    let text = match shape {
        Shape::ThinkDraft => {
            format!(
                "<think>\nAt first sight {draft} would do, but a second look says otherwise.\n</think>\n\n{plain}"
            )
        }
        Shape::BareThink => {
            format!("At first sight {draft} would do.\nNo, it would not.\n</think>\n\n{plain}")
        }
        Shape::QuotedObject => {
            format!("A hasty colleague would say `{draft}` here, and be wrong. This is my answer:\n\n{plain}")
        }
        Shape::FormatFirst if answer["better"].is_string() => format!(
            "The format is one of {{\"better\":\"A\"}}, {{\"better\":\"B\"}} and {{\"better\":\"tie\"}}.\nThe verdict: {plain}"
        ),
        Shape::FormatFirst if answer["rationale"].is_string() => {
            format!("The format is {{\"rationale\":\"…\"}}.\n{plain}")
        }
        Shape::FormatFirst => format!("The format is {draft}.\nFilled in: {plain}"),
        Shape::SecondBlock => {
            format!("```json\n{draft}\n```\n\nThat has a mistake. Corrected:\n\n```json\n{plain}\n```\n")
        }
        Shape::Disagreeing => format!("{draft}\n{plain}"),
        Shape::StringScores => numbers_as_texts(answer).to_string(),
        Shape::FloatIndex => float_index(answer).to_string(),
        Shape::RawNewline => raw_newline(&plain),
        Shape::TrailingComma => trailing_commas(&plain),
        Shape::InnerSurrogate => inner_surrogate(answer),
        Shape::LengthWhole => return (format!("{plain}{}", " \n".repeat(200)), "length"),
        Shape::BudgetSpent => return (String::new(), "length"),
        _ => plain,
    };
    (text, "stop")
}

fn numbers_as_texts(answer: &Value) -> Value {
    let mut answer = answer.clone();
    for entry in answer["scores"].as_array_mut().into_iter().flatten() {
        entry["score"] = entry["score"].to_string().into();
    }
    answer
}

fn float_index(answer: &Value) -> Value {
    let mut answer = answer.clone();
    for entry in answer["scores"].as_array_mut().into_iter().flatten() {
        entry["sentence"] = entry["sentence"].as_f64().unwrap_or_default().into();
    }
    answer
}

/// Line breaks in strings unescaped; if a rationale has none, one is inserted after its first sentence.
fn raw_newline(plain: &str) -> String {
    if plain.contains("\\n") { plain.replace("\\n", "\n") } else { plain.replacen(". ", ".\n", 1) }
}

fn trailing_commas(plain: &str) -> String {
    let broken = plain.strip_suffix('}').unwrap_or(plain);
    broken.strip_suffix(']').map_or_else(|| format!("{broken},}}"), |list| format!("{list},],}}"))
}

/// The answer with half a surrogate pair: at the end of a rationale, else in a separate key.
fn inner_surrogate(answer: &Value) -> String {
    let plain = answer.to_string();
    match plain.strip_suffix("\"}") {
        Some(rationale) if answer["rationale"].is_string() => format!("{rationale} \\ud83d\"}}"),
        _ => format!("{},\"note\":\"\\ud83d\"}}", plain.strip_suffix('}').unwrap_or(&plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_never_the_answer() {
        let answers = [
            json!({"scores": [{"sentence": 1, "score": 0.0}, {"sentence": 2, "score": 0.9}, {"sentence": 3, "score": 0.5}]}),
            json!({"rationale": "Two and two are four."}),
            json!({"better": "A"}),
            json!({"better": "tie"}),
        ];
        for answer in answers {
            let draft = draft(&answer);
            assert_ne!(draft, answer);
            let scores = |value: &Value| -> Vec<f64> {
                let list = value["scores"].as_array().cloned().unwrap_or_default();
                list.iter().filter_map(|entry| entry["score"].as_f64()).collect()
            };
            assert!(
                scores(&draft).iter().zip(scores(&answer)).all(|(a, b)| *a != b && (0.0..=1.0).contains(a))
            );
            for shape in [Shape::ThinkDraft, Shape::BareThink, Shape::SecondBlock, Shape::Disagreeing] {
                let (text, ended) = say(shape, &answer);
                assert!(text.find(&draft.to_string()) < text.rfind(&answer.to_string()), "{text}");
                assert_eq!(ended, "stop");
            }
        }
    }

    #[test]
    fn careless_json() {
        let scores = json!({"scores": [{"sentence": 1, "score": 0.5}]});
        assert_eq!(say(Shape::StringScores, &scores).0, r#"{"scores":[{"score":"0.5","sentence":1}]}"#);
        assert_eq!(say(Shape::FloatIndex, &scores).0, r#"{"scores":[{"score":0.5,"sentence":1.0}]}"#);
        assert_eq!(say(Shape::TrailingComma, &scores).0, r#"{"scores":[{"score":0.5,"sentence":1},],}"#);
        let rationale = json!({"rationale": "One.\nTwo."});
        assert_eq!(say(Shape::RawNewline, &rationale).0, "{\"rationale\":\"One.\nTwo.\"}");
        assert_eq!(say(Shape::TrailingComma, &rationale).0, "{\"rationale\":\"One.\\nTwo.\",}");
        assert_eq!(say(Shape::InnerSurrogate, &rationale).0, r#"{"rationale":"One.\nTwo. \ud83d"}"#);
    }
}
