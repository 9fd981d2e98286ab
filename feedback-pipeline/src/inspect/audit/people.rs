//! `audit --labels`: how well each Teacher agrees with people. No request is sent.

use super::agreement::{DUST, POSITIONS};
use super::labels::{self, Label};
use super::statistics::{correlation, mean, ranks};
use crate::error::{Error, Result};
use crate::inspect::bootstrap::{deviation, draws, interval};
use schemas::number::grouped;
use schemas::opinions::Opinion;
use schemas::{Dataset, Problem, Score};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Skills shown separately; those with fewer labels are combined.
const SKILLS: usize = 10;
/// z of 95 % confidence and 80 % power: 1.960 + 0.842.
const Z: f64 = 2.802;
/// Differences in the mean distance from people for which the required labels are estimated.
const DIFFERENCES: [f64; 2] = [0.05, 0.02];

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Measure {
    /// The number; `None` where it is not defined.
    pub value: Option<f64>,
    /// Lower and upper bound; `None` for labels of fewer than two problems.
    pub interval: Option<[f64; 2]>,
}

/// A Teacher's agreement with people on some sentences.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Labelled sentences.
    pub sentences: usize,
    /// Share of equal scores.
    pub exact: Measure,
    /// Share of scores at most 0.1 apart.
    pub within_tenth: Measure,
    /// Spearman's rank correlation.
    pub rank_correlation: Measure,
    /// Cohen's κ of two classes: below the neutral score, and not below it.
    pub kappa: Measure,
    /// Mean distance of the two scores.
    pub distance: Measure,
    /// Mean of the Teacher's scores minus that of the people's.
    pub bias: Measure,
}

/// Agreement of one Teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfTeacher {
    /// The Teacher's model.
    pub teacher: String,
    /// Over all labelled sentences.
    pub all: Figures,
    /// By position of the sentence, from 1; 10 stands for all later ones, too.
    pub positions: Vec<(u32, Figures)>,
    /// By the problems' skill, the most frequent first.
    pub skills: Vec<(String, Figures)>,
    /// Number of labels needed to distinguish this Teacher from one whose mean distance from people differs
    /// by this much, if each is measured on different sentences.
    pub labels_needed: Vec<(f64, Option<u64>)>,
}

/// Two Teachers on the same sentences.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The two models.
    pub teachers: [String; 2],
    /// Sentences that both Teachers scored and people labelled.
    pub sentences: usize,
    /// Mean distance from people of the first minus that of the second: negative if the first is closer.
    pub difference: Measure,
    /// Number of labels that would show this difference (95 % confidence, 80 % power); `None` if there is
    /// none.
    pub labels_needed: Option<u64>,
}

/// The result of an audit against human labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct People {
    /// ARES round.
    pub round: u32,
    /// Labels with a score in the file.
    pub labels: usize,
    /// Number of labelled sentences.
    pub sentences: usize,
    /// Labelled sentences that no Teacher of the round has scored.
    pub without_score: usize,
    /// Lines that choose between two rationales, which are not compared.
    pub choices: usize,
    /// The neutral score, κ's boundary.
    pub neutral: f64,
    /// Each Teacher, by name.
    pub teachers: Vec<OfTeacher>,
    /// Each pair of Teachers.
    pub comparisons: Vec<Comparison>,
}

#[derive(Deserialize)]
struct Scored {
    rollout_id: String,
    problem_id: String,
    sentence_index: u32,
    sentence: String,
    score: f32,
    teacher: String,
    repeat: Option<u32>,
}

/// A sentence with a Teacher's score and a label.
#[derive(Debug, Clone)]
struct Item {
    key: (String, u32),
    problem: String,
    skill: String,
    teacher: f64,
    person: f64,
}

