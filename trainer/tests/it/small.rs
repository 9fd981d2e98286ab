//! A small dataset written with the schemas' writers, a student for it, and simulated Teacher feedback.

use schemas::{
    Correction, Dataset, Metric, Problem, Provenance, Rationale, Rollout, Score, TimestampMs, table,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use trainer::checkpoint::hf;
use trainer::data::tokenizer::Tokenizer;
use trainer::model::mm_t5::StudentConfig;
use trainer::model::random_weights;

/// A 2×2 picture in PNG.
pub(crate) const PICTURE: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00,
    0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4, 0x89, 0x00,
    0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0xf0, 0x1f, 0x00, 0x05,
    0x00, 0x01, 0xff, 0x89, 0x99, 0x3d, 0x1d, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42,
    0x60, 0x82,
];

/// Settings of the small rounds; a step checkpoint after each step, so that kills may hit it half written.
const SETTINGS: &str = r#"
[student]
checkpoints = "CHECKPOINTS"
device = "cpu"
max_source_tokens = 64
save_every_secs = 0
join_timeout_secs = 60
rank_timeout_secs = 120
[rollout]
samples = 2
max_new_tokens = 6
[rl]
passes = 2
minibatch = 32
accumulation = 2
learning_rate = 1e-3
[sft]
epochs = 2
batch = 32
learning_rate = 1e-3
max_target_tokens = 16
"#;

/// Problem `number`; nearly all are of split train.
pub(crate) fn problem(number: usize) -> Problem {
    let split = match number {
        _ if number % 50 == 14 => "val",
        _ if number % 50 == 15 => "test",
        _ => "train",
    };
    let (a, b) = (number % 7 + 2, number % 5 + 3);
    Problem {
        problem_id: format!("p{number}"),
        split: split.into(),
        question: format!("Box {number} holds {a} red and {b} blue marbles. Which colour are most of them?"),
        choices: vec!["red".into(), "blue".into()],
        answer_index: Some(u8::from(b > a)),
        hint: if number % 100 < 64 { "Count the marbles.".into() } else { String::new() },
        caption: String::new(),
        lecture: String::new(),
        solution: format!("The box holds {a} red marbles. The box holds {b} blue marbles."),
        image: None,
        subject: Some(["natural science", "social science", "language science"][number / 50 % 3].into()),
        topic: None,
        category: None,
        skill: None,
        grade: Some(format!("grade{}", number % 12 + 1)),
        source: "test".into(),
    }
}

/// A folder with the dataset `data`, the base student and `ares.toml`.
pub(crate) struct Place {
    kept: TempDir,
}

impl Place {
    /// `problems` problems and a random student.
    pub(crate) fn new(problems: usize) -> Self {
        Self::with_student(problems, |_| {})
    }

    /// The same with another shape of student.
    pub(crate) fn with_student(problems: usize, change: impl Fn(&mut StudentConfig)) -> Self {
        let place = Self { kept: TempDir::new().expect("folder") };
        place.write_problems(problems);
        let tokenizer = tokenizer_folder();
        let tokens = Tokenizer::vocabulary_size(&tokenizer).expect("tokenizer");
        let mut config = StudentConfig {
            d_model: 32,
            d_kv: 8,
            d_ff: 48,
            num_layers: 1,
            num_decoder_layers: Some(1),
            num_heads: 2,
            ..StudentConfig::named("tiny", tokens, 16).expect("shape")
        };
        change(&mut config);
        let weights = random_weights(&config, 7);
        hf::write_student(&place.checkpoint("base"), &config, &weights, &tokenizer).expect("written");
        place.write_settings();
        place
    }

    /// The first `count` problems, in place of any others.
    pub(crate) fn write_problems(&self, count: usize) {
        let path = self.dataset().problems_path();
        table::write(&path, (0..count).map(problem), &provenance()).expect("written");
    }

