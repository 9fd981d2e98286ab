//! Human labels against the scores of a round, through the command.

use crate::fixture::{dataset, problem, provenance, rollout, scores};
use feedback_pipeline::inspect::audit::people;
use schemas::{Dataset, Score};
use std::fmt::Write;
use std::fs;
use tempfile::TempDir;

/// Forty problems of two skills, each with a rationale of two sentences; Teacher `far` has scored the first thirty only.
fn place() -> (TempDir, Dataset) {
    let folder = TempDir::new().unwrap();
    let subject = |number: u32| if number.is_multiple_of(4) { "maps" } else { "tides" };
    let problems =
        (0..40).map(|number| problem(&format!("p{number}"), "train", subject(number), "S.")).collect();
    let dataset = dataset(&folder, problems);
    let mut rows: Vec<Score> = Vec::new();
    for number in 0..40_u16 {
        let rollout = rollout(&format!("p{number}"), 1, 0, "Dover is south. So it is (B).");
        let score = f32::from(number % 11) / 10.0;
        let near = scores(&rollout, &[score, 1.0 - score]);
        if number < 30 {
            let far = scores(&rollout, &[(score - 0.3).abs(), 1.0 - score]);
            rows.extend(far.into_iter().map(|row| Score { teacher: "far".to_owned(), ..row }));
        }
        rows.extend(near.into_iter().map(|row| Score { teacher: "near".to_owned(), ..row }));
    }
    dataset.write_part(1, "00000", rows, &provenance()).unwrap();
    (folder, dataset)
}

/// Labels that agree with `near`.
fn labels() -> String {
    let mut text = String::new();
    for number in 0..40_u32 {
        let score = f64::from(number % 11) / 10.0;
        for (index, score) in [score, 1.0 - score].iter().enumerate() {
            writeln!(
                text,
                "{{\"rollout_id\": \"p{number}-r1-s0\", \"sentence_index\": {index}, \"score\": {score}}}"
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn each_teacher_is_compared_with_people_and_with_the_other() {
    let (folder, dataset) = place();
    let file = folder.path().join("people.jsonl");
    fs::write(&file, labels() + "{\"rollout_id\": \"gone\", \"sentence_index\": 0, \"score\": 1}\n").unwrap();
    let found = people::run(&dataset, 1, &file, 0.5).unwrap();
    assert_eq!((found.labels, found.sentences, found.without_score), (81, 81, 1));
    let [far, near] = &found.teachers[..] else { panic!("{found:?}") };
    assert_eq!(
        (far.teacher.as_str(), far.all.sentences, near.teacher.as_str(), near.all.sentences),
        ("far", 60, "near", 80)
    );
    assert_eq!((near.all.exact.value, near.all.kappa.value), (Some(1.0), Some(1.0)));
    assert!(near.all.distance.value.unwrap() < 1e-6, "but for float32");
    assert_eq!(far.all.exact.value, Some(0.5));
    let of_far: Vec<_> =
        far.positions.iter().map(|(place, of)| (*place, of.sentences, of.exact.value)).collect();
    assert_eq!(of_far, [(1, 30, Some(0.0)), (2, 30, Some(1.0))]);
    let skills: Vec<_> = near.skills.iter().map(|(skill, of)| (skill.as_str(), of.sentences)).collect();
    assert_eq!(skills, [("tides skill", 60), ("maps skill", 20)]);
    let [comparison] = &found.comparisons[..] else { panic!("{found:?}") };
    assert_eq!((comparison.teachers.join(" "), comparison.sentences), ("far near".to_owned(), 60));
    let [low, high] = comparison.difference.interval.unwrap();
    assert!(low > 0.0 && high < 0.3, "{comparison:?}");
    let shown = found.to_string();
    assert!(shown.contains("near is closer to people than far: 60 sentences"), "{shown}");
    assert!(shown.contains("labelled sentences without a score in this round: 1"), "{shown}");
    assert_eq!(people::run(&dataset, 1, &file, 0.5).unwrap(), found, "the same each time");
}

#[test]
fn labels_of_other_sentences_are_refused() {
    let (folder, dataset) = place();
    let file = folder.path().join("people.jsonl");
    let refused = |text: &str| {
        fs::write(&file, text).unwrap();
        let error = people::run(&dataset, 1, &file, 0.5).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string().replace(&format!("{}/", folder.path().display()), "@/")
    };
    assert_eq!(
        refused(
            "{\"rollout_id\": \"p1-r1-s0\", \"sentence_index\": 0, \"score\": 1, \"sentence\": \"Hull is south.\"}"
        ),
        "@/people.jsonl, line 1: sentence 0 of p1-r1-s0 differs: expected `Dover is south.`, found `Hull is south.`"
    );
    // Of a file with the labels of several people, each line.
    let label =
        |more: &str| format!("{{\"rollout_id\": \"p1-r1-s0\", \"sentence_index\": 0, \"score\": 1{more}}}\n");
    let right =
        label(", \"by\": \"a\", \"problem_id\": \"p1\", \"round\": 1, \"sentence\": \"Dover is south.\"");
    for (wrong, expected) in [
        (", \"round\": 2", "`round`: expected 1, that of p1-r1-s0, found 2"),
        (", \"problem_id\": \"p2\"", "`problem_id`: expected `p1`, that of p1-r1-s0, found `p2`"),
        (
            ", \"sentence\": \"Dover.\"",
            "sentence 0 of p1-r1-s0 differs: expected `Dover is south.`, found `Dover.`",
        ),
    ] {
        let text = right.clone() + &label(&format!(", \"by\": \"b\"{wrong}"));
        assert_eq!(refused(&text), format!("@/people.jsonl, line 2: {expected}"));
    }
    fs::write(&file, &right).unwrap();
    assert_eq!(people::run(&dataset, 1, &file, 0.5).unwrap().sentences, 1);
    assert_eq!(
        refused("{\"rollout_id\": \"p1-r2-s0\", \"sentence_index\": 0, \"score\": 1}"),
        "@/people.jsonl: expected labels of sentences with scores in round 1 of @/ports, found none among 1"
    );
}
