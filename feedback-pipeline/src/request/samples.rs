//! One request for several samples of a problem: the problem and the picture once, then every sentence with
//! the number of its sample.
//!
//! ```text
//! <samples>
//! 1.1: Ice is frozen water.
//! 1.2: It floats.
//! 2.1-2.1 = 1.1-1.1
//! 2.2: It sinks.
//! </samples>
//! ```

use super::prompt::{self, BLOCKS};
use crate::items::samples::{Listed, home};
use crate::request::image::Shown;
use schemas::Problem;
use std::fmt::Write;

/// JSON schema of the reply, with a reason for each score or without.
pub fn schema(reasons: bool) -> &'static str {
    if reasons { SCHEMA_WITH_REASONS } else { SCHEMA }
}

const SCHEMA_WITH_REASONS: &str = r#"{"type":"object","properties":{"scores":{"type":"array","items":{"type":"object","properties":{"sample":{"type":"integer"},"sentence":{"type":"integer"},"reason":{"type":"string"},"score":{"type":"number"}},"required":["sample","sentence","reason","score"],"additionalProperties":false}}},"required":["scores"],"additionalProperties":false}"#;

const SCHEMA: &str = r#"{"type":"object","properties":{"scores":{"type":"array","items":{"type":"object","properties":{"sample":{"type":"integer"},"sentence":{"type":"integer"},"score":{"type":"number"}},"required":["sample","sentence","score"],"additionalProperties":false}}},"required":["scores"],"additionalProperties":false}"#;

/// Blocks of such a request.
const ALL_BLOCKS: [&str; 7] = {
    let mut all = ["samples"; 7];
    let mut place = 0;
    while place < BLOCKS.len() {
        all[place] = BLOCKS[place];
        place += 1;
    }
    all
};

/// The text block of a request about several samples of a problem.
pub fn user_text(problem: &Problem, shown: &Shown, samples: &[&[String]]) -> String {
    let mut text = String::with_capacity(2_048);
    prompt::problem_block(&mut text, problem, shown, &ALL_BLOCKS);
    let lines = |sample: &&[String]| sample.iter().map(|sentence| line(sentence)).collect();
    let samples: Vec<Vec<String>> = samples.iter().map(lines).collect();
    text.push_str("<samples>\n");
    for (place, (sample, listed)) in samples.iter().zip(Listed::list(&samples)).enumerate() {
        let (number, mut from) = (place + 1, 0);
        if let Some((earlier, count)) = listed.shared {
            let _ = writeln!(text, "{number}.1-{number}.{count} = {0}.1-{0}.{count}", earlier + 1);
            from = count;
        }
        for (index, sentence) in sample.iter().enumerate().skip(from) {
            let _ = writeln!(text, "{number}.{}: {sentence}", index + 1); // writing to a String cannot fail
        }
    }
    text.push_str("</samples>");
    text
}

fn line(sentence: &str) -> String {
    prompt::one_line(sentence, &ALL_BLOCKS)
}

/// The samples that a request asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// How they are listed.
    pub list: Vec<Listed>,
    /// All sentences of each.
    sentences: Vec<Vec<String>>,
}

impl Samples {
    /// Parses the text block of a request; `None` if it asks about one item.
    pub fn read(user_text: &str) -> Option<Self> {
        let (_, block) = user_text.split_once("\n<samples>\n")?;
        let (block, _) = block.split_once("\n</samples>")?;
        let mut samples = Self { list: Vec::new(), sentences: Vec::new() };
        for line in block.lines() {
            let (number, rest) = line.split_once('.')?;
            let place = number.parse::<usize>().ok()?.checked_sub(1)?;
            if place == samples.list.len() {
                samples.list.push(Listed { shared: None, sentences: 0 });
                samples.sentences.push(Vec::new());
            }
            if place + 1 != samples.list.len() {
                return None;
            }
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let sentence: usize = rest.get(..digits)?.parse().ok()?;
            let earlier_lines = samples.sentences.get(place).map_or(0, Vec::len);
            if sentence != earlier_lines + 1 {
                return None;
            }
            if let Some(text) = rest.get(digits..)?.strip_prefix(": ") {
                samples.sentences.get_mut(place)?.push(text.to_owned());
            } else {
                let (_, source) = rest.split_once(" = ")?;
                let (earlier, range) = source.split_once('.')?;
                let earlier =
                    earlier.parse::<usize>().ok()?.checked_sub(1).filter(|earlier| *earlier < place)?;
                let count: usize = range.rsplit_once('.')?.1.parse().ok()?;
                let shared = samples.sentences.get(earlier)?.get(..count)?.to_vec();
                samples.list.get_mut(place)?.shared = Some((earlier, count));
                samples.sentences.get_mut(place)?.extend(shared);
            }
        }
        for (listed, sentences) in samples.list.iter_mut().zip(&samples.sentences) {
            listed.sentences = sentences.len();
        }
        (!samples.list.is_empty()).then_some(samples)
    }

