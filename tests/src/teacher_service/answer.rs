//! Answers by the reference Teacher's brain: finds the problem that a request shows and grades against its solution.

use feedback_pipeline::teacher::reference;
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
    /// If the text is no request of the contract, or its problem is not known.
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
            let scores: Vec<Value> = scores
                .map(|(score, number)| json!({"sentence": number, "score": (f64::from(score) * 1e4).round() / 1e4}))
                .collect();
            return Ok((Kind::Scores, json!({"scores": scores})));
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
        Err("neither <sentences> nor <rationale> nor <rationale_a>".to_owned())
    }
}

fn options(problem: &Problem) -> String {
    let options = problem.choices.iter().zip('A'..).map(|(choice, letter)| format!("({letter}) {choice}"));
    options.collect::<Vec<_>>().join(" ")
}

/// A problem's question and options without white space, in which the two sides may differ.
fn name(question: &str, options: &str) -> String {
    question.split_whitespace().chain(options.split_whitespace()).collect()
}

fn between<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{tag}>\n"), format!("\n</{tag}>"));
    let start = text.find(&open)? + open.len();
    let end = text[start..].find(&close)?;
    Some(&text[start..start + end])
}

/// Tokens of a text, about as a tokenizer of English counts them: short words are one, long ones more, digits and
/// punctuation count.
pub fn tokens(text: &str) -> u64 {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: usize = words.map(|word| word.len().div_ceil(7)).sum();
    let marks = text.chars().filter(|c| !c.is_alphanumeric() && !c.is_whitespace()).count();
    (words + marks * 2 / 3) as u64
}
