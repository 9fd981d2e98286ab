//! Answers by the reference Teacher: finds the problem of a request and grades against its solution.

use feedback_pipeline::teacher::reference;
use schemas::provenance::sha256_hex;
use schemas::{Dataset, Problem};
use serde_json::{Value, json};
use std::collections::HashMap;

/// All problems that the service knows, by question and options.
pub struct Brain {
    problems: HashMap<String, Problem>,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Scores of sentences.
    Scores,
    /// A corrected rationale.
    Corrections,
    /// The better of two.
    Judgements,
}

impl Kind {
    /// Name in the statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Corrections => "corrections",
            Self::Judgements => "judgements",
        }
    }
}

impl Brain {
    /// Reads the problems of some datasets.
    ///
    /// # Errors
    /// If a dataset cannot be read.
    pub fn new(datasets: Vec<Dataset>) -> Result<Self, String> {
        let mut problems = HashMap::new();
        for dataset in datasets {
            for problem in dataset.problems().map_err(|e| e.to_string())? {
                problems.insert(name(&problem.question, &options(&problem)), problem);
            }
        }
        Ok(Self { problems })
    }

    /// What the user's text asks for, and the answer to it.
    ///
    /// # Errors
    /// If the text is not a valid request, or its problem is unknown.
    pub fn answer(&self, text: &str) -> Result<(Kind, Value), String> {
        let shown = between(text, "problem").ok_or("no <problem> block")?;
        let (question, rest) = shown.split_once("\nOptions: ").ok_or("no Options line")?;
        let question = question.strip_prefix("Question: ").ok_or("no Question line")?;
        let options = rest.lines().next().unwrap_or_default();
        let problem = self
            .problems
            .get(&name(question, options))
            .ok_or_else(|| format!("unknown problem: {question}"))?;
        if !shown.contains("\nCorrect answer: ") {
            return Err("no Correct answer line".to_owned());
        }
        if let Some(block) = between(text, "sentences") {
            let mut sentences = Vec::new();
            for (line, number) in block.lines().zip(1_usize..) {
                let (shown, sentence) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
                if shown != number.to_string() {
                    return Err(format!("sentence line {number} begins with `{shown}`"));
                }
                sentences.push(sentence);
            }
            let scores = reference::score(problem, &sentences).into_iter().zip(1..);
            let scores: Vec<Value> =
                scores.map(|(score, number)| json!({"sentence": number, "score": rounded(score)})).collect();
            return Ok((Kind::Scores, json!({"scores": scores})));
        }
        if let Some(block) = between(text, "samples") {
            return Ok((Kind::Scores, json!({"scores": score_samples(problem, block)?})));
        }
        if let Some(rationale) = between(text, "rationale") {
            return Ok((Kind::Corrections, json!({"rationale": reference::correct(problem, rationale)})));
        }
        if let (Some(a), Some(b)) = (between(text, "rationale_a"), between(text, "rationale_b")) {
            let better = match reference::judge(problem, a, b) {
                reference::Preference::A => "A",
                reference::Preference::B => "B",
                reference::Preference::Tie => "tie",
            };
            return Ok((Kind::Judgements, json!({"better": better})));
        }
        Err("neither <sentences> nor <samples> nor <rationale> nor <rationale_a>".to_owned())
    }
}

/// Scores of the sentences that a block of samples lists. Lines are `S.N: text`, or `S.1-S.K = T.1-T.K` where a sample begins
/// as an earlier one.
fn score_samples(problem: &Problem, block: &str) -> Result<Vec<Value>, String> {
    let mut samples: Vec<(Vec<&str>, usize)> = Vec::new(); // sentences, and how many of them are listed under another sample
    for line in block.lines() {
        let wrong = || format!("sample line `{line}`");
        let (number, rest) = line.split_once('.').ok_or_else(wrong)?;
        let number: usize = number.parse().map_err(|_| wrong())?;
        if number == samples.len() + 1 {
            samples.push((Vec::new(), 0));
        }
        if number == 0 || number != samples.len() {
            return Err(wrong());
        }
        let shown = rest.split_once(": ").filter(|(sentence, _)| sentence.parse::<usize>().is_ok());
        let Some((sentence, text)) = shown else {
            let (own, other) = line.split_once(" = ").ok_or_else(wrong)?;
            let (earlier, range) = other.split_once('.').ok_or_else(wrong)?;
            let last = |range: &str| range.rsplit_once('.').and_then(|(_, last)| last.parse::<usize>().ok());
            let count = last(range).filter(|count| last(own) == Some(*count)).ok_or_else(wrong)?;
            let earlier = earlier.parse::<usize>().ok().filter(|earlier| (1..number).contains(earlier));
            let source =
                samples.get(earlier.ok_or_else(wrong)? - 1).and_then(|(source, _)| source.get(..count));
            let source = source.ok_or_else(wrong)?.to_vec();
            samples[number - 1] = (source, count);
            continue;
        };
        let (sentences, _) = &mut samples[number - 1];
        sentences.push(text);
        if sentence != sentences.len().to_string() {
            return Err(wrong());
        }
    }
    let mut scores = Vec::new();
    for ((sentences, elsewhere), sample) in samples.iter().zip(1..) {
        let graded = reference::score(problem, sentences).into_iter().zip(1..).skip(*elsewhere);
        scores.extend(
            graded.map(
                |(score, number)| json!({"sample": sample, "sentence": number, "score": rounded(score)}),
            ),
        );
    }
    Ok(scores)
}

/// Adds a plausible reason to each score.
pub(super) fn add_reasons(answer: &mut Value) {
    for entry in answer["scores"].as_array_mut().into_iter().flatten() {
        let score = entry["score"].as_f64().unwrap_or_default();
        let reason = if score >= 0.5 { "It is \"right\" so far." } else { "It does not follow." };
        entry["reason"] = json!(reason);
    }
}

/// Moves each score towards the neutral one by an amount, up to `most`, that depends on the text of the request.
pub(super) fn differ(answer: &mut Value, text: &str, most: f64) {
    for (entry, place) in answer["scores"].as_array_mut().into_iter().flatten().zip(0_u32..) {
        let digest = sha256_hex(format!("{place} {text}").as_bytes());
        let drawn = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
        let by = most * f64::from(drawn) / f64::from(u32::MAX);
        let score = entry["score"].as_f64().unwrap_or_default();
        let moved = if score >= 0.5 { score - by } else { score + by };
        entry["score"] = json!((moved.clamp(0.0, 1.0) * 1e4).round() / 1e4);
    }
}

/// Four decimals, so that 0.7 does not become 0.699999988.
fn rounded(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}

fn options(problem: &Problem) -> String {
    let options = problem.choices.iter().zip('A'..).map(|(choice, letter)| format!("({letter}) {choice}"));
    options.collect::<Vec<_>>().join(" ")
}

/// A problem's question and options without white space, which may differ between the request and the
/// dataset.
fn name(question: &str, options: &str) -> String {
    question.split_whitespace().chain(options.split_whitespace()).collect()
}

fn between<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{tag}>\n"), format!("\n</{tag}>"));
    let start = text.find(&open)? + open.len();
    let end = text[start..].find(&close)?;
    Some(&text[start..start + end])
}

/// Approximate tokens of an English text: one for a short word, more for a long one, and one for each digit
/// and punctuation mark.
pub fn tokens(text: &str) -> u64 {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: usize = words.map(|word| word.len().div_ceil(7)).sum();
    let marks = text.chars().filter(|c| !c.is_alphanumeric() && !c.is_whitespace()).count();
    (words + marks * 2 / 3) as u64
}
