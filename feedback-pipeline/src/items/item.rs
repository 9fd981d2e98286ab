//! One thing to ask the Teacher about.

use crate::error::Result;
use schemas::Problem;
use std::sync::Arc;

/// One thing to ask the Teacher.
#[derive(Debug, Clone)]
pub struct Item {
    /// rollout_id or rationale_id.
    pub subject_id: String,
    /// The problem.
    pub problem: Arc<Problem>,
    /// ARES round.
    pub round: u32,
    /// What the Teacher is to read.
    pub content: Content,
}

impl Item {
    /// Key of the item among the completed ones.
    pub fn id(&self) -> &str {
        match self.content {
            Content::Judgement { .. } => &self.problem.problem_id,
            _ => &self.subject_id,
        }
    }
}

/// What the Teacher is to read, by kind.
#[derive(Debug, Clone)]
pub enum Content {
    /// Sentences of a rollout.
    Scores {
        /// Sample number of the rollout.
        sample: u32,
        /// The sentences in order.
        sentences: Vec<String>,
    },
    /// A de-duplicated rationale.
    Correction {
        /// The rationale, one sentence per line.
        rationale: String,
    },
    /// Two rationales.
    Judgement {
        /// What the candidate is compared with.
        against: String,
        /// The candidate.
        candidate: String,
        /// The other.
        baseline: String,
        /// True if the candidate is shown as A.
        candidate_shown_first: bool,
    },
}

/// Rows in the order of the tables.
pub(super) type Rows<'a, R> = Box<dyn Iterator<Item = Result<R>> + Send + 'a>;
