//! The format paragraph of the instructions for scores: for one sample or several, with reasons or without.

/// The paragraph on how several samples are listed.
const SAMPLES: &str = include_str!("prompts/samples.md");

/// Beginning of the built-in instructions' last paragraph, which an example of a reply follows.
const FORMAT: &str = "Reply with one JSON object and nothing else, every sentence exactly once, in order:";
const FORMAT_FOR_SAMPLES: &str =
    "Reply with one JSON object and nothing else, every listed sentence exactly once, in order:";

/// The paragraph on reasons.
const REASONS: &str =
    "Give a reason for every score, in at most 20 words: what is right, wrong, repeated or beside the point.";

const WITH_REASONS: &str =
    r#"{"scores":[{"sentence":1,"reason":"…","score":0.7},{"sentence":2,"reason":"…","score":0.0}]}"#;
const OF_SAMPLES: &str =
    r#"{"scores":[{"sample":1,"sentence":1,"score":0.7},{"sample":2,"sentence":1,"score":0.0}]}"#;
const OF_SAMPLES_WITH_REASONS: &str = r#"{"scores":[{"sample":1,"sentence":1,"reason":"…","score":0.7},{"sample":2,"sentence":1,"reason":"…","score":0.0}]}"#;

/// Instructions that also ask for a reason with each score.
pub(super) fn with_reasons(instructions: &str) -> String {
    in_place_of_format(instructions, &[REASONS], FORMAT, WITH_REASONS)
}

/// Instructions for several samples at once: the same rules in another format.
pub(super) fn for_samples(instructions: &str, reasons: bool) -> String {
    let example = if reasons { OF_SAMPLES_WITH_REASONS } else { OF_SAMPLES };
    in_place_of_format(instructions, &[SAMPLES.trim()], FORMAT_FOR_SAMPLES, example)
}

/// Instructions with another format. If they do not end with the built-in format paragraph, the new one is
/// appended, with a remark that it takes precedence.
fn in_place_of_format(instructions: &str, more: &[&str], format: &str, example: &str) -> String {
    let built_in = instructions.rsplit_once(FORMAT).filter(|(rules, rest)| {
        rules.ends_with("\n\n") && !rest.contains("\n\n") && rest.trim_start().starts_with('{')
    });
    let mut parts = vec![built_in.map_or(instructions, |(rules, _)| rules.trim_end())];
    if built_in.is_none() {
        parts.push("The format of the reply is the one below, not the one above.");
    }
    parts.extend(more);
    format!("{}\n\n{format}\n{example}", parts.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_format_takes_the_place_of_the_other() {
        let one = include_str!("prompts/scores.md").trim();
        let rules = one.split_once(FORMAT).unwrap().0.trim_end();
        let reasoned = with_reasons(one);
        for (text, format, example) in [
            (reasoned.clone(), FORMAT, WITH_REASONS),
            (for_samples(one, false), FORMAT_FOR_SAMPLES, OF_SAMPLES),
            (for_samples(&reasoned, true), FORMAT_FOR_SAMPLES, OF_SAMPLES_WITH_REASONS),
        ] {
            assert!(text.starts_with(rules) && text.ends_with(&format!("{format}\n{example}")), "{text}");
            assert_eq!(text.matches("Reply with one JSON object").count(), 1, "{text}");
            let read = serde_json::from_str::<serde_json::Value>(example).unwrap();
            assert_eq!(read["scores"].as_array().unwrap().len(), 2);
        }
        assert!(for_samples(&reasoned, true).contains(REASONS), "the rules of reasons stay");
        let own = for_samples("Be fair. Reply with JSON.", false);
        assert!(
            own.starts_with("Be fair. Reply with JSON.\n\nThe format of the reply is the one below"),
            "{own}"
        );
    }
}
