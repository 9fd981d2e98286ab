//! What an item is known by among the outcomes of a round.

use crate::items::{Content, Item, Job};

/// What an item has one outcome of: a Teacher's opinion on a rollout, a rationale, or a pair as it is shown.
pub fn outcome_of(job: &Job, item: &Item, teacher: &str) -> String {
    match &item.content {
        Content::Judgement { against, candidate_shown_first, .. } => {
            pair(&item.problem.problem_id, against, *candidate_shown_first)
        }
        Content::Scores { .. } => opinion_on(&item.subject_id, teacher, job.repeat()),
        Content::Correction { .. } => item.subject_id.clone(),
    }
}

/// What a Teacher's opinion on a rollout is known by.
pub fn opinion_on(rollout_id: &str, teacher: &str, repeat: u32) -> String {
    format!("{repeat} {teacher} {rollout_id}")
}

/// What a pair has one outcome of.
pub fn pair(problem_id: &str, against: &str, candidate_shown_first: bool) -> String {
    format!("{against} {candidate_shown_first} {problem_id}")
}
