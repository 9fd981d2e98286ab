//! The reference Teacher's knowledge of a problem: the gold sentences and everything else in the dataset.

use super::opposites;
use super::words::{self, Word, WordKind, words};
use schemas::{Problem, sentences};
use std::collections::{HashMap, HashSet};

/// A sentence and its words.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The sentence as the dataset has it.
    pub(super) text: String,
    /// Its words.
    pub(super) words: Vec<Word>,
    /// True if a line break precedes it.
    pub(super) new_line: bool,
}

impl Known {
    fn of(text: &str, new_line: bool) -> Self {
        Self { text: text.to_owned(), words: words(text), new_line }
    }
}

/// The dataset's own knowledge of a problem.
#[derive(Debug)]
pub(super) struct Key {
    /// Sentences of the solution without repeats; if there is no solution, what follows from the answer.
    pub(super) gold: Vec<Known>,
    /// Index of the gold sentence that names the answer; the last one if none does.
    pub(super) conclusion: Option<usize>,
    /// Sentences of lecture, hint and question: true, but no solution.
    pub(super) support: Vec<Known>,
    /// The options.
    pub(super) choices: Vec<Known>,
    /// Index of the right option.
    pub(super) answer: Option<usize>,
    vocabulary: HashSet<String>,
    pairs: HashSet<(String, String)>,
    telling: HashMap<String, u32>,
}

impl Key {
    /// Reads a problem.
    pub(super) fn new(problem: &Problem) -> Self {
        let choices: Vec<Known> = problem.choices.iter().map(|choice| Known::of(choice, false)).collect();
        let answer = problem.answer_index.map(usize::from).filter(|index| *index < choices.len());
        let mut gold = known_sentences(&problem.solution);
        let made_of_answer = gold.is_empty() && answer.is_some();
        if let Some(index) = answer.filter(|_| made_of_answer) {
            gold = from_answer(index, &choices[index].text);
        }
        let mut support = known_sentences(&problem.lecture);
        support.extend(known_sentences(&problem.hint));
        support.extend(known_sentences(&problem.question));

        let (mut vocabulary, mut pairs) = (HashSet::new(), HashSet::new());
        for known in gold.iter().chain(&support).chain(&choices) {
            vocabulary.extend(known.words.iter().map(|word| word.text.clone()));
            pairs.extend(known.words.windows(2).map(|pair| (pair[0].text.clone(), pair[1].text.clone())));
        }
        let telling = telling_words(&choices);
        let mut key = Self { gold, conclusion: None, support, choices, answer, vocabulary, pairs, telling };
        key.conclusion = if made_of_answer { key.gold.len().checked_sub(1) } else { key.find_conclusion() };
        key
    }

    /// The options that a word indicates, as bits; none for words that do not distinguish options.
    pub(super) fn choices_of(&self, word: &Word) -> u32 {
        self.telling.get(&word.text).copied().unwrap_or_default()
    }

    /// Indexes of the options that a sentence names in full.
    pub(super) fn named(&self, sentence: &[Word]) -> Vec<usize> {
        let said: HashSet<&str> = sentence.iter().map(|word| word.text.as_str()).collect();
        let named: Vec<usize> = (0..self.choices.len())
            .filter(|&index| {
                let mut heavy = self.choices[index]
                    .words
                    .iter()
                    .filter(|word| word.kind != WordKind::Function)
                    .peekable();
                heavy.peek().is_some() && heavy.all(|word| said.contains(word.text.as_str()))
            })
            .collect();
        // `New York City` also contains the words of an option `New York`: the longer one is meant.
        let contains = |long: usize, short: usize| {
            let long: HashSet<&str> =
                self.choices[long].words.iter().map(|word| word.text.as_str()).collect();
            let short = &self.choices[short].words;
            long.len() > short.len() && short.iter().all(|word| long.contains(word.text.as_str()))
        };
        named
            .iter()
            .copied()
            .filter(|&short| !named.iter().any(|&long| long != short && contains(long, short)))
            .collect()
    }

    /// Share of a sentence's heavier words that the dataset uses for this problem.
    pub(super) fn grounded(&self, sentence: &[Word]) -> f32 {
        let heavy = || sentence.iter().filter(|word| word.kind != WordKind::Function);
        share(heavy().filter(|word| self.vocabulary.contains(&word.text)).count(), heavy().count())
    }

