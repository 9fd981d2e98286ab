//! The browser part of a report: one card per problem, with all rationales and feedback.

use super::figures::Tally;
use super::gather::{Gathered, repeats};
use super::pictures::{MOST_PICTURE_BYTES, Pictures, Without};
use crate::error::Result;
use schemas::{Dataset, Problem, Rationale, Rollout};
use serde::Serialize;
use similar::{ChangeTag, TextDiff};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Maximum number of problems shown; if there are more, the worst and an even sample of the others.
pub const MOST_PROBLEMS: usize = 5_000;
/// How many of [`MOST_PROBLEMS`] are chosen for their low score.
const WORST: usize = 2_000;

/// Text, score in tenths (`None` if it has none), and whether it is a repetition.
type Line = (String, Option<f32>, bool);

/// Everything on one problem; names are short because they are repeated thousands of times.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Card {
    id: String,
    split: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skill: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grade: Option<String>,
    question: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    choices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<u8>,
    #[serde(skip_serializing_if = "String::is_empty")]
    solution: String,
    /// Index into the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<usize>,
    /// Why the picture is not shown, if the problem has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_picture: Option<&'static str>,
    /// Mean score of all scored sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    samples: Vec<Sample>,
    /// Decoded rationales of the round by stage.
    said: Vec<Said>,
    answers: Vec<Answered>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    judged: Vec<(String, String, bool)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejects: Vec<(String, String)>,
}

