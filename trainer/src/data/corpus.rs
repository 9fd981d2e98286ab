//! The problems as the student sees them: source tokens and pictures, by problem id.

use super::prompt;
use super::tokenizer::Tokenizer;
use super::vision::ImageFeatures;
use super::vision::features::NO_PICTURES;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use schemas::number::counted;
use schemas::settings::StudentSettings;
use schemas::{Dataset, Problem};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this command has reported pictures without features: each of its stages opens the corpus.
static HAS_WARNED: AtomicBool = AtomicBool::new(false);

/// All problems of a dataset.
#[derive(Debug)]
pub struct Corpus {
    problems: Vec<Problem>,
    by_id: HashMap<String, usize>,
    /// Pictures.
    pub features: ImageFeatures,
}

impl Corpus {
    /// Reads the problems and opens their image features.
    ///
    /// # Errors
    /// If the problems or the features are broken or do not fit the student.
    pub fn open(dataset: &Dataset, settings: &StudentSettings, config: &dyn ModelConfig) -> Result<Self> {
        let problems = dataset.problems()?;
        let by_id =
            problems.iter().enumerate().map(|(row, problem)| (problem.problem_id.clone(), row)).collect();
        let pictures = problems.iter().filter(|problem| problem.image.is_some()).count();
        let path = dataset.vision_path(&settings.vision);
        let features = if settings.vision == NO_PICTURES {
            ImageFeatures::none(config.image_width())
        } else if path.is_file() {
            let features = ImageFeatures::open(&path, config.image_width())?;
            let missing = problems
                .iter()
                .filter(|problem| problem.image.is_some() && !features.has(&problem.problem_id))
                .count();
            if missing > 0 && !HAS_WARNED.swap(true, Ordering::Relaxed) {
                let path = path.display();
                schemas::warn!(
                    "warning: {path} has no features of {missing} of {}, which the student cannot see",
                    counted(pictures, "picture")
                );
            }
            features
        } else if pictures == 0 {
            ImageFeatures::none(config.image_width())
        } else {
            if !HAS_WARNED.swap(true, Ordering::Relaxed) {
                schemas::warn!(
                    "warning: {} does not exist: the student cannot see any of {} (create \
                     it with: train features --data {}; or use --vision none)",
                    path.display(),
                    counted(pictures, "picture"),
                    dataset.root().display()
                );
            }
            ImageFeatures::none(config.image_width())
        };
        Ok(Self { problems, by_id, features })
    }

    /// The problem of this id.
    ///
    /// # Errors
    /// If there is none; `origin` names the table that mentions it.
    pub fn get(&self, problem_id: &str, origin: &str) -> Result<&Problem> {
        self.by_id.get(problem_id).map(|&row| &self.problems[row]).ok_or_else(|| Error::BadInput {
            message: format!(
                "{origin}: problem_id: expected a problem of problems.parquet, found `{problem_id}`"
            ),
            hint: None,
        })
    }

    /// Problems of a split, in the file's order.
    pub fn split(&self, split: &str) -> Vec<&Problem> {
        self.problems.iter().filter(|problem| problem.split == split).collect()
    }
}

/// Source tokens of the rationale stage.
///
/// # Errors
/// If the tokenizer fails.
pub fn rationale_source(
    tokenizer: &Tokenizer,
    problem: &Problem,
    settings: &StudentSettings,
) -> Result<Vec<i64>> {
    tokenizer.encode(&prompt::rationale_source(problem, settings.use_caption), settings.max_source_tokens)
}
