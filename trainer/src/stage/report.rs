//! Accuracy by class, as ScienceQA's evaluation reports it.

use schemas::{Answer, Problem};
use std::collections::HashMap;

/// Classes in the order of the paper's table.
type IsIn = fn(&Problem) -> bool;
const CLASSES: [(&str, IsIn); 9] = [
    ("NAT", |problem| problem.subject.as_deref() == Some("natural science")),
    ("SOC", |problem| problem.subject.as_deref() == Some("social science")),
    ("LAN", |problem| problem.subject.as_deref() == Some("language science")),
    ("TXT", |problem| !problem.hint.trim().is_empty()),
    ("IMG", |problem| problem.image.is_some()),
    ("NO", |problem| problem.hint.trim().is_empty() && problem.image.is_none()),
    ("G1-6", |problem| grade(problem).is_some_and(|grade| grade <= 6)),
    ("G7-12", |problem| grade(problem).is_some_and(|grade| grade >= 7)),
    ("average", |_| true),
];

fn grade(problem: &Problem) -> Option<u32> {
    problem.grade.as_deref()?.strip_prefix("grade")?.parse().ok()
}

/// Share of right answers and number of answers by class; classes without answers are left out, and so are answers
/// to problems whose right option is hidden.
pub(super) fn accuracy<'a>(
    answers: impl Iterator<Item = &'a Answer>,
    problems: &HashMap<&str, &Problem>,
) -> Vec<(&'static str, f64, usize)> {
    let mut sums = [(0usize, 0usize); CLASSES.len()];
    for answer in answers {
        let (Some(problem), Some(correct)) = (problems.get(answer.problem_id.as_str()), answer.correct)
        else {
            continue;
        };
        for (sum, (_, is_in)) in sums.iter_mut().zip(CLASSES) {
            if is_in(problem) {
                sum.0 += usize::from(correct);
                sum.1 += 1;
            }
        }
    }
    let named = CLASSES.iter().zip(sums).filter(|(_, (_, count))| *count > 0);
    named.map(|((class, _), (right, count))| (*class, right as f64 / count as f64, count)).collect()
}
