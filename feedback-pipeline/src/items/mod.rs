//! The items that a round still needs feedback on, found by comparing tables: rollouts without scores,
//! rationales without corrections, pairs without a judgement.
//!
//! Items come as an iterator over the tables, batch by batch, so that a round of any size takes the same memory.

mod item;
mod job;
mod order;
mod problems;
pub mod samples;
mod together;

pub use item::{Content, Item};
pub use job::{Job, Kind};
pub use order::Order;
pub use problems::Problems;
pub use together::{are_together, together};

use crate::error::{Error, Result};
use item::Rows;
use schemas::{Dataset, Rationale, Rollout, Sentence};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
struct RolloutText {
    rollout_id: String,
    problem_id: String,
    sample: u32,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct RationaleText {
    rationale_id: String,
    problem_id: String,
    split: String,
    stage: String,
    deduplicated: String,
}

/// Everything of a job that a Teacher could be asked, in the order of the tables, whether completed or not.
pub fn all_items<'a>(dataset: &'a Dataset, job: &'a Job, problems: &'a Problems) -> Result<Rows<'a, Item>> {
    match job.kind {
        Kind::Scores => {
            let names = ["rollout_id", "problem_id", "sample", "sentences"];
            let rows = dataset.stream_columns::<Rollout, RolloutText>(job.round, &names)?;
            Ok(Box::new(rows.filter_map(move |row| {
                let row = match row {
                    Ok(row) => row,
                    Err(error) => return Some(Err(error.into())),
                };
                if row.sentences.is_empty() {
                    return None;
                }
                Some(problems.get("rollouts", &row.rollout_id, &row.problem_id).map(|problem| Item {
                    subject_id: row.rollout_id,
                    problem,
                    round: job.round,
                    content: Content::Scores {
                        sample: row.sample,
                        sentences: row.sentences.into_iter().map(|sentence| sentence.text).collect(),
                    },
                }))
            })))
        }
        Kind::Corrections => {
            let rows = rationales(dataset, job.round)?;
            Ok(Box::new(rows.filter_map(move |row| {
                let row = match row {
                    Ok(row) => row,
                    Err(error) => return Some(Err(error)),
                };
                // `train eval` may have decoded other splits too; corrections of those are not used.
                if row.stage != "rl" || row.split != "train" || row.deduplicated.trim().is_empty() {
                    return None;
                }
                Some(problems.get("rationales", &row.rationale_id, &row.problem_id).map(|problem| Item {
                    subject_id: row.rationale_id,
                    problem,
                    round: job.round,
                    content: Content::Correction { rationale: row.deduplicated },
                }))
            })))
        }
        Kind::Judgements => judgement_items(dataset, job, problems),
    }
}

fn judgement_items<'a>(dataset: &'a Dataset, job: &'a Job, problems: &'a Problems) -> Result<Rows<'a, Item>> {
    let (stage, round) = match job.against.as_str() {
        "base" => ("base", 0),
        text => match text.parse::<u32>() {
            Ok(round) if round >= 1 => ("sft", round),
            _ => {
                let message = format!("expected base or a round, found `{text}`");
                return Err(Error::bad_input("--against", message));
            }
        },
    };
    let mut baselines = HashMap::new();
    for row in rationales(dataset, round)? {
        let row = row?;
        if row.stage == stage && row.split == "test" && !row.deduplicated.trim().is_empty() {
            baselines.insert(row.problem_id, row.deduplicated);
        }
    }
    Ok(Box::new(rationales(dataset, job.round)?.filter_map(move |row| {
        let row = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        if row.stage != "sft" || row.split != "test" || row.deduplicated.trim().is_empty() {
            return None;
        }
        let baseline = baselines.get(&row.problem_id)?.clone();
        Some(problems.get("rationales", &row.rationale_id, &row.problem_id).map(|problem| {
            let candidate_shown_first = job.order.candidate_first(&row.problem_id, job.round, &job.against);
            Item {
                subject_id: row.rationale_id,
                problem,
                round: job.round,
                content: Content::Judgement {
                    against: job.against.clone(),
                    candidate: row.deduplicated,
                    baseline,
                    candidate_shown_first,
                },
            }
        }))
    })))
}

fn rationales(
    dataset: &Dataset,
    round: u32,
) -> Result<impl Iterator<Item = Result<RationaleText>> + Send + use<>> {
    let names = ["rationale_id", "problem_id", "split", "stage", "deduplicated"];
    let rows = dataset.stream_columns::<Rationale, RationaleText>(round, &names)?;
    Ok(rows.map(|row| row.map_err(Error::from)))
}
