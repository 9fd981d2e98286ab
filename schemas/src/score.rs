//! Scores: the Teacher's score of every sentence of a rollout.

use crate::column::{TimestampMs, table};

table! {
    /// One sentence of one rollout, scored.
    Score, "scores", by_round true {
        rollout_id: String, "Rollout that the sentence belongs to.";
        problem_id: String, "Problem of the rollout.";
        round: u32, "ARES round, from 1.";
        sample: u32, "Sample number of the rollout.";
        sentence_index: u32, "Position of the sentence in the rollout, from 0.";
        sentence: String, "The sentence as the Teacher saw it.";
        score: f32, "The Teacher's score: 0 wrong, 0.5 neutral, 1 correct and relevant. Not centred.", range 0.0 to 1.0;
        teacher: String, "Model that scored.";
        prompt_version: String, "Short hash of the system prompt.";
        request_key: String, "Key of the request in feedback.sqlite and in requests.";
        cached: bool, "True if another row with the same request paid for the reply.";
        scored_at: TimestampMs, "Time of the reply.", unit "ms since 1970, UTC";
        reason: Option<String>, "The Teacher's reason for the score; null if reasons were not requested.", since 2;
        repeat: Option<u32>, "Which of the Teacher's scorings of the rationale, from 0; null in older files, which hold one.", since 3;
    }
}
