//! Corrections: the Teacher's corrected version of a rationale.

use crate::column::{TimestampMs, table};

table! {
    /// One corrected rationale, with the original.
    Correction, "corrections", by_round true {
        rationale_id: String, "Rationale that was corrected.";
        problem_id: String, "Problem of the rationale.";
        round: u32, "ARES round, from 1.";
        original: String, "De-duplicated rationale as the Teacher saw it.";
        corrected: String, "The Teacher's version.";
        changed: bool, "False if the two differ only in white space.";
        teacher: String, "Model that corrected.";
        prompt_version: String, "Short hash of the system prompt.";
        request_key: String, "Key of the request in feedback.sqlite and in requests.";
        cached: bool, "True if another row with the same request paid for the reply.";
        corrected_at: TimestampMs, "Time of the reply.", unit "ms since 1970, UTC";
    }
}