/// Compares the scores of a round with the labels in a file.
///
/// # Errors
/// If the file or a table cannot be read, a label is of another sentence, or no labelled sentence has a score.
pub fn run(dataset: &Dataset, round: u32, file: &Path, neutral: f64) -> Result<People> {
    let labels = labels::read(file)?;
    let skills: HashMap<String, String> =
        dataset.problems()?.into_iter().map(|p| (p.problem_id.clone(), skill(p))).collect();
    let mut by_teacher: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    let mut scored = std::collections::HashSet::new();
    let names = ["rollout_id", "problem_id", "sentence_index", "sentence", "score", "teacher", "repeat"];
    for row in dataset.stream_columns::<Score, Scored>(round, &names)? {
        let row = row?;
        let key = (row.rollout_id.clone(), row.sentence_index);
        let Some(label) = labels.of.get(&key) else { continue };
        check(label, &row, &key, round, file)?;
        scored.insert(key.clone());
        // Each scoring separately, since those of one Teacher are not independent.
        let opinion = Opinion { teacher: row.teacher, repeat: row.repeat.unwrap_or(0) };
        by_teacher.entry(opinion.to_string()).or_default().push(Item {
            skill: skills.get(&row.problem_id).cloned().unwrap_or_default(),
            problem: row.problem_id,
            teacher: f64::from(row.score),
            person: label.score,
            key,
        });
    }
    if scored.is_empty() {
        let message = format!(
            "expected labels of sentences with scores in round {round} of {}, found none among {}",
            dataset.root().display(),
            grouped(labels.of.len())
        );
        return Err(Error::bad_input(file.display().to_string(), message));
    }
    let comparisons = pairs(&by_teacher);
    let teachers = by_teacher.into_iter().map(|(name, items)| of_teacher(name, &items, neutral)).collect();
    Ok(People {
        round,
        labels: labels.count,
        sentences: labels.of.len(),
        without_score: labels.of.len() - scored.len(),
        choices: labels.choices,
        neutral,
        teachers,
        comparisons,
    })
}

fn skill(problem: Problem) -> String {
    problem.skill.or(problem.topic).or(problem.subject).unwrap_or_else(|| "(none)".to_owned())
}

/// What lines say about a sentence must be so of the sentence that was scored: else they are of another dataset or round.
fn check(label: &Label, scored: &Scored, key: &(String, u32), round: u32, file: &Path) -> Result<()> {
    let (rollout, index) = key;
    for claim in &label.claims {
        let wrong =
            |message| Err(Error::bad_input(format!("{}, line {}", file.display(), claim.line), message));
        if let Some(found) = claim.round.filter(|found| *found != round) {
            return wrong(format!("`round`: expected {round}, that of {rollout}, found {found}"));
        }
        if let Some(found) = claim.problem_id.as_ref().filter(|found| **found != scored.problem_id) {
            let expected = &scored.problem_id;
            return wrong(format!("`problem_id`: expected `{expected}`, that of {rollout}, found `{found}`"));
        }
        if let Some(found) = claim.sentence.as_ref().filter(|found| found.trim() != scored.sentence.trim()) {
            let expected = &scored.sentence;
            return wrong(format!(
                "sentence {index} of {rollout} differs: expected `{expected}`, found `{found}`"
            ));
        }
    }
    Ok(())
}

/// Statistics of items, in the order of [`Figures`].
fn numbers(items: &[Item], chosen: &[usize], neutral: f64) -> [Option<f64>; 6] {
    let chosen: Vec<&Item> = chosen.iter().filter_map(|at| items.get(*at)).collect();
    if chosen.is_empty() {
        return [None; 6];
    }
    let over = |value: &dyn Fn(&Item) -> f64| mean(chosen.iter().map(|item| value(item)));
    let share = |near: f64| over(&|item| f64::from(u8::from((item.teacher - item.person).abs() <= near)));
    let side =
        |value: &dyn Fn(&Item) -> f64| -> Vec<f32> { chosen.iter().map(|item| value(item) as f32).collect() };
    let is_low = |score: f64| score < neutral - DUST;
    let low = |value: &dyn Fn(&Item) -> f64| over(&|item| f64::from(u8::from(is_low(value(item)))));
    let (a, b) = (low(&|item| item.teacher), low(&|item| item.person));
    let observed = over(&|item| f64::from(u8::from(is_low(item.teacher) == is_low(item.person))));
    let by_chance = a * b + (1.0 - a) * (1.0 - b);
    [
        Some(share(DUST)),
        Some(share(0.1 + DUST)),
        correlation(&ranks(&side(&|item| item.teacher)), &ranks(&side(&|item| item.person))),
        (by_chance < 1.0 - 1e-12).then(|| (observed - by_chance) / (1.0 - by_chance)),
        Some(over(&|item| (item.teacher - item.person).abs())),
        Some(over(&|item| item.teacher - item.person)),
    ]
}

