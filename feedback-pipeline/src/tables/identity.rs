//! Identity of an item among the outcomes of a round.

use crate::items::{Content, Item, Job};

/// The unit with exactly one outcome: a Teacher's opinion on a rollout, a rationale, or a pair as it is shown.
pub fn outcome_of(job: &Job, item: &Item, teacher: &str) -> String {
    match &item.content {
        Content::Judgement { against, candidate_shown_first, .. } => {
            pair(&item.problem.problem_id, against, *candidate_shown_first)
        }
        Content::Scores { .. } => opinion_on(&item.subject_id, teacher, job.repeat()),
        Content::Correction { .. } => item.subject_id.clone(),
    }
}

/// Identity of a Teacher's opinion on a rollout.
pub fn opinion_on(rollout_id: &str, teacher: &str, repeat: u32) -> String {
    format!("{repeat} {teacher} {rollout_id}")
}

/// Identity of a pair as it is shown.
pub fn pair(problem_id: &str, against: &str, candidate_shown_first: bool) -> String {
    format!("{against} {candidate_shown_first} {problem_id}")
}
