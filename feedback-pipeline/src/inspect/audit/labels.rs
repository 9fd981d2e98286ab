//! Human sentence scores: a JSONL file with one label per line.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// A line of the file. Other fields (a note, a time) do not matter.
#[derive(Debug, Deserialize)]
struct Line {
    rollout_id: Option<String>,
    sentence_index: Option<u32>,
    score: Option<f64>,
    /// What the sentence is, to check that it is the one that was scored.
    sentence: Option<String>,
    problem_id: Option<String>,
    round: Option<u32>,
    /// Who labelled.
    #[serde(default)]
    by: String,
    /// A choice between two rationales, which is not compared here.
    better: Option<serde::de::IgnoredAny>,
}

/// One sentence's label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    /// Mean of the people's scores.
    pub(super) score: f64,
    /// How many people scored it.
    pub(super) people: usize,
    /// What the lines of these scores say about the sentence, in their order.
    pub(super) claims: Vec<Claim>,
}

/// What a line says about its sentence, as far as it does.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    /// The line, from 1.
    pub(super) line: usize,
    pub(super) sentence: Option<String>,
    pub(super) problem_id: Option<String>,
    pub(super) round: Option<u32>,
}

/// Labels by rollout and sentence.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Labels {
    pub(super) of: HashMap<(String, u32), Label>,
    /// Number of lines with a score, without those that the same person replaced later.
    pub(super) count: usize,
    /// Number of lines that choose between two rationales.
    pub(super) choices: usize,
}

/// Reads a file of labels. If a person labelled a sentence several times, the last counts.
///
/// # Errors
/// If the file cannot be read, or a line is not a label.
pub(super) fn read(path: &Path) -> Result<Labels> {
    let place = path.display().to_string();
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    if schemas::file::is_pointer(&bytes) {
        return Err(Error::bad_input(place, format!("expected labels, found {}", schemas::file::POINTER)));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| Error::bad_input(place.as_str(), "expected UTF-8 text"))?;
    let mut choices = 0;
    let mut last: HashMap<(String, u32), HashMap<String, (f64, Claim)>> = HashMap::new();
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |message: String| Error::bad_input(format!("{place}, line {}", number + 1), message);
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let message = error.to_string();
            let at = format!(" at line {} column {}", error.line(), error.column());
            wrong(format!("column {}: {}", error.column(), message.strip_suffix(&at).unwrap_or(&message)))
        })?;
        let (Some(rollout), Some(index), Some(score)) = (line.rollout_id, line.sentence_index, line.score)
        else {
            if line.better.is_some() {
                choices += 1;
                continue;
            }
            return Err(wrong("expected `rollout_id`, `sentence_index` (from 0) and `score`".to_owned()));
        };
        if !(0.0..=1.0).contains(&score) {
            return Err(wrong(format!("`score`: expected a number from 0 to 1, found {score}")));
        }
        let Line { sentence, problem_id, round, .. } = line;
        let claim = Claim { line: number + 1, sentence, problem_id, round };
        last.entry((rollout, index)).or_default().insert(line.by, (score, claim));
    }
    if last.is_empty() {
        return Err(Error::bad_input(place, "expected labels with a score, found none"));
    }
    let count = last.values().map(HashMap::len).sum();
    let mean = |people: HashMap<String, (f64, Claim)>| {
        let mut given: Vec<(f64, Claim)> = people.into_values().collect();
        given.sort_by_key(|(_, claim)| claim.line);
        let score = given.iter().map(|(score, _)| score).sum::<f64>() / given.len() as f64;
        let people = given.len();
        Label { score, people, claims: given.into_iter().map(|(_, claim)| claim).collect() }
    };
    let of = last.into_iter().map(|(sentence, people)| (sentence, mean(people))).collect();
    Ok(Labels { of, count, choices })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> std::result::Result<Labels, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|error| error.to_string().replace(&file.path().display().to_string(), "@"))
    }

    #[test]
    fn the_last_label_of_a_person_counts_and_people_are_averaged() {
        let found = labels(
            "\u{feff}{\"rollout_id\":\"r\",\"sentence_index\":0,\"score\":0.2,\"by\":\"a\",\"note\":\"?\"}\n\n\
             {\"rollout_id\":\"r\",\"sentence_index\":0,\"score\":0.4,\"by\":\"a\",\"sentence\":\"S.\"}\n\
             {\"rollout_id\":\"r\",\"sentence_index\":0,\"score\":0.8,\"by\":\"b\"}\n\
             {\"problem_id\":\"p\",\"better\":\"r\"}\n\
             {\"rollout_id\":\"r\",\"sentence_index\":1,\"score\":1}\n",
        )
        .unwrap();
        assert_eq!((found.of.len(), found.count, found.choices), (2, 3, 1));
        let first = &found.of[&("r".to_owned(), 0)];
        assert!((first.score - 0.6).abs() < 1e-9);
        let said: Vec<_> = first.claims.iter().map(|claim| (claim.line, claim.sentence.as_deref())).collect();
        assert_eq!((first.people, said), (2, vec![(3, Some("S.")), (4, None)]));
    }

    #[test]
    fn what_is_no_label_is_refused_with_its_line() {
        for (text, expected) in [
            ("", "@: expected labels with a score, found none"),
            ("{}", "@, line 1: expected `rollout_id`, `sentence_index` (from 0) and `score`"),
            (
                "\n{\"rollout_id\":\"r\",\"sentence_index\":0,\"score\":1.5}",
                "@, line 2: `score`: expected a number from 0 to 1, found 1.5",
            ),
            ("{\"rollout_id\"", "@, line 1: column 13: EOF while parsing an object"),
        ] {
            assert!(labels(text).unwrap_err().starts_with(expected), "{text}: {:?}", labels(text));
        }
    }
}