    /// The sample with these sentences, from 0.
    pub fn place_of(&self, sentences: &[String]) -> Option<usize> {
        let lines: Vec<String> = sentences.iter().map(|sentence| line(sentence)).collect();
        self.sentences.iter().position(|sample| *sample == lines).or_else(|| {
            // Compared like requests about one item; earlier versions may have formatted the text
            // differently.
            let squeezed =
                |lines: &[String]| lines.iter().map(|one| prompt::squeezed(one)).collect::<Vec<_>>();
            let wanted = squeezed(&lines);
            self.sentences.iter().position(|sample| squeezed(sample) == wanted)
        })
    }

    /// The samples' sentences that a reply has to score: sample and number of each, from 1.
    pub fn asked_for(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.list.iter().enumerate().flat_map(move |(sample, listed)| {
            let own =
                (0..listed.sentences).filter(move |sentence| home(&self.list, sample, *sentence) == sample);
            own.map(move |sentence| (sample + 1, sentence + 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(text: &str) -> Problem {
        serde_json::from_value(serde_json::json!({
            "problem_id": "p", "split": "train", "question": text, "choices": [text, "b"], "answer_index": 0,
            "hint": text, "caption": "", "lecture": "", "solution": "", "source": "test",
        }))
        .unwrap()
    }

    fn texts(samples: &[&[&str]]) -> Vec<Vec<String>> {
        samples.iter().map(|sample| sample.iter().map(|text| (*text).to_owned()).collect()).collect()
    }

    fn asked(problem: &Problem, samples: &[Vec<String>]) -> String {
        user_text(problem, &Shown::None, &samples.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn sentences_in_the_same_place_are_listed_once() {
        let samples =
            texts(&[&["Ice is frozen\nwater.", "It floats."], &["Ice is frozen water.", "It sinks."]]);
        let text = asked(&problem("Does ice float?"), &samples);
        let block = text.split_once("</problem>\n").unwrap().1;
        assert_eq!(
            block,
            "<samples>\n1.1: Ice is frozen water.\n1.2: It floats.\n2.1-2.1 = 1.1-1.1\n2.2: It sinks.\n</samples>"
        );
        let read = Samples::read(&text).unwrap();
        assert_eq!(read.list[1], Listed { shared: Some((0, 1)), sentences: 2 });
        assert_eq!(read.asked_for().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 2)]);
        assert_eq!((read.place_of(&samples[0]), read.place_of(&samples[1])), (Some(0), Some(1)));
        assert_eq!(read.place_of(&samples[0][..1]), None, "a part of a sample is another");
        let alike = texts(&[&["It sinks."], &["Its inks."]]);
        let read = Samples::read(&asked(&problem("x"), &alike)).unwrap();
        assert_eq!((read.place_of(&alike[0]), read.place_of(&alike[1])), (Some(0), Some(1)));
        assert_eq!(Samples::read("<problem>\nx\n</problem>\n<sentences>\n1: a\n</sentences>"), None);
    }

    #[test]
    fn the_schemas_are_json() {
        for reasons in [false, true] {
            serde_json::from_str::<serde_json::Value>(schema(reasons)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn samples_come_back(
            samples in prop::collection::vec(
                prop::collection::vec("(a|b|</samples>|2.1: |= 1.1|\n|: | |é){1,4}", 1..5), 1..5,
            ),
            text in "(a|<samples>|\n1.1: x|</samples>|<problem>){0,4}",
        ) {
            let asked = asked(&problem(&text), &samples);
            prop_assert_eq!(asked.matches("<samples>").count(), 1);
            let read = Samples::read(&asked).unwrap();
            prop_assert_eq!(read.list.len(), samples.len());
            for sample in &samples {
                let place = read.place_of(sample).unwrap();
                prop_assert_eq!(read.list[place].sentences, sample.len());
            }
        }
    }
}
