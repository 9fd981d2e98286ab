//! Which of two rationales is better.

use super::grade::{Grade, grades};
use super::key::Key;
use schemas::{Problem, sentences};

/// Which of two rationales is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The first.
    A,
    /// The second.
    B,
    /// Neither.
    Tie,
}

/// Qualities closer than this are a tie.
const MARGIN: f32 = 0.05;

/// Compares two rationales by the quality of each alone, so that their order does not matter.
pub(super) fn compare(problem: &Problem, a: &str, b: &str) -> Preference {
    let key = Key::new(problem);
    let difference = quality(&key, a) - quality(&key, b);
    if difference > MARGIN {
        Preference::A
    } else if difference < -MARGIN {
        Preference::B
    } else {
        Preference::Tie
    }
}

/// A quality from 0 to 1: correct sentences, how much of the solution they cover and in which order, a
/// correct answer, no repeats.
fn quality(key: &Key, rationale: &str) -> f32 {
    let sentences = sentences::sentences(rationale);
    let grades = grades(key, &sentences);
    if grades.is_empty() {
        return 0.2 * conclusion(key, &grades);
    }
    let count = grades.len() as f32;
    let mean = grades.iter().map(|grade| grade.score()).sum::<f32>() / count;
    let covered = |gold: usize| grades.iter().any(|grade| grade.covers_gold() && grade.gold == Some(gold));
    let coverage = match key.gold.len() {
        0 => 0.0,
        all => (0..all).filter(|gold| covered(*gold)).count() as f32 / all as f32,
    };
    let repeated = grades.iter().filter(|grade| grade.repeated).count() as f32 / count;
    (0.4 * mean + 0.2 * coverage + 0.2 * order(&grades) + 0.2 * conclusion(key, &grades) - 0.1 * repeated)
        .max(0.0)
}

/// Fraction of adjacent solution steps that are in order: complete but scrambled reasoning is worse.
fn order(grades: &[Grade]) -> f32 {
    let steps: Vec<usize> = grades
        .iter()
        .filter(|grade| grade.covers_gold() && !grade.repeated)
        .filter_map(|grade| grade.gold)
        .collect();
    match steps.len() {
        0 => 0.0,
        1 => 1.0,
        count => steps.windows(2).filter(|pair| pair[0] < pair[1]).count() as f32 / (count - 1) as f32,
    }
}

/// 1 for the correct answer, 0 for another one, in between for none.
fn conclusion(key: &Key, grades: &[Grade]) -> f32 {
    let concluding = |grade: &&Grade| key.conclusion.is_some() && grade.gold == key.conclusion;
    if grades.iter().filter(concluding).any(|grade| grade.contradicts) {
        0.0
    } else if grades.iter().filter(concluding).any(|grade| grade.tenths >= 6) {
        1.0
    } else {
        0.4
    }
}
