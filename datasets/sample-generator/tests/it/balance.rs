//! No shortcuts: guessing by option position, wording or rank is not much better than chance.

use crate::{answer, family, problems};
use schemas::Problem;
use std::collections::BTreeMap;

fn by_family() -> BTreeMap<String, Vec<Problem>> {
    let mut families: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
    for problem in problems() {
        families.entry(family(&problem).to_owned()).or_default().push(problem);
    }
    families
}

/// Accuracy of guessing at random.
fn chance(problems: &[&Problem]) -> f64 {
    problems.iter().map(|problem| 1.0 / problem.choices.len() as f64).sum::<f64>() / problems.len() as f64
}

/// Accuracy of `guess`.
fn hits(problems: &[&Problem], guess: impl Fn(&Problem) -> usize) -> f64 {
    problems.iter().filter(|problem| guess(problem) == answer(problem)).count() as f64 / problems.len() as f64
}

#[test]
fn no_place_wins() {
    for split in ["train", "val", "test"] {
        let all = problems();
        let all: Vec<&Problem> = all.iter().filter(|problem| problem.split == split).collect();
        for place in 0..4 {
            let hits = hits(&all, |_| place);
            assert!(hits < chance(&all) + 0.06, "{split}: place {place} wins {hits:.3}");
        }
    }
    for (family, problems) in by_family() {
        let problems: Vec<&Problem> = problems.iter().collect();
        for place in 0..4 {
            let hits = hits(&problems, |_| place);
            assert!(hits < chance(&problems) + 0.08, "{family}: place {place} wins {hits:.3}");
        }
    }
}

#[test]
fn no_wording_wins() {
    for (family, problems) in by_family() {
        let problems: Vec<&Problem> = problems.iter().collect();
        let mut right: BTreeMap<&str, f64> = BTreeMap::new();
        for problem in &problems {
            *right.entry(&problem.choices[answer(problem)]).or_default() += 1.0;
        }
        // Always chooses the option that is most often correct in the whole family.
        let favourite = |problem: &Problem| {
            let weight = |choice: &String| right.get(choice.as_str()).copied().unwrap_or_default();
            (0..problem.choices.len())
                .max_by(|&a, &b| weight(&problem.choices[a]).total_cmp(&weight(&problem.choices[b])))
                .unwrap()
        };
        let hits = hits(&problems, favourite);
        assert!(hits < chance(&problems) + 0.08, "{family}: the favourite wins {hits:.3}");
    }
}

#[test]
fn no_question_wins_where_there_is_a_picture() {
    for (family, problems) in by_family() {
        let (train, test): (Vec<&Problem>, Vec<&Problem>) =
            problems.iter().partition(|problem| problem.split == "train");
        if train[0].image.is_none() {
            continue;
        }
        // Chooses the most frequent train answer to the same words.
        let guess = |problem: &Problem| {
            let mut right = [0; 4];
            for known in train.iter().filter(|known| known.question == problem.question) {
                right[answer(known)] += 1;
            }
            (0..problem.choices.len()).max_by_key(|&at| right[at]).unwrap()
        };
        let hits = hits(&test, guess);
        assert!(hits < chance(&test) + 0.12, "{family}: the question alone wins {hits:.3}");
    }
}
