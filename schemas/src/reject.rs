//! Rejects: replies that could not be used, even after asking again.

use crate::column::table;

table! {
    /// One item that ended without a usable reply.
    Reject, "rejects", by_round true {
        kind: String, "Kind of request.", one_of ["scores", "corrections", "judgements"];
        subject_id: String, "rollout_id or rationale_id of the item.";
        problem_id: String, "Problem of the item.";
        round: u32, "ARES round.";
        reason: String, "Why the reply could not be used.";
        reply: String, "The last reply's text; empty if there was none.";
        attempts: u32, "Requests sent for this item.", unit "requests";
        request_key: String, "Key of the request in feedback.sqlite and in requests.";
        teacher: Option<String>, "Model that was asked; null in older files.", since 3;
        repeat: Option<u32>, "Which of the Teacher's scorings of the rationale, from 0; null in older files, and for other kinds.", since 3;
    }
}
