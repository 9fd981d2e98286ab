//! The answer model through the real `train`: checkpoint selection, training data, and accuracy by class.

use crate::small::{Place, error_lines};
use schemas::{Answer, Metric};
use std::collections::BTreeMap;

/// A round up to the fine-tuned policy, with a few val and test problems.
fn fine_tuned() -> Place {
    let place = Place::new(170);
    place.fine_tuned()
}

fn answer(place: &Place, flags: &[&str]) -> String {
    let output = place.train(&["--round", "1", "--stage", "answer"]).args(flags).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn adapter(place: &Place) -> Vec<u8> {
    let file = place.checkpoint("round-1/answer").join("adapter_model.safetensors");
    let bytes = std::fs::read(file).expect("adapter");
    // The header contains the settings too; the matrices follow it.
    let head = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[8 + head..].to_vec()
}

#[test]
fn the_best_pass_of_the_answer_model_is_kept() {
    let start = fine_tuned();
    // A learning rate far too high, so that passes differ.
    let fast = ["--answer-epochs", "9", "--answer-learning-rate", "0.1"];
    let last = start.copy();
    answer(&last, &fast);
    for (keep, patience) in [("val_loss", 2), ("val_accuracy", 3)] {
        let place = start.copy();
        let patience = patience.to_string();
        let flags = ["--answer-keep", keep, "--answer-patience", &patience, "--answer-warmup", "0.1"];
        let said = answer(&place, &[&fast[..], &flags[..]].concat());
        let numbers = place.numbers("answer", keep);
        let better = |a: f64, b: f64| if keep == "val_loss" { a < b } else { a > b };
        let best = numbers.iter().copied().reduce(|best, n| if better(n, best) { n } else { best });
        let best = best.expect("measured after each pass");
        let at = numbers.iter().position(|number| *number == best).expect("the best");
        let patience: usize = patience.parse().expect("number");
        assert_eq!(numbers.len(), (at + 1 + patience).min(9), "{keep}: {numbers:?}");
        assert!(adapter(&place) != adapter(&last), "{keep}");
        if keep == "val_accuracy" {
            let accuracy = place.numbers("answer", "accuracy/sft/val/average");
            assert_eq!(accuracy, [best], "the answers are those of the best pass: {said}");
        }
        assert_eq!(place.hidden_files(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn patience_of_the_answer_model_needs_a_number() {
    let place = Place::new(2);
    let lines =
        error_lines(&place.train(&["--round", "1", "--answer-patience", "2"]).output().expect("train"));
    let expected = "answer.patience: expected answer.keep = val_loss or val_accuracy with it, found last";
    assert!(lines[0].contains(expected), "{lines:?}");
}

#[test]
fn the_gradient_of_the_answer_model_is_clipped() {
    let start = fine_tuned();
    let learned = |flags: &[&str]| {
        let place = start.copy();
        answer(&place, &[&["--answer-epochs", "1"], flags].concat());
        adapter(&place)
    };
    assert!(learned(&[]) != learned(&["--answer-max-grad-norm", "1e-9"]));
}

#[test]
fn rationales_stand_in_the_source_only_where_asked() {
    let start = fine_tuned();
    let learned = |flags: &[&str]| {
        let place = start.copy();
        answer(&place, &[&["--answer-epochs", "1"], flags].concat());
        adapter(&place)
    };
    let gold = ["--rationales", "gold"];
    let without = ["--prompt-format", "QCM-A"];
    assert!(learned(&[]) != learned(&gold), "gold solutions are other sources");
    assert!(learned(&[]) != learned(&without));
    assert!(learned(&without) == learned(&[&without[..], &gold[..]].concat()), "neither is read");
}

#[test]
fn accuracy_is_told_by_class() {
    let place = fine_tuned();
    let said = answer(&place, &["--answer-epochs", "1"]);
    let answers: Vec<Answer> = place.dataset().read(1).expect("answers");
    let problems = place.dataset().problems().expect("problems");
    let mut classes: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for row in answers.iter().filter(|row| row.split == "test") {
        let problem = problems.iter().find(|problem| problem.problem_id == row.problem_id).expect("problem");
        let grade: u32 = problem.grade.as_deref().unwrap_or_default()[5..].parse().expect("grade");
        let of = [
            match problem.subject.as_deref() {
                Some("natural science") => "NAT",
                Some("social science") => "SOC",
                _ => "LAN",
            },
            if problem.hint.is_empty() { "NO" } else { "TXT" },
            if grade <= 6 { "G1-6" } else { "G7-12" },
            "average",
        ];
        for class in of {
            let sum = classes.entry(class.to_owned()).or_default();
            *sum = (sum.0 + f64::from(row.correct == Some(true)), sum.1 + 1.0);
        }
        assert_eq!(row.correct, Some(row.predicted_index == problem.answer_index), "{row:?}");
    }
    assert!(classes.len() >= 6, "{classes:?}");
    let rows: Vec<Metric> = place.dataset().read(1).expect("metrics");
    let found: BTreeMap<String, f64> = rows
        .into_iter()
        .filter_map(|row| Some((row.name.strip_prefix("accuracy/sft/test/")?.to_owned(), row.value)))
        .collect();
    let expected: BTreeMap<String, f64> =
        classes.into_iter().map(|(class, (right, count))| (class, right / count)).collect();
    assert_eq!(found, expected);
    assert!(said.contains("test by class: "), "{said}");
}
