//! Grades sentences: right, neutral, wrong, repeated.
//!
//! A sentence is compared with the most similar gold sentence. The same words earn 1.0, and a paraphrase
//! less, depending on the overlap. Another number, name or option, or an opposite, in the same frame makes it
//! wrong. A sentence without a counterpart in the solution earns at most 0.5, so that irrelevant sentences
//! earn nothing.

use super::key::{Key, Known, is_starting_point};
use super::opposites::{self, Conflict};
use super::words::{Word, WordKind, align, words};
use schemas::sentences::repeat_key;
use std::collections::HashSet;

/// Minimum similarity for a sentence to count as having the frame of another.
const SAME_FRAME: f32 = 0.5;

/// A sentence's grade and the gold sentence it corresponds to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grade {
    /// Tenths, 0 to 10.
    pub(super) tenths: u8,
    /// The gold sentence it was compared with.
    pub(super) gold: Option<usize>,
    /// It contradicts the dataset.
    pub(super) contradicts: bool,
    /// It is a repetition.
    pub(super) repeated: bool,
}

impl Grade {
    fn new(tenths: u8) -> Self {
        Self { tenths, gold: None, contradicts: false, repeated: false }
    }

    fn wrong(tenths: u8, gold: Option<usize>) -> Self {
        Self { tenths, gold, contradicts: true, repeated: false }
    }

    /// The score as the Teacher gives it.
    pub(super) fn score(self) -> f32 {
        f32::from(self.tenths) / 10.0
    }

    /// The reason, in a few words.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self { repeated: true, .. } => "It repeats an earlier sentence.",
            Self { contradicts: true, .. } => "It contradicts the solution or the correct answer.",
            Self { tenths: 10, .. } => "It says what the solution says.",
            _ if self.covers_gold() => "It says nearly what the solution says.",
            Self { tenths: 5.., .. } => "It fits the problem, but the solution does not need it.",
            _ => "It has little to do with the solution.",
        }
    }

    /// Good enough for a corrected rationale.
    pub(super) fn keeps(self) -> bool {
        self.tenths >= 5
    }

    /// It says the same as a gold sentence.
    pub(super) fn covers_gold(self) -> bool {
        self.tenths >= 7 && self.gold.is_some()
    }
}

/// Grades the sentences of one rationale in their order.
pub(super) fn grades(key: &Key, sentences: &[&str]) -> Vec<Grade> {
    let mut said = HashSet::new();
    let mut said_words = HashSet::new();
    let mut claimed = HashSet::new();
    let mut grades = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        let words = words(sentence);
        let texts: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        let in_solution = key.gold.iter().any(|gold| repeat_key(&gold.text) == repeat_key(sentence));
        let new = said.insert(repeat_key(sentence)) & (said_words.insert(texts) | in_solution);
        if !new || words.is_empty() {
            grades.push(Grade { repeated: !new, ..Grade::new(0) });
            continue;
        }
        let mut grade = grade(key, sentence, &words);
        // The same gold sentence in other words is a repetition, unless the dataset repeats it word for word.
        if grade.covers_gold()
            && let Some(gold) = grade.gold
            && !claimed.insert(gold)
            && grade.tenths < 10
        {
            grade = Grade { tenths: 3, repeated: true, ..grade };
        }
        grades.push(grade);
    }
    grades
}

/// Grades a sentence that is not a repetition.
fn grade(key: &Key, sentence: &str, words: &[Word]) -> Grade {
    let said = repeat_key(sentence);
    let spelled = key.gold.iter().position(|gold| repeat_key(&gold.text) == said);
    if let Some(gold) = spelled.or_else(|| key.gold.iter().position(|gold| same_words(&gold.words, words))) {
        return Grade { gold: Some(gold), ..Grade::new(10) };
    }
    if is_babble(words) {
        return Grade::new(0);
    }
    if let Some(stated) = stated_letter(key, sentence) {
        if key.answer != Some(stated) {
            return Grade::wrong(0, key.conclusion);
        }
        // The right letter does not help a sentence that otherwise contradicts the solution.
        return match against_gold(key, words) {
            Some(grade) if grade.contradicts => grade,
            Some(grade) if grade.tenths > 8 => grade,
            _ => Grade::new(8),
        };
    }
    let finished = sentence.trim_end_matches(['"', '”', ')', ']', '\'']).ends_with(['.', '!', '?', ':', '…']);
    let mut grade = match against_gold(key, words) {
        Some(grade) if grade.contradicts || grade.tenths >= 5 => grade,
        // Not similar enough to a gold sentence; it may still be a good start, or true.
        Some(grade) => [grade, without_counterpart(key, words)]
            .into_iter()
            .max_by_key(|grade| grade.tenths)
            .unwrap_or(grade),
        None => without_counterpart(key, words),
    };
    if !grade.contradicts && key.makes_up_colours(words) {
        grade = Grade::wrong(grade.tenths.min(2), grade.gold);
    }
    if !finished {
        grade.tenths = grade.tenths.min(4);
    }
    grade
}

fn same_words(a: &[Word], b: &[Word]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.text == b.text)
}

