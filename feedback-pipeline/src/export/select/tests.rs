//! Which samples become examples.

use super::*;
use crate::export::left_out::Split;
use crate::export::options::{Aggregate, Format};
use schemas::Problem;

fn plan(aggregate: Aggregate, margin: Option<f64>) -> Plan {
    Plan {
        format: Format::Preference,
        round: 1,
        source: Some(Source::Scores),
        splits: vec![Split::Train],
        threshold: 0.5,
        margin,
        aggregate,
        pictures: true,
        instruction: String::new(),
        settings: Default::default(),
        keep_duplicates: false,
    }
}

/// A problem with samples of these scores; those whose last score is negative are cut off before it.
fn feedback(scores: &[&[f32]]) -> Feedback {
    let problem = Problem {
        problem_id: "p".into(),
        split: "train".into(),
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
    };
    let samples = scores.iter().enumerate().map(|(number, scores)| Sample {
        rollout_id: format!("s{number}"),
        text: format!("Text {number}."),
        sentences: scores.iter().map(|score| score.to_string()).collect(),
        scores: scores.iter().copied().filter(|score| *score >= 0.0).collect(),
        spreads: Vec::new(),
        truncated: scores.iter().any(|score| *score < 0.0),
        teacher: "t".into(),
        opinions: vec!["t".into()],
    });
    Feedback {
        problem,
        split: Split::Train,
        samples: samples.collect(),
        corrections: Vec::new(),
        verdicts: Vec::new(),
    }
}

fn counted(left: &LeftOut) -> Vec<(Reason, u64)> {
    left.rows().map(|(_, reason, count)| (reason, count)).collect()
}

fn pair(plan: &Plan, scores: &[&[f32]]) -> (Option<[String; 2]>, Vec<(Reason, u64)>) {
    let mut left = LeftOut::default();
    let pair = Selection::new(plan).pairs(&feedback(scores), &mut left).pop();
    (pair.map(|pair| pair.origin.rows.try_into().unwrap()), counted(&left))
}

fn rows(first: &str, second: &str) -> Option<[String; 2]> {
    Some([first.to_owned(), second.to_owned()])
}

#[test]
fn a_pair_is_the_best_over_the_worst_sample() {
    let mean = plan(Aggregate::Mean, None);
    let samples: &[&[f32]] = &[&[0.5, 0.5], &[1.0, 0.2], &[0.0, 0.9], &[0.5, 0.5]];
    assert_eq!(pair(&mean, samples), (rows("s1", "s2"), vec![(Reason::BetweenBestAndWorst, 2)]));
    // By their worst sentence, the order differs; of several equal ones, the first counts.
    let min = plan(Aggregate::Min, None);
    assert_eq!(pair(&min, samples).0, rows("s0", "s2"));
    assert_eq!(pair(&mean, &[&[0.5]]), (None, vec![(Reason::OnlySample, 1)]));
    assert_eq!(pair(&mean, &[]), (None, vec![]));
}

#[test]
fn a_margin_is_a_least_difference() {
    // 0.7 - 0.6 is a little less than 0.1 in binary numbers.
    assert_eq!(pair(&plan(Aggregate::Mean, None), &[&[0.6], &[0.7]]).0, rows("s1", "s0"));
    let far = plan(Aggregate::Mean, Some(0.2));
    assert_eq!(pair(&far, &[&[0.6], &[0.7]]), (None, vec![(Reason::WithinMargin, 2)]));
    let none = plan(Aggregate::Mean, Some(0.0));
    assert_eq!(pair(&none, &[&[0.6], &[0.6]]), (None, vec![(Reason::WithinMargin, 2)]));
    assert_eq!(pair(&none, &[&[0.6], &[0.61]]).0, rows("s1", "s0"));
}

#[test]
fn a_rationale_that_was_cut_off_is_never_one_to_follow() {
    let mean = plan(Aggregate::Mean, None);
    assert_eq!(pair(&mean, &[&[1.0, -1.0], &[0.6], &[0.2]]).0, rows("s1", "s2"));
    assert_eq!(pair(&mean, &[&[0.1, -1.0], &[0.6]]).0, rows("s1", "s0"));
    assert_eq!(pair(&mean, &[&[1.0, -1.0], &[0.9, -1.0]]), (None, vec![(Reason::Truncated, 2)]));
    let mut left = LeftOut::default();
    let labelled = Selection::new(&mean).labelled(&feedback(&[&[1.0, -1.0], &[0.1, -1.0]]), &mut left);
    assert_eq!(labelled.iter().map(|example| example.is_good).collect::<Vec<_>>(), [false]);
    assert_eq!(counted(&left), [(Reason::Truncated, 1)]);
    let mut left = LeftOut::default();
    let targets = Selection::new(&mean).targets(&feedback(&[&[1.0, -1.0], &[0.8], &[0.7]]), &mut left);
    assert_eq!(targets.iter().map(|target| target.origin.rows[0].as_str()).collect::<Vec<_>>(), ["s1"]);
    assert_eq!(counted(&left), [(Reason::Truncated, 1), (Reason::NotBest, 1)]);
}

#[test]
fn a_label_needs_more_than_the_threshold() {
    let labels = |margin: Option<f64>| {
        let (plan, mut left) = (plan(Aggregate::Mean, margin), LeftOut::default());
        let samples: &[&[f32]] = &[&[0.5], &[0.6], &[0.4], &[1.0]];
        let labelled = Selection::new(&plan).labelled(&feedback(samples), &mut left);
        let labels: Vec<(String, bool)> =
            labelled.iter().map(|example| (example.origin.rows[0].clone(), example.is_good)).collect();
        (labels, counted(&left))
    };
    let named = |labels: &[(&str, bool)]| -> Vec<(String, bool)> {
        labels.iter().map(|(id, is_good)| ((*id).to_owned(), *is_good)).collect()
    };
    assert_eq!(labels(None), (named(&[("s0", false), ("s1", true), ("s2", false), ("s3", true)]), vec![]));
    let left = vec![(Reason::NearThreshold, 3)];
    assert_eq!(labels(Some(0.2)), (named(&[("s3", true)]), left));
}
