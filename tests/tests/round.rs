//! A whole round with both real commands, on part of the sample set, with the embedded Teacher.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use schemas::{Answer, Correction, Dataset, Judgement, Problem, Rationale, Rollout, Score, table};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use workspace_tests::command::binary;

const SETTINGS: &str = r#"
[student]
checkpoints = "CHECKPOINTS"
device = "cpu"
max_source_tokens = 128
[rollout]
samples = 2
max_new_tokens = 24
[rl]
passes = 1
[sft]
epochs = 2
learning_rate = 1e-3
[answer]
epochs = 1
"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Every tenth problem of the sample set, with its pictures.
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let sample = Dataset::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample"));
        let few: Vec<Problem> = sample.problems().unwrap().into_iter().step_by(10).collect();
        let dataset = place.dataset();
        for image in few.iter().filter_map(|problem| problem.image.as_ref()) {
            let bytes = std::fs::read(sample.root().join(image)).unwrap();
            schemas::file::write_bytes(&dataset.root().join(image), &bytes).unwrap();
        }
        table::write(&dataset.problems_path(), few, &schemas::Provenance::new("test", "")).unwrap();
        let checkpoints = place.folder.path().join("checkpoints").display().to_string();
        std::fs::write(place.folder.path().join("ares.toml"), SETTINGS.replace("CHECKPOINTS", &checkpoints))
            .unwrap();
        place
    }

    fn dataset(&self) -> Dataset {
        Dataset::at(self.folder.path().join("data"))
    }

    /// Output of a command, which must succeed.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(binary(program));
        command.current_dir(self.folder.path()).args(arguments).args([
            "--data",
            "data",
            "--config",
            "ares.toml",
        ]);
        let output = command.output().unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {said}{errors}");
        said.into_owned()
    }
}

#[test]
fn two_rounds_by_the_commands_that_each_names() {
    let place = Place::new();
    let (train, collect) = ("train", "collect-feedback");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample/tokenizer");
    let base = place.folder.path().join("checkpoints/base").display().to_string();
    place.run(train, &["features"]);
    place.run(
        train,
        &["init", "--tokenizer", &tokenizer.display().to_string(), "--shape", "tiny", "--out", &base],
    );
    place.run(train, &["eval"]);
    for round in ["1", "2"] {
        let said = place.run(train, &["--round", round]);
        assert!(said.contains(&format!("wait for scores; next: collect-feedback --round {round}")), "{said}");
        let said = place.run(collect, &["--round", round]);
        assert!(said.contains(&format!("next: train --round {round}")), "{said}");
        let said = place.run(train, &["--round", round]);
        assert!(
            said.contains(&format!("wait for corrections; next: collect-feedback --round {round}")),
            "{said}"
        );
        place.run(collect, &["--round", round]);
        let said = place.run(train, &["--round", round]);
        assert!(said.contains(&format!("round {round}: complete")), "{said}");
        let said = place.run(collect, &["--round", round]);
        let next = round.parse::<u32>().unwrap() + 1;
        assert!(
            said.contains("nothing to do") && said.contains(&format!("next: train --round {next}")),
            "{said}"
        );
    }
    let said = place.run(collect, &["judge", "--round", "2", "--both-orders"]);
    assert!(said.contains("against base: win rate"), "{said}");
    assert!(
        place.run(collect, &["audit", "--round", "1", "--sample", "5", "--json"]).contains("\"rollouts\": 5")
    );
    assert!(place.run(collect, &["report", "--round", "2"]).contains("report-round-2.html"));
    assert!(place.run(collect, &["status"]).contains("The books balance."));

    let dataset = place.dataset();
    let problems = dataset.problems().unwrap();
    let count = |split: &str| problems.iter().filter(|problem| problem.split == split).count();
    for round in [1, 2] {
        let rollouts: Vec<Rollout> = dataset.read(round).unwrap();
        assert_eq!(rollouts.len(), 2 * count("train"));
        let scores: Vec<Score> = dataset.read(round).unwrap();
        let sentences: usize = rollouts.iter().map(|rollout| rollout.sentences.len()).sum();
        assert_eq!(scores.len(), sentences);
        let of_stage = |stage: &str| -> Vec<Rationale> {
            let mut rows: Vec<Rationale> = dataset.read(round).unwrap();
            rows.retain(|row| row.stage == stage);
            rows
        };
        let said = of_stage("rl").into_iter().filter(|row| !row.deduplicated.trim().is_empty());
        let said: HashSet<String> = said.map(|row| row.rationale_id).collect();
        let corrected: HashSet<String> =
            dataset.read::<Correction>(round).unwrap().into_iter().map(|row| row.rationale_id).collect();
        assert_eq!(said, corrected);
        assert_eq!(of_stage("sft").len(), problems.len());
        let answers: Vec<Answer> = dataset.read(round).unwrap();
        assert_eq!(answers.len(), count("val") + count("test"));
    }
    // Both rationales of a pair must have text, or there is nothing to compare.
    let judged: Vec<Judgement> = dataset.read(2).unwrap();
    assert!(judged.len() <= 2 * count("test") && judged.len().is_multiple_of(2));
}
