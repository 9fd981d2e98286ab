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

/// Accuracy and number of answers by class; classes without answers and answers to problems with a hidden correct option are
/// left out.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prompt::tests::problem;

    #[test]
    fn each_grade_is_in_its_class() {
        let problems: Vec<Problem> = (1..=12)
            .map(|grade| Problem {
                problem_id: grade.to_string(),
                grade: Some(format!("grade{grade}")),
                ..problem()
            })
            .collect();
        let by_id: HashMap<&str, &Problem> =
            problems.iter().map(|problem| (problem.problem_id.as_str(), problem)).collect();
        // The answers to grades 6 and 7 are right, all others wrong.
        let answers: Vec<Answer> = (1..=12)
            .map(|grade: u8| Answer {
                problem_id: grade.to_string(),
                round: 1,
                split: "test".into(),
                stage: "sft".into(),
                predicted_index: Some(0),
                answer_index: Some(0),
                correct: Some(matches!(grade, 6 | 7)),
                text: String::new(),
            })
            .collect();
        let classes = accuracy(answers.iter(), &by_id);
        let of = |name: &str| {
            classes.iter().find(|(class, ..)| *class == name).map(|(_, share, count)| (*share, *count))
        };
        assert_eq!(of("G1-6"), Some((1.0 / 6.0, 6)));
        assert_eq!(of("G7-12"), Some((1.0 / 6.0, 6)));
        assert_eq!(of("average"), Some((2.0 / 12.0, 12)));
    }
}
