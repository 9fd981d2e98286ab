//! What a reply amounts to.

use super::judgement::Better;

/// A usable reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A score for each sentence, in order.
    Scores(Vec<f32>),
    /// The corrected rationale.
    Correction(String),
    /// Which rationale is better.
    Judgement(Better),
}

/// Why a reply without a text is no answer.
pub(super) const EMPTY: &str = "it is empty";