/// Items of one problem each.
fn clusters(items: &[Item], chosen: &[usize]) -> Vec<Vec<usize>> {
    let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for at in chosen {
        if let Some(item) = items.get(*at) {
            clusters.entry(&item.problem).or_default().push(*at);
        }
    }
    clusters.into_values().collect()
}

fn figures(items: &[Item], chosen: &[usize], neutral: f64) -> Figures {
    let values = numbers(items, chosen, neutral);
    let drawn = draws(&clusters(items, chosen), |sample| numbers(items, sample, neutral));
    let mut intervals = drawn.into_iter().map(interval);
    let mut measures = values.into_iter().map(|value| {
        let interval = intervals.next().flatten().filter(|_| value.is_some());
        Measure { value, interval }
    });
    let mut next = || measures.next().unwrap_or_default();
    Figures {
        sentences: chosen.len(),
        exact: next(),
        within_tenth: next(),
        rank_correlation: next(),
        kappa: next(),
        distance: next(),
        bias: next(),
    }
}

fn of_teacher(teacher: String, items: &[Item], neutral: f64) -> OfTeacher {
    let all: Vec<usize> = (0..items.len()).collect();
    let mut positions: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut skills: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        positions.entry((item.key.1 + 1).min(POSITIONS)).or_default().push(at);
        skills.entry(&item.skill).or_default().push(at);
    }
    let mut skills: Vec<(String, Vec<usize>)> =
        skills.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
    skills.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(&b.0)));
    if skills.len() > SKILLS {
        let rest: Vec<usize> = skills.split_off(SKILLS - 1).into_iter().flat_map(|(_, of)| of).collect();
        skills.push(("all others".to_owned(), rest));
    }
    let distances = |sample: &[usize]| [numbers(items, sample, neutral)[4]];
    let [drawn] = draws(&clusters(items, &all), distances);
    let error = deviation(&drawn);
    // Two Teachers on different sentences: the variances of both count.
    let needed = |difference: f64| needed(items.len(), error.map(|error| error * 2.0_f64.sqrt()), difference);
    OfTeacher {
        teacher,
        all: figures(items, &all, neutral),
        positions: positions.iter().map(|(position, of)| (*position, figures(items, of, neutral))).collect(),
        skills: skills.iter().map(|(skill, of)| (skill.clone(), figures(items, of, neutral))).collect(),
        labels_needed: DIFFERENCES.map(|difference| (difference, needed(difference))).to_vec(),
    }
}

/// Number of labels that show a difference, from the standard error with `sentences` labels, which falls with
/// the square root of their number.
fn needed(sentences: usize, error: Option<f64>, difference: f64) -> Option<u64> {
    let error = error.filter(|_| difference.abs() > 1e-9)?;
    let labels = sentences as f64 * (Z * error / difference).powi(2);
    // Never fewer than are needed to estimate the variance.
    (labels < 1e15).then(|| (labels.ceil() as u64).max(2))
}

/// Compares each pair of Teachers on the sentences that both scored.
fn pairs(by_teacher: &BTreeMap<String, Vec<Item>>) -> Vec<Comparison> {
    let teachers: Vec<(&String, &Vec<Item>)> = by_teacher.iter().collect();
    let mut found = Vec::new();
    for (at, (one, of_one)) in teachers.iter().enumerate() {
        for (other, of_other) in teachers.iter().skip(at + 1) {
            let scores: HashMap<&(String, u32), f64> =
                of_other.iter().map(|item| (&item.key, item.teacher)).collect();
            let shared: Vec<(&Item, f64)> =
                of_one.iter().filter_map(|item| Some((item, *scores.get(&item.key)?))).collect();
            if shared.is_empty() {
                continue;
            }
            let items: Vec<Item> = shared.iter().map(|(item, _)| (*item).clone()).collect();
            let differences: Vec<f64> = shared
                .iter()
                .map(|(item, other)| (item.teacher - item.person).abs() - (other - item.person).abs())
                .collect();
            let of =
                |sample: &[usize]| [Some(mean(sample.iter().filter_map(|at| differences.get(*at)).copied()))];
            let all: Vec<usize> = (0..items.len()).collect();
            let [value] = of(&all);
            let [drawn] = draws(&clusters(&items, &all), of);
            let error = deviation(&drawn);
            found.push(Comparison {
                teachers: [(*one).clone(), (*other).clone()],
                sentences: items.len(),
                labels_needed: needed(items.len(), error, value.unwrap_or_default()),
                difference: Measure { value, interval: interval(drawn) },
            });
        }
    }
    found
}