#[derive(Debug, Clone, Serialize)]
struct Sample {
    number: u32,
    /// Its rollout_id, if that does not follow from problem, round and number.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    lines: Vec<Line>,
    /// Reasons of the scores; empty if none were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Option<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A decoded rationale and its correction.
#[derive(Debug, Clone, Serialize)]
struct Said {
    id: String,
    stage: String,
    lines: Vec<Line>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    correction: Option<Vec<(i8, String)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
}

#[derive(Debug, Clone, Serialize)]
struct Answered {
    stage: String,
    predicted: Option<u8>,
    correct: Option<bool>,
}

/// The cards, and what was omitted.
pub(super) struct Deck {
    pub(super) cards: Vec<Card>,
    /// Problems of the round that are not shown.
    pub(super) left_out: usize,
}

/// Cards of all problems that occur in the round, and their pictures.
pub(super) fn deck(dataset: &Dataset, gathered: &Gathered) -> Result<(Deck, Pictures)> {
    let mut said_of: HashSet<&str> = HashSet::new();
    said_of.extend(gathered.rollouts.iter().map(|row| row.problem_id.as_str()));
    said_of.extend(gathered.rationales.iter().map(|row| row.problem_id.as_str()));
    let mut cards: BTreeMap<&str, Card> = gathered
        .problems
        .iter()
        .filter(|problem| said_of.contains(problem.problem_id.as_str()))
        .map(|problem| (problem.problem_id.as_str(), empty(problem)))
        .collect();
    fill(gathered, &mut cards);
    // In the order of the problems, so that the report is reproducible.
    let mut order: Vec<Card> =
        gathered.problems.iter().filter_map(|problem| cards.remove(problem.problem_id.as_str())).collect();
    let all = order.len();
    if all > MOST_PROBLEMS {
        order = choose(order);
    }
    let paths: HashMap<&str, &str> = gathered
        .problems
        .iter()
        .filter_map(|problem| Some((problem.problem_id.as_str(), problem.image.as_deref()?)))
        .collect();
    let mut pictures = Pictures::new(dataset.root(), MOST_PICTURE_BYTES);
    for card in &mut order {
        let Some(path) = paths.get(card.id.as_str()) else { continue };
        match pictures.add(path) {
            Ok(index) => card.picture = Some(index),
            Err(Without::Unreadable) => {
                card.without_picture = Some("The picture file is missing or unreadable.")
            }
            Err(Without::Full) => {
                card.without_picture = Some("The picture is omitted to keep this file small.")
            }
        }
    }
    Ok((Deck { left_out: all - order.len(), cards: order }, pictures))
}

/// Selects the worst, and a regular sample of the others.
fn choose(cards: Vec<Card>) -> Vec<Card> {
    let mut by_mean: Vec<usize> = (0..cards.len()).collect();
    let mean = |index: usize| cards[index].mean.unwrap_or(f64::INFINITY);
    by_mean.sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
    let (worst, others) = by_mean.split_at(WORST.min(by_mean.len()));
    let mut others = others.to_vec();
    others.sort_unstable();
    let wanted = MOST_PROBLEMS - WORST;
    let mut kept: HashSet<usize> = worst.iter().copied().collect();
    kept.extend((0..wanted).map(|place| others[place * others.len() / wanted]));
    cards.into_iter().enumerate().filter(|(index, _)| kept.contains(index)).map(|(_, card)| card).collect()
}

fn empty(problem: &Problem) -> Card {
    Card {
        id: problem.problem_id.clone(),
        split: problem.split.clone(),
        subject: problem.subject.clone(),
        skill: problem.skill.clone(),
        grade: problem.grade.clone(),
        question: problem.question.clone(),
        hint: problem.hint.clone(),
        choices: problem.choices.clone(),
        answer: problem.answer_index,
        solution: problem.solution.clone(),
        picture: None,
        without_picture: None,
        mean: None,
        samples: Vec::new(),
        said: Vec::new(),
        answers: Vec::new(),
        judged: Vec::new(),
        rejects: Vec::new(),
    }
}

fn fill(gathered: &Gathered, cards: &mut BTreeMap<&str, Card>) {
    let mut tallies: HashMap<&str, Tally> = HashMap::new();
    for rollout in &gathered.rollouts {
        let Some(card) = cards.get_mut(rollout.problem_id.as_str()) else { continue };
        let scores = gathered.scores.of(rollout);
        if let Some(scores) = &scores {
            tallies.entry(&rollout.problem_id).or_default().add(scores);
        }
        let texts: Vec<&str> = rollout.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        let lines = lines(&texts, scores.as_deref());
        let reason = |at: usize| gathered.scores.reason(&rollout.rollout_id, at);
        let mut reasons: Vec<Option<String>> = (0..texts.len()).map(reason).collect();
        if reasons.iter().all(Option::is_none) {
            reasons.clear();
        }
        let usual = Rollout::id(&rollout.problem_id, gathered.round, rollout.sample);
        let id = (rollout.rollout_id != usual).then(|| rollout.rollout_id.clone());
        card.samples.push(Sample {
            number: rollout.sample,
            id,
            lines,
            reasons,
            truncated: rollout.truncated,
        });
    }
    for (problem_id, tally) in tallies {
        if let Some(card) = cards.get_mut(problem_id) {
            card.mean = tally.mean().map(|mean| (mean * 1e4).round() / 1e4);
        }
    }
    for rationale in &gathered.rationales {
        if let Some(card) = cards.get_mut(rationale.problem_id.as_str()) {
            card.said.push(said(gathered, rationale));
        }
    }
    for answer in &gathered.answers {
        if let Some(card) = cards.get_mut(answer.problem_id.as_str()) {
            let (stage, predicted) = (answer.stage.clone(), answer.predicted_index);
            card.answers.push(Answered { stage, predicted, correct: answer.correct });
        }
    }
    for row in &gathered.judgements {
        if let Some(card) = cards.get_mut(row.problem_id.as_str()) {
            card.judged.push((row.against.clone(), row.verdict.clone(), row.candidate_shown_first));
        }
    }
    for reject in &gathered.rejects {
        if let Some(card) = cards.get_mut(reject.problem_id.as_str()) {
            card.rejects.push((reject.kind.clone(), reject.reason.clone()));
        }
    }
    for card in cards.values_mut() {
        card.samples.sort_by_key(|sample| sample.number);
        let place = |said: &Said| ["base", "rl", "sft"].iter().position(|stage| *stage == said.stage);
        card.said.sort_by_key(place);
    }
}

fn lines(texts: &[&str], scores: Option<&[f32]>) -> Vec<Line> {
    let score = |at: usize| scores.and_then(|scores| scores.get(at)).copied();
    let repeats = repeats(texts.iter().copied());
    texts
        .iter()
        .zip(repeats)
        .enumerate()
        .map(|(at, (text, repeat))| ((*text).to_owned(), score(at), repeat))
        .collect()
}

fn said(gathered: &Gathered, rationale: &Rationale) -> Said {
    let texts: Vec<&str> = rationale.sentences.iter().map(String::as_str).collect();
    let correction = gathered.corrections.get(&rationale.rationale_id);
    Said {
        id: rationale.rationale_id.clone(),
        stage: rationale.stage.clone(),
        lines: lines(&texts, None),
        truncated: rationale.truncated,
        correction: correction.filter(|row| row.changed).map(|row| word_diff(&row.original, &row.corrected)),
        changed: correction.map(|row| row.changed),
    }
}

/// A diff by words: kept (0), removed (-1) and added (1); white space is ignored.
fn word_diff(original: &str, corrected: &str) -> Vec<(i8, String)> {
    let folded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (original, corrected) = (folded(original), folded(corrected));
    let diff = TextDiff::from_words(original.as_str(), corrected.as_str());
    let mut parts: Vec<(i8, String)> = Vec::new();
    for change in diff.iter_all_changes() {
        let tag = match change.tag() {
            ChangeTag::Equal => 0,
            ChangeTag::Delete => -1,
            ChangeTag::Insert => 1,
        };
        match parts.last_mut() {
            Some((last, text)) if *last == tag => text.push_str(change.value()),
            _ => parts.push((tag, change.value().to_owned())),
        }
    }
    calm(parts)
}

/// A single space between two changes is merged into them: one longer change is easier to read.
fn calm(parts: Vec<(i8, String)>) -> Vec<(i8, String)> {
    let mut calmed: Vec<(i8, String)> = Vec::new();
    let (mut removed, mut added) = (String::new(), String::new());
    let flush = |calmed: &mut Vec<(i8, String)>, removed: &mut String, added: &mut String| {
        for (tag, text) in [(-1, removed), (1, added)] {
            if !text.is_empty() {
                calmed.push((tag, std::mem::take(text)));
            }
        }
    };
    let count = parts.len();
    for (at, (tag, text)) in parts.into_iter().enumerate() {
        match tag {
            -1 => removed.push_str(&text),
            1 => added.push_str(&text),
            _ if text == " " && at > 0 && at + 1 < count => {
                removed.push(' ');
                added.push(' ');
            }
            _ => {
                flush(&mut calmed, &mut removed, &mut added);
                calmed.push((0, text));
            }
        }
    }
    flush(&mut calmed, &mut removed, &mut added);
    calmed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_diffs_give_back_both_texts() {
        let (a, b) =
            ("Look at the map.\nDover is farthest north.", "Look at the map. Hull is the farthest south.");
        let diff = word_diff(a, b);
        let side = |wanted: i8| -> String {
            diff.iter()
                .filter(|(tag, _)| *tag == 0 || *tag == wanted)
                .map(|(_, text)| text.as_str())
                .collect()
        };
        assert_eq!(side(1), b);
        assert_eq!(side(-1), a.replace('\n', " "));
        assert_eq!(diff[0], (0, "Look at the map. ".to_owned()));
    }

    fn problem_of(number: usize) -> Problem {
        Problem {
            problem_id: number.to_string(),
            split: "train".to_owned(),
            question: String::new(),
            choices: Vec::new(),
            answer_index: None,
            hint: String::new(),
            caption: String::new(),
            lecture: String::new(),
            solution: String::new(),
            image: None,
            subject: None,
            topic: None,
            category: None,
            skill: None,
            grade: None,
            source: String::new(),
        }
    }

    #[test]
    fn of_many_cards_the_worst_and_an_even_choice_stay() {
        let problem = |number: usize| -> Card {
            let mut card = empty(&problem_of(number));
            card.mean = Some(if number < 100 { 0.0 } else { 1.0 });
            card
        };
        let cards: Vec<Card> = (0..MOST_PROBLEMS + 1_000).map(problem).collect();
        let kept = choose(cards);
        assert_eq!(kept.len(), MOST_PROBLEMS);
        assert!(kept.iter().take(100).enumerate().all(|(at, card)| card.id == at.to_string()));
    }
}
