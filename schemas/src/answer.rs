//! Answers: the option that the answer model chooses.

use crate::column::table;

table! {
    /// One answered problem.
    Answer, "answers", by_round true {
        problem_id: String, "Problem that was answered.";
        round: u32, "ARES round; 0 for the base student.";
        split: String, "Split of the problem.", one_of ["train", "val", "test"];
        stage: String, "Checkpoint whose rationale was used.", one_of ["base", "rl", "sft"];
        predicted_index: Option<u8>, "Option read from the text; null if none could be read.";
        answer_index: Option<u8>, "Correct option; null if the publisher hides it.";
        correct: Option<bool>, "Whether the two agree; an unreadable answer is wrong; null if the correct option is hidden.";
        text: String, "What the answer model wrote.";
    }
}