/// Compared with the most similar gold sentence, if one is similar enough.
fn against_gold(key: &Key, words: &[Word]) -> Option<Grade> {
    let mut best: Option<(f32, usize, Option<Conflict>, usize)> = None;
    for (index, gold) in key.gold.iter().enumerate() {
        let (similarity, conflict, replaced) = compare(key, words, &gold.words);
        if similarity < SAME_FRAME {
            continue;
        }
        // If the sentence contradicts one gold sentence, but not another that is nearly as similar, the
        // latter is used.
        let rank = |similarity: f32, conflict: Option<Conflict>| {
            similarity - if conflict.is_some() { 0.1 } else { 0.0 }
        };
        if best.is_none_or(|(other, _, conflicts, _)| rank(similarity, conflict) > rank(other, conflicts)) {
            best = Some((similarity, index, conflict, replaced));
        }
    }
    let (similarity, index, conflict, replaced) = best?;
    if conflict.is_some() {
        let tenths = if key.conclusion == Some(index) || similarity >= 0.8 {
            0
        } else if similarity >= 0.65 {
            1
        } else {
            2
        };
        return Some(Grade::wrong(tenths, Some(index)));
    }
    // A word of this problem in the place of another claims something else; a new word may be a paraphrase.
    let penalty = if key.grounded(words) >= 0.99 { 0.3 } else { 0.2 };
    let mut score = similarity - penalty * replaced as f32;
    // Words used nowhere for this problem are invented.
    score -= 0.3 * (1.0 - key.grounded(words));
    let tenths = tenths(score).min(9);
    Some(Grade { gold: Some(index), ..Grade::new(tenths.max(2)) })
}

fn compare(key: &Key, words: &[Word], other: &[Word]) -> (f32, Option<Conflict>, usize) {
    let aligned = align(words, other);
    if aligned.similarity < SAME_FRAME {
        return (aligned.similarity, None, 0);
    }
    let conflict = opposites::conflict(&aligned, |word| key.choices_of(word))
        .or_else(|| opposites::another_identity(words, &aligned));
    (aligned.similarity, conflict, opposites::replaced(&aligned))
}

/// Graded by the options, the lecture, the hint and the question.
fn without_counterpart(key: &Key, words: &[Word]) -> Grade {
    let (grounded, fluent) = (key.grounded(words), key.fluent(words));
    let named = key.named(words);
    let denies = words.iter().any(|word| word.kind == WordKind::Negation);
    if let Some(&only) = named.first()
        && named.len() == 1
        && let Some(answer) = key.answer
    {
        let discussed = key.gold.iter().any(|gold| key.named(&gold.words) == [only]);
        return match (only == answer, denies) {
            (true, true) => Grade::wrong(2, key.conclusion),
            (true, false) if grounded >= 0.7 && fluent >= 0.3 => Grade::new(6),
            (true, false) => Grade::new(3),
            (false, false) if asserts(key, only, words) => Grade::wrong(0, key.conclusion),
            (false, false) if discussed => Grade::new(3),
            (false, false) => Grade::wrong(2, key.conclusion),
            (false, true) if grounded >= 0.7 && fluent >= 0.3 => Grade::new(5),
            (false, true) => Grade::new(3),
        };
    }
    if let Some(grade) = against_support(key, words) {
        return grade;
    }
    if is_starting_point(words) && grounded >= 0.5 {
        return Grade::new(5);
    }
    let mut tenths = 1;
    tenths += u8::from(grounded >= 0.5);
    tenths += u8::from(fluent >= 0.35);
    if grounded < 0.2 && fluent < 0.1 {
        tenths = 0;
    }
    Grade::new(tenths)
}

/// True, but no step of the solution.
fn against_support(key: &Key, words: &[Word]) -> Option<Grade> {
    let similar = |known: &Known| {
        let (similarity, conflict, replaced) = compare(key, words, &known.words);
        (similarity >= 0.75).then_some((similarity - 0.1 * replaced as f32, conflict))
    };
    let best = key.support.iter().filter_map(similar).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(match best {
        (_, Some(_)) => Grade::wrong(2, None),
        (similarity, None) if similarity >= 0.75 => Grade::new(5),
        _ => Grade::new(4),
    })
}

/// Whether a sentence only states that an option is the answer.
fn asserts(key: &Key, choice: usize, words: &[Word]) -> bool {
    const FRAME: &str = "answer correct right choice option so true best";
    let of_choice: HashSet<&str> = key.choices[choice].words.iter().map(|word| word.text.as_str()).collect();
    let framed = words.iter().any(|word| super::words::is_listed("answer correct", &word.text));
    let rest = words.iter().filter(|word| {
        word.kind != WordKind::Function
            && !of_choice.contains(word.text.as_str())
            && !super::words::is_listed(FRAME, &word.text)
    });
    framed || rest.count() == 0
}

/// The option whose letter a sentence states: `The answer is (B).`
fn stated_letter(key: &Key, sentence: &str) -> Option<usize> {
    let lower = sentence.to_lowercase();
    if !["answer", "choice", "option", "correct"].iter().any(|word| lower.contains(word)) {
        return None;
    }
    let mut found = sentence.match_indices('(').filter_map(|(at, _)| {
        let mut rest = sentence[at + 1..].chars();
        let letter = rest.next().filter(char::is_ascii_uppercase)?;
        (rest.next() == Some(')')).then(|| usize::from(letter as u8 - b'A'))
    });
    let letter = found.next()?;
    (found.next().is_none() && letter < key.choices.len()).then_some(letter)
}

/// The same words over and over.
fn is_babble(words: &[Word]) -> bool {
    let twice = words.windows(2).filter(|pair| pair[0].text == pair[1].text).count();
    let distinct: HashSet<&str> = words.iter().map(|word| word.text.as_str()).collect();
    (words.len() >= 6 && distinct.len() * 2 < words.len()) || twice * 4 > words.len()
}

fn tenths(score: f32) -> u8 {
    (score.clamp(0.0, 1.0) * 10.0).round() as u8
}
