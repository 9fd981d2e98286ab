//! Rollouts: rationales sampled from the policy, with the token data that PPO needs.

use crate::column::{Sentence, table};

table! {
    /// One sampled rationale.
    Rollout, "rollouts", by_round true {
        rollout_id: String, "Identifier, unique in the dataset.";
        problem_id: String, "Problem that the rationale belongs to.";
        round: u32, "ARES round, from 1.";
        sample: u32, "Number of the sample of this problem, from 0.";
        rationale: String, "Decoded text.";
        token_ids: Vec<i32>, "Decoder tokens after the start token, including eos if it was produced; empty for imported text.";
        logprobs: Vec<f32>, "Log-probability of each token under the sampling policy.", unit "nat";
        ref_logprobs: Vec<f32>, "Log-probability of each token under the reference policy.", unit "nat";
        values: Vec<f32>, "Value estimate at each token's position, before the token is seen.";
        sentences: Vec<Sentence>, "Sentences in order, each with the index of its last token.";
        truncated: bool, "True if the token limit cut off the rationale before eos.";
        policy: String, "sha256 of the policy's weights, or `import:` and the model that wrote it.";
        seed: u64, "Seed of this sample's random stream.";
    }
}

impl Rollout {
    /// Identifier of sample `sample` of a problem in a round.
    pub fn id(problem_id: &str, round: u32, sample: u32) -> String {
        format!("{problem_id}-r{round}-s{sample}")
    }
}
