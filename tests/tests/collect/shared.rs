//! Shared by these tests.

use schemas::{Correction, Dataset, Judgement, Reject, Request, Score, TimestampMs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use workspace_tests::command::{Ran, collect_feedback, run};
use workspace_tests::small_dataset::{Size, make};
use workspace_tests::teacher_service::{Options, TeacherService};

/// A dataset in a temporary folder.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) dataset: Dataset,
}

impl Place {
    pub(crate) fn new(problems: usize, samples: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dataset = make(&folder.path().join("small"), Size { problems, samples }).unwrap();
        // One request per sample, since many tests count requests.
        std::fs::write(dataset.root().join("ares.toml"), "[teacher]\nsamples_per_request = 1\n").unwrap();
        Self { folder, dataset }
    }

    /// A dataset whose samples are grouped by problem, as by default.
    pub(crate) fn grouped(problems: usize, samples: u32) -> Self {
        let place = Self::new(problems, samples);
        std::fs::remove_file(place.path().join("ares.toml")).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.dataset.root()
    }

    pub(crate) fn service(&self, options: Options) -> TeacherService {
        TeacherService::start(Options { data: vec![self.path().into()], ..options }).unwrap()
    }

    /// `collect-feedback --round 1` over HTTP.
    pub(crate) fn collect(&self, service: &TeacherService, more: &[&str]) -> Ran {
        let url = service.url();
        let mut arguments = vec!["--round", "1", "--teacher", "openai", "--base-url", &url];
        arguments.extend(more);
        run(collect_feedback(self.path(), &arguments)).unwrap()
    }

    /// `collect-feedback` with the embedded Teacher.
    pub(crate) fn reference(&self, arguments: &[&str]) -> Ran {
        run(collect_feedback(self.path(), arguments)).unwrap()
    }

    pub(crate) fn tables(&self) -> Tables {
        Tables::read(&self.dataset)
    }
}

/// All feedback tables of round 1, without times and durations.
#[derive(Debug, PartialEq)]
pub(crate) struct Tables {
    pub(crate) scores: Vec<Score>,
    pub(crate) corrections: Vec<Correction>,
    pub(crate) judgements: Vec<Judgement>,
    pub(crate) rejects: Vec<Reject>,
    pub(crate) requests: Vec<Request>,
}

impl Tables {
    pub(crate) fn read(dataset: &Dataset) -> Self {
        let zero = TimestampMs(0);
        let mut tables = Self {
            scores: dataset.read(1).unwrap(),
            corrections: dataset.read(1).unwrap(),
            judgements: dataset.read(1).unwrap(),
            rejects: dataset.read(1).unwrap(),
            requests: dataset.read(1).unwrap(),
        };
        tables.scores.iter_mut().for_each(|row| row.scored_at = zero);
        tables.corrections.iter_mut().for_each(|row| row.corrected_at = zero);
        tables.judgements.iter_mut().for_each(|row| row.judged_at = zero);
        for row in &mut tables.requests {
            (row.started_at, row.latency_ms) = (zero, 0);
        }
        // Several runs write several parts; the rows are what counts.
        tables
            .scores
            .sort_by_key(|row| (row.rollout_id.clone(), row.teacher.clone(), row.repeat, row.sentence_index));
        tables.corrections.sort_by_key(|row| row.rationale_id.clone());
        tables
            .requests
            .sort_by_key(|row| (row.kind.clone(), row.subject_id.clone(), row.model.clone(), row.repeat));
        tables
            .rejects
            .sort_by_key(|row| (row.kind.clone(), row.subject_id.clone(), row.teacher.clone(), row.repeat));
        tables
    }

    /// The same without columns that depend on the number of attempts.
    pub(crate) fn without_effort(mut self) -> Self {
        for row in &mut self.requests {
            (row.attempts, row.input_tokens, row.output_tokens, row.cost_usd) = (0, 0, 0, None);
        }
        self
    }
}

/// A service that answers fast.
pub(crate) fn fast() -> Options {
    Options { latency: Duration::from_millis(2), ..Options::default() }
}

/// Every file below a folder, with its length and modification time.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                open.push(entry.path());
            } else {
                found.push((entry.path(), about.len(), about.modified().unwrap()));
            }
        }
    }
    found.sort();
    found
}
