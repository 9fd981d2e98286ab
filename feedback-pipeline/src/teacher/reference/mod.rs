//! The embedded Teacher: grades, corrects and judges by the dataset's own solution and answer, without
//! network or key.
//!
//! It is a Teacher for trials, tests and the demo. It compares words without understanding them: a correct
//! idea that is not in the solution earns little. It is deterministic, and its grades are in steps of a
//! tenth, as requested from a large model.

mod compare;
mod grade;
mod key;
mod opposites;
mod repair;
mod words;

pub use compare::Preference;

use schemas::Problem;

/// A score for each sentence of a rationale: 1.0 right, 0.5 neutral, 0.0 wrong or repeated.
pub fn score(problem: &Problem, sentences: &[&str]) -> Vec<f32> {
    grade::grades(&key::Key::new(problem), sentences).into_iter().map(grade::Grade::score).collect()
}

/// The same, with short reasons.
pub fn score_with_reasons(problem: &Problem, sentences: &[&str]) -> Vec<(f32, &'static str)> {
    let grades = grade::grades(&key::Key::new(problem), sentences);
    grades.into_iter().map(|grade| (grade.score(), grade.reason())).collect()
}

/// The repaired rationale, without `Solution:` before it.
///
/// Right and neutral sentences keep their order, repeats are removed, wrong ones are replaced by the matching
/// gold sentence, and the conclusion is added if it is missing. Every sentence of the result scores 0.5 or
/// more, and repairing it again changes nothing.
pub fn correct(problem: &Problem, rationale: &str) -> String {
    repair::repair(problem, rationale)
}

/// The better of two rationales, by their sentences, how much of the solution they cover, in which order, and the
/// answer they reach.
pub fn judge(problem: &Problem, a: &str, b: &str) -> Preference {
    compare::compare(problem, a, b)
}