    /// Fraction of adjacent words that are also adjacent in the dataset's texts for this problem.
    pub(super) fn fluent(&self, sentence: &[Word]) -> f32 {
        let pairs = sentence.windows(2);
        let known =
            pairs.clone().filter(|pair| self.pairs.contains(&(pair[0].text.clone(), pair[1].text.clone())));
        share(known.count(), pairs.count())
    }

    /// True if a sentence and the solution name colours, and none of the sentence's colours occurs in the
    /// problem's texts.
    pub(super) fn makes_up_colours(&self, sentence: &[Word]) -> bool {
        let colours = |words: &[Word]| words.iter().any(|word| opposites::is_colour(&word.text));
        colours(sentence)
            && self.gold.iter().any(|gold| colours(&gold.words))
            && !sentence
                .iter()
                .any(|word| opposites::is_colour(&word.text) && self.vocabulary.contains(&word.text))
    }

    fn find_conclusion(&self) -> Option<usize> {
        let naming = |index: &usize| {
            self.answer.is_some_and(|answer| self.named(&self.gold[*index].words) == [answer])
        };
        (0..self.gold.len()).rev().find(naming).or_else(|| self.gold.len().checked_sub(1))
    }
}

fn share(part: usize, whole: usize) -> f32 {
    if whole == 0 { 0.0 } else { part as f32 / whole as f32 }
}

/// The sentences of a text without repeats.
fn known_sentences(text: &str) -> Vec<Known> {
    let mut seen = HashSet::new();
    let mut end = 0;
    let mut known = Vec::new();
    for range in sentences::split(text) {
        let new_line = text[end..range.start].contains('\n') || text[end..range.start].contains("\\n");
        end = range.end;
        // Split again by itself: a sentence must remain one sentence in any context.
        let [alone] = sentences::sentences(&text[range])[..] else { continue };
        if seen.insert(sentences::repeat_key(alone)) {
            known.push(Known::of(alone, new_line));
        }
    }
    known
}

/// What follows from an answer without a solution. It names the letter, as students are to state their answer.
fn from_answer(index: usize, right: &str) -> Vec<Known> {
    let right = right.trim();
    let letter = u8::try_from(index).ok().filter(|index| *index < 26).map(|index| char::from(b'A' + index));
    let sentences = known_sentences(right);
    if right.ends_with(['.', '!', '?']) && !sentences.is_empty() {
        let stated = letter.map(|letter| Known::of(&format!("So the answer is ({letter})."), false));
        return sentences.into_iter().chain(stated).collect();
    }
    let stated = letter.map_or_else(String::new, |letter| format!(", and the answer is ({letter})"));
    vec![Known::of(&format!("So the right choice is {right}{stated}."), false)]
}

/// Words that some options have and others do not.
fn telling_words(choices: &[Known]) -> HashMap<String, u32> {
    let mut telling: HashMap<String, u32> = HashMap::new();
    for (index, choice) in choices.iter().enumerate().take(32) {
        for word in choice.words.iter().filter(|word| word.kind != WordKind::Function) {
            *telling.entry(word.text.clone()).or_default() |= 1 << index;
        }
    }
    let all = choices.iter().enumerate().take(32).fold(0, |bits, (index, _)| bits | 1 << index);
    telling.retain(|_, bits| *bits != all);
    telling
}

/// True if a sentence only says how to begin.
pub(super) fn is_starting_point(sentence: &[Word]) -> bool {
    const OPENINGS: &[&str] = &[
        "look at",
        "think about",
        "to find",
        "to decide",
        "to answer",
        "to determine",
        "to figure",
        "to see",
        "to solve",
        "to identify",
        "step 1",
        "step 2",
        "step 3",
        "first",
        "consider",
        "compare",
        "read the",
        "use the",
        "recall",
        "remember",
        "start with",
        "begin with",
        "let us",
        "we need",
        "you need",
    ];
    let opening = |opening: &&str| {
        let mut expected = opening.split(' ');
        let mut said = sentence.iter();
        expected
            .all(|expected| said.next().is_some_and(|word| words::stem(expected) == words::stem(&word.text)))
    };
    sentence.len() >= 3 && OPENINGS.iter().any(opening)
}
