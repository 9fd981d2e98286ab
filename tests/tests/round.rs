//! A whole round with both real commands, on part of the sample set, with the embedded Teacher.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

use schemas::share::Share;
use schemas::{
    Answer, Correction, Dataset, Judgement, Metric, Problem, Rationale, Request, Rollout, Score, table,
};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use workspace_tests::command::binary;
use workspace_tests::teacher_service::{Options, Service, TeacherService};

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

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(program));
        command.current_dir(self.folder.path()).args(arguments).args([
            "--data",
            "data",
            "--config",
            "ares.toml",
        ]);
        command
    }

    /// The pictures' features and the base student.
    fn prepare(&self) {
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample/tokenizer");
        let base = self.folder.path().join("checkpoints/base").display().to_string();
        self.run("train", &["features"]);
        let tokenizer = tokenizer.display().to_string();
        self.run("train", &["init", "--tokenizer", &tokenizer, "--shape", "tiny", "--out", &base]);
    }

    /// What a command prints; it must succeed.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program, arguments);
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
    place.prepare();
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
        assert!(scores.iter().all(|score| score.round == round));
        let asked: Vec<Request> = dataset.read(round).unwrap();
        assert!(!asked.is_empty() && asked.iter().all(|request| request.round == round));
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

#[test]
fn a_round_with_two_teachers_and_two_repeats_that_is_killed_amid_the_scores() {
    const CONCURRENCY: u64 = 4;
    let place = Place::new();
    let (train, collect) = ("train", "collect-feedback");
    place.prepare();
    let data = vec![place.dataset().root().to_path_buf()];
    let options = Options { data, latency: Duration::from_millis(20), own_mind: 0.4, ..Options::default() };
    let openai = TeacherService::start(options.clone()).unwrap();
    let anthropic = TeacherService::start(Options { service: Service::Anthropic, ..options }).unwrap();
    let teachers = format!(
        "[teacher]\nprovider = \"openai\"\nmodel = \"gpt-4o\"\nbase_url = \"{}\"\nrepeats = 2\n\
         [limits]\nconcurrency = {CONCURRENCY}\n\
         [[teachers]]\nprovider = \"anthropic\"\nmodel = \"claude-haiku-5-5\"\nbase_url = \"{}\"\napi_key_env = \"OTHER_KEY\"\n\
         concurrency = {CONCURRENCY}\n",
        openai.url(),
        anthropic.url()
    );
    let settings =
        SETTINGS.replace("CHECKPOINTS", &place.folder.path().join("checkpoints").display().to_string());
    let settings = settings.replace("[rl]\n", "[rl]\nmax_spread = 0.3\n") + &teachers;
    std::fs::write(place.folder.path().join("ares.toml"), settings).unwrap();
    let with_key = |arguments: &[&str]| {
        let mut command = place.command(collect, arguments);
        command.env("OTHER_KEY", "a-key").stdin(Stdio::null());
        command
    };
    let said = place.run(train, &["--round", "1"]);
    assert!(said.contains("wait for scores"), "{said}");

    // Killed in the second of the four scorings; train reports whose opinions are missing.
    let mut child = with_key(&["--round", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while anthropic.stats().good < 6 {
        std::thread::sleep(Duration::from_millis(2));
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let said = place.run(train, &["--round", "1"]);
    assert!(said.contains("wait for scores by gpt-4o, claude-haiku-5-5; next: collect-feedback"), "{said}");
    let output = with_key(&["--round", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("next: train --round 1"), "{said}");
    assert!(openai.stats().bought_again() == 0 && anthropic.stats().bought_again() <= CONCURRENCY);

    let dataset = place.dataset();
    let rollouts: Vec<Rollout> = dataset.read(1).unwrap();
    let sentences: usize = rollouts.iter().map(|rollout| rollout.sentences.len()).sum();
    let mut by_sentence: HashMap<(String, u32), Vec<f64>> = HashMap::new();
    for row in dataset.read::<Score>(1).unwrap() {
        by_sentence.entry((row.rollout_id, row.sentence_index)).or_default().push(row.score.into());
    }
    assert_eq!(by_sentence.len(), sentences);
    assert!(by_sentence.values().all(|scores| scores.len() == 4), "two Teachers, twice each");

    let said = place.run(train, &["--round", "1"]);
    assert!(said.contains("sentences on which opinions differ"), "{said}");
    assert!(said.contains("wait for corrections; next: collect-feedback --round 1"), "{said}");
    let learned: Vec<Metric> = dataset.read(1).unwrap();
    let learned = learned.iter().find(|row| row.name == "mean_sentence_score").unwrap().value;
    let apart = |scores: &[f64]| {
        scores
            .iter()
            .fold(0.0, |most: f64, one| scores.iter().fold(most, |most, other| most.max(one - other)))
    };
    // If scores differ too much, the sentence counts as neutral.
    let counted = by_sentence.values().map(|scores| match apart(scores) > 0.3 {
        true => 0.5,
        false => scores.iter().sum::<f64>() / 4.0,
    });
    let expected = counted.sum::<f64>() / sentences as f64;
    assert!((learned - expected).abs() < 1e-4, "{learned} {expected}");

    // Corrections are the main Teacher's.
    let output = with_key(&["--round", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let corrections: Vec<Correction> = dataset.read(1).unwrap();
    assert!(!corrections.is_empty() && corrections.iter().all(|row| row.teacher == "gpt-4o"));
    let said = place.run(train, &["--round", "1"]);
    assert!(said.contains("round 1: complete"), "{said}");
    assert!(place.run(collect, &["status"]).contains("The books balance."));
}

/// A round samples some problems, and fewer of them are corrected; both commands select the same ones.
#[test]
fn rounds_about_a_share_of_the_problems() {
    let place = Place::new();
    let (train, collect) = ("train", "collect-feedback");
    let path = place.folder.path().join("ares.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let settings = settings.replace("[rollout]\n", "[rollout]\nproblems_share = 0.45\n");
    std::fs::write(&path, settings.replace("[sft]\n", "[sft]\ncorrections_share = 0.2\n")).unwrap();
    place.prepare();
    let dataset = place.dataset();
    let problems = dataset.problems().unwrap();
    let of_share = |share: Share| -> HashSet<String> {
        let train = problems.iter().filter(|problem| problem.split == "train");
        train.map(|problem| problem.problem_id.clone()).filter(|problem| share.contains(problem)).collect()
    };
    for round in [1, 2] {
        let number = round.to_string();
        // Samples, scores; RL, rationales; corrections; fine-tuning, answers.
        for program in [train, collect, train, collect, train] {
            place.run(program, &["--round", &number]);
        }
        let sampled: HashSet<String> =
            dataset.read::<Rollout>(round).unwrap().into_iter().map(|row| row.problem_id).collect();
        assert_eq!(sampled, of_share(Share::of_round(0.45, 42, round)));
        let mut asked: HashSet<String> = of_share(Share::of_round(0.2, 42, round));
        assert!(asked.is_subset(&sampled), "a smaller share is part of a larger one");
        let empty = dataset.read::<Rationale>(round).unwrap().into_iter();
        for row in empty.filter(|row| row.stage == "rl" && row.deduplicated.trim().is_empty()) {
            asked.remove(&row.problem_id);
        }
        let corrected: HashSet<String> =
            dataset.read::<Correction>(round).unwrap().into_iter().map(|row| row.problem_id).collect();
        assert_eq!(corrected, asked);
        assert!(place.run(train, &["--round", &number]).contains("complete"));
    }
    let status = place.run(collect, &["status"]);
    assert!(
        status.contains("outside the round's share") && status.contains("The books balance."),
        "{status}"
    );
}
