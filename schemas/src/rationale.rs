//! Rationales: the policy's greedy output at a stage.

use crate::column::table;

table! {
    /// One greedily decoded rationale.
    Rationale, "rationales", by_round true {
        rationale_id: String, "Identifier, unique in the dataset.";
        problem_id: String, "Problem that the rationale belongs to.";
        round: u32, "ARES round; 0 for the base student.";
        split: String, "Split of the problem.", one_of ["train", "val", "test"];
        stage: String, "Checkpoint that decoded it.", one_of ["base", "rl", "sft"];
        rationale: String, "Decoded text.";
        sentences: Vec<String>, "Sentences in order.";
        deduplicated: String, "Text without repeated sentences, one sentence per line.";
        repeated_sentences: u32, "Number of repeated sentences dropped.", unit "sentences";
        truncated: bool, "True if the token limit cut off the rationale before eos.";
        policy: String, "sha256 of the policy's weights.";
    }
}

impl Rationale {
    /// Identifier of a problem's rationale at a stage of a round.
    pub fn id(problem_id: &str, round: u32, stage: &str) -> String {
        format!("{problem_id}-r{round}-{stage}")
    }

    /// Message of both programs if all rationales after RL are empty, so that there is nothing to correct.
    pub fn nothing_to_correct(round: u32) -> String {
        format!(
            "round {round}: all rationales after rl are empty, so there is nothing to correct; to repeat rl with a lower \
             rl.learning_rate or fewer rl.passes, remove checkpoints/NAME/round-{round}/rl and the round's rationales; or \
             learn from sampled rationales instead: train --round {round} --filter scored"
        )
    }
}