impl People {
    /// As one JSON object.
    ///
    /// # Errors
    /// Never, since all its numbers can be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: u32, teacher: f64, person: f64) -> Item {
        let name = number.to_string();
        Item {
            key: (name.clone(), number % 3),
            problem: name.clone(),
            skill: "s".to_owned(),
            teacher,
            person,
        }
    }

    /// Values of scipy 1.17.1 and scikit-learn 1.9.1, by tests/reference/make_label_values.py.
    #[test]
    fn figures_are_those_of_scipy_and_scikit_learn() {
        let teacher = [0.9, 0.5, 0.1, 0.4, 0.7, 0.5, 0.0, 1.0, 0.6, 0.3, 0.5, 0.8];
        let people = [1.0, 0.4, 0.1, 0.5, 0.7, 0.2, 0.2, 0.9, 0.3, 0.5, 0.5, 0.6];
        let items: Vec<Item> =
            (0..).zip(teacher.iter().zip(&people)).map(|(n, (t, p))| item(n, *t, *p)).collect();
        let all: Vec<usize> = (0..items.len()).collect();
        let found = numbers(&items, &all, 0.5);
        let expected =
            [0.25, 7.0 / 12.0, 0.777_976_360_427_950_5, 0.117_647_058_823_529_41, 0.4 / 3.0, 0.1 / 3.0];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} {expected}");
        }
        let figures = figures(&items, &all, 0.5);
        for measure in
            [figures.exact, figures.within_tenth, figures.rank_correlation, figures.kappa, figures.distance]
        {
            let [low, high] = measure.interval.unwrap();
            assert!(low <= measure.value.unwrap() && measure.value.unwrap() <= high && low < high);
        }
    }

    #[test]
    fn figures_that_are_not_defined() {
        let items = [item(0, 0.7, 0.9), item(1, 0.7, 0.8)];
        let [exact, within, rank, kappa, ..] = numbers(&items, &[0, 1], 0.5);
        assert_eq!((exact, within, rank, kappa), (Some(0.0), Some(0.5), None, None));
        assert_eq!(numbers(&items, &[], 0.5), [None; 6]);
        assert_eq!(figures(&items, &[0], 0.5).exact.interval, None, "one problem says nothing of others");
        // The neutral score itself does not count as below, despite float32 rounding.
        assert_eq!(
            numbers(&[item(0, f64::from(0.5_f32), 0.5), item(1, 0.4, 0.4)], &[0, 1], 0.5)[3],
            Some(1.0)
        );
    }

    #[test]
    fn labels_that_are_needed_fall_with_the_square_of_the_difference() {
        // With a standard error of 0.01 at 100 labels, 100 labels show a difference of 2.802 × 0.01 =
        // 0.02802.
        assert_eq!(needed(100, Some(0.01), 0.02802), Some(100));
        assert_eq!(needed(100, Some(0.01), 0.01401), Some(400));
        assert_eq!((needed(100, Some(0.01), 0.0), needed(100, None, 0.1)), (None, None));
    }

    #[test]
    fn two_teachers_are_compared_on_the_same_sentences() {
        let person = |number: u32| f64::from(number % 11) / 10.0;
        let near: Vec<Item> = (0..200).map(|n| item(n, person(n), person(n))).collect();
        let far: Vec<Item> = (0..220).map(|n| item(n, (person(n) - 0.1).abs(), person(n))).collect();
        let teachers = BTreeMap::from([("far".to_owned(), far.clone()), ("near".to_owned(), near)]);
        let [one] = &pairs(&teachers)[..] else { panic!() };
        assert_eq!((one.teachers.join(" "), one.sentences), ("far near".to_owned(), 200));
        assert!((one.difference.value.unwrap() - 0.1).abs() < 1e-9);
        assert!(one.labels_needed.unwrap() < 20, "{one:?}");
        let same = BTreeMap::from([("a".to_owned(), far.clone()), ("b".to_owned(), far)]);
        assert_eq!(pairs(&same)[0].labels_needed, None);
    }
}
