//! Judgements: which of two rationales a judge prefers.

use crate::column::{TimestampMs, table};

table! {
    /// One comparison of two rationales of a problem.
    Judgement, "judgements", by_round true {
        problem_id: String, "Problem that both rationales belong to.";
        round: u32, "Round of the candidate.";
        against: String, "What the candidate is compared with: base or a round.";
        candidate: String, "The candidate's rationale.";
        baseline: String, "The other rationale.";
        candidate_shown_first: bool, "True if the candidate was rationale A.";
        verdict: String, "The candidate's result.", one_of ["win", "tie", "loss"];
        teacher: String, "Model that judged.";
        prompt_version: String, "Short hash of the system prompt.";
        request_key: String, "Key of the request in feedback.sqlite and in requests.";
        judged_at: TimestampMs, "Time of the reply.", unit "ms since 1970, UTC";
    }
}