    /// The same files in another folder.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self { kept: TempDir::new().expect("folder") };
        copy_tree(self.path(), copy.path());
        copy.write_settings();
        copy
    }

    fn write_settings(&self) {
        let checkpoints = self.path().join("checkpoints").display().to_string();
        let text = SETTINGS.replace("CHECKPOINTS", &checkpoints);
        fs::write(self.path().join("ares.toml"), text).expect("written");
    }

    pub(crate) fn path(&self) -> &Path {
        self.kept.path()
    }

    pub(crate) fn dataset(&self) -> Dataset {
        Dataset::at(self.path().join("data"))
    }

    /// Folder of a checkpoint: `base`, `round-1/rl`.
    pub(crate) fn checkpoint(&self, name: &str) -> PathBuf {
        self.path().join("checkpoints").join(name)
    }

    /// The real `train` on this place.
    pub(crate) fn train(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(self.path()).args(arguments).args(["--data", "data", "--config", "ares.toml"]);
        command
    }

    /// Round 1, one stage; its standard output.
    pub(crate) fn stage(&self, stage: &str) -> String {
        let output = self.train(&["--round", "1", "--stage", stage]).output().expect("train");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stage}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Round 1 with rollouts and their scores.
    pub(crate) fn scored(self) -> Self {
        self.scored_with(&[])
    }

    /// The same, sampled with these flags.
    pub(crate) fn scored_with(self, flags: &[&str]) -> Self {
        let output = self.train(&["--round", "1", "--stage", "rollout"]).args(flags).output().expect("train");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rollouts: Vec<Rollout> = self.dataset().read(1).expect("rollouts");
        self.write_scores(&rollouts, |score| score.score = score.score.min(0.9));
        self
    }

    /// Round 1 up to the fine-tuned policy and its rationales.
    pub(crate) fn fine_tuned(self) -> Self {
        let place = self.scored();
        place.stage("rl");
        place.write_corrections(|_| {});
        place.stage("sft");
        place
    }

    /// A stage's metric in round 1, by step.
    pub(crate) fn numbers(&self, stage: &str, name: &str) -> Vec<f64> {
        let mut rows: Vec<Metric> = self.dataset().read(1).expect("metrics");
        rows.retain(|row| row.stage == stage && row.name == name);
        rows.sort_by_key(|row| row.step);
        rows.into_iter().map(|row| row.value).collect()
    }

    /// Hidden files next to the checkpoints of round 1.
    pub(crate) fn hidden_files(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.path().join("checkpoints/round-1")).expect("folder");
        let paths = folder.map(|entry| entry.expect("entry").path());
        paths
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
            .collect()
    }

    /// Round 1, one stage that must be refused with status 2; returns the lines of its error.
    pub(crate) fn refused(&self, stage: &str) -> Vec<String> {
        error_lines(&self.train(&["--round", "1", "--stage", stage]).output().expect("train"))
    }

    /// Arbitrary scores for the sentences of these rollouts.
    pub(crate) fn write_scores(&self, rollouts: &[Rollout], change: impl Fn(&mut Score)) {
        let rows = rollouts.iter().flat_map(|rollout| {
            (0u32..).zip(&rollout.sentences).map(|(index, sentence)| Score {
                rollout_id: rollout.rollout_id.clone(),
                problem_id: rollout.problem_id.clone(),
                round: rollout.round,
                sample: rollout.sample,
                sentence_index: index,
                sentence: sentence.text.clone(),
                score: (sentence.text.len() % 11) as f32 / 10.0,
                teacher: "test".into(),
                prompt_version: "1".into(),
                request_key: "k".into(),
                cached: false,
                scored_at: TimestampMs(0),
                reason: None,
                repeat: None,
            })
        });
        let rows: Vec<Score> = rows
            .map(|mut score| {
                change(&mut score);
                score
            })
            .collect();
        let round = rollouts.first().map_or(1, |rollout| rollout.round);
        self.dataset().write_part(round, "test", rows, &provenance()).expect("written");
    }

    /// Corrections of all rationales that wait for one.
    pub(crate) fn write_corrections(&self, change: impl Fn(&mut Correction)) {
        let rationales: Vec<Rationale> = self.dataset().read(1).expect("rationales");
        let rows = rationales
            .into_iter()
            .filter(|row| row.stage == "rl" && !row.deduplicated.trim().is_empty())
            .map(|row| Correction {
                rationale_id: row.rationale_id,
                corrected: format!("Problem {} is about marbles.", row.problem_id),
                problem_id: row.problem_id,
                round: 1,
                original: row.deduplicated,
                changed: true,
                teacher: "test".into(),
                prompt_version: "1".into(),
                request_key: "k".into(),
                cached: false,
                corrected_at: TimestampMs(0),
            });
        let rows: Vec<Correction> = rows
            .map(|mut correction| {
                change(&mut correction);
                correction
            })
            .collect();
        self.dataset().write_part(1, "test", rows, &provenance()).expect("written");
    }
}

/// Lines of the error of a command that must have ended with status 2.
pub(crate) fn error_lines(output: &Output) -> Vec<String> {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    let lines = errors.lines().skip_while(|line| !line.starts_with("error: ")).map(ToOwned::to_owned);
    lines.collect()
}

pub(crate) fn provenance() -> Provenance {
    Provenance::new("test", "")
}

/// The sample set's tokenizer.
pub(crate) fn tokenizer_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/sample/tokenizer")
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}
