//! Rollouts with their rewards, before advantages are computed.

use std::collections::BTreeMap;

/// Sums of scores closer than this differ only by rounding.
pub(super) const LEAST_DIFFERENCE: f64 = 1e-4;

/// A scored rollout with its rewards, which do not depend on the baseline.
#[derive(Debug, Clone)]
pub struct Experience {
    /// The rollout's problem.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// Sampled tokens.
    pub tokens: Vec<i64>,
    /// log π(token) of the sampling policy, under the full softmax at temperature 1.
    pub logprobs: Vec<f32>,
    /// The same of the reference policy.
    pub ref_logprobs: Vec<f32>,
    /// Values stored while sampling; may be empty.
    pub values: Vec<f32>,
    /// Tokens that end what is scored, in order, with the Teacher's raw scores, to which the right answer's reward is added.
    pub ends: Vec<(u32, f32)>,
    /// Indices of `ends` whose score is the neutral one because opinions on them differ: grpo, dpo and means over a rationale
    /// leave them out.
    pub undecided: Vec<usize>,
    /// Mean of the Teacher's scores, and what the rationale as a whole earns by the right answer: pairs of dpo are made by it.
    pub mean_score: f64,
    /// r_t, one per token.
    pub rewards: Vec<f32>,
}

impl Experience {
    /// Whether opinions agree on some sentence, or there is none to disagree on.
    pub fn is_decided(&self) -> bool {
        self.undecided.is_empty() || self.undecided.len() < self.ends.len()
    }

    /// The tokens that end a sentence, in order.
    pub fn end_tokens(&self) -> Vec<u32> {
        self.ends.iter().map(|(token, _)| *token).collect()
    }

    /// Index of the sentence that each token belongs to; tokens after the last one form a unit of their own, in which the
    /// policy chose to end.
    pub fn sentence_of_tokens(&self) -> Vec<usize> {
        let mut sentence = 0;
        (0..self.tokens.len())
            .map(|token| {
                let own = sentence;
                sentence += self.ends[sentence.min(self.ends.len())..]
                    .iter()
                    .take_while(|(end, _)| *end as usize <= token)
                    .count();
                own
            })
            .collect()
    }

    /// Sums of score − `neutral` from each sentence on, to the last.
    fn scores_to_go(&self, neutral: f64) -> Vec<f64> {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = self
            .ends
            .iter()
            .rev()
            .map(|(_, score)| {
                sum += f64::from(*score) - neutral;
                sum
            })
            .collect();
        sums.reverse();
        sums
    }

    /// Discounted rewards from the beginning of each sentence on: G_i = R_i + γ·G_{i+1}, with R_i the sum of the rewards of
    /// sentence i; the last entry is that of the tokens after the last sentence.
    pub fn returns_to_go(&self, gamma: f64) -> Vec<f64> {
        let mut returns = vec![0f64; self.ends.len() + 1];
        for (sentence, &reward) in self.sentence_of_tokens().into_iter().zip(&self.rewards) {
            returns[sentence] += f64::from(reward);
        }
        for sentence in (0..self.ends.len()).rev() {
            returns[sentence] += gamma * returns[sentence + 1];
        }
        returns
    }
}

/// Whether, from some sentence on, the scores of two samples of a problem differ; a problem's only sample is compared with those of
/// all problems. The KL penalty of the rewards, and rounding, do not count.
pub fn has_signal(experience: &[Experience], neutral: f64) -> bool {
    let returns: Vec<Vec<f64>> = experience.iter().map(|row| row.scores_to_go(neutral)).collect();
    let differ = |a: &[f64], b: &[f64]| {
        let at = |returns: &[f64], sentence: usize| returns.get(sentence).copied().unwrap_or(0.0);
        (0..a.len().max(b.len())).any(|sentence| (at(a, sentence) - at(b, sentence)).abs() > LEAST_DIFFERENCE)
    };
    groups(experience).values().any(|members| {
        let Some(&first) = members.first() else { return false };
        match members.len() {
            1 => returns.iter().any(|other| differ(&returns[first], other)),
            _ => members.iter().any(|&member| differ(&returns[first], &returns[member])),
        }
    })
}

/// Indices of the rollouts of each problem.
pub fn groups(experience: &[Experience]) -> BTreeMap<&str, Vec<usize>> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, row) in experience.iter().enumerate() {
        groups.entry(&row.problem_id).or_default().push(place);
    }
    groups
}

/// Mean over rollouts of Σ_t r_t: centred scores minus the KL penalty.
pub fn mean_reward(experience: &[Experience]) -> f64 {
    let sum: f64 = experience.iter().flat_map(|row| &row.rewards).map(|&reward| f64::from(reward)).sum();
    sum / experience.len().max(1) as f64
}

/// Share of the problems whose samples differ in the sum of their sentences' rewards, Σ (score − `neutral`): without a value
/// model, nothing can be learned from the others.
pub fn differing(experience: &[Experience], neutral: f64) -> f64 {
    let groups = groups(experience);
    let earned = |place: usize| -> f64 {
        experience[place].ends.iter().map(|(_, score)| f64::from(*score) - neutral).sum()
    };
    let differ = |members: &&Vec<usize>| {
        let first = members.first().map_or(0.0, |&place| earned(place));
        members.iter().any(|&place| (earned(place) - first).abs() > LEAST_DIFFERENCE)
    };
    groups.values().filter(differ).count() as f64 / groups.len().max(1) as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An experience of `tokens` tokens with rewards of score − 0.5 at its ends.
    pub(in crate::objective) fn experience(problem: &str, tokens: usize, ends: &[(u32, f32)]) -> Experience {
        let mut rewards = vec![0f32; tokens];
        for &(end, score) in ends {
            rewards[end as usize] += score - 0.5;
        }
        Experience {
            problem_id: problem.into(),
            source: vec![3; 4],
            tokens: vec![5; tokens],
            logprobs: vec![-1.0; tokens],
            ref_logprobs: vec![-1.0; tokens],
            values: Vec::new(),
            ends: ends.to_vec(),
            undecided: Vec::new(),
            mean_score: ends.iter().map(|(_, score)| f64::from(*score)).sum::<f64>()
                / ends.len().max(1) as f64,
            rewards,
        }
    }

    #[test]
    fn problems_differ_whose_samples_do() {
        let rows = [
            experience("a", 2, &[(1, 1.0)]),
            experience("a", 2, &[(0, 0.5), (1, 1.0)]),
            experience("b", 2, &[(1, 1.0)]),
            experience("b", 2, &[(1, 0.0)]),
            experience("b", 2, &[(1, 0.0)]),
            experience("c", 2, &[(1, 1.0)]),
        ];
        // One sample of a has an additional neutral sentence, which earns nothing.
        assert_eq!(differing(&rows, 0.5), 1.0 / 3.0);
        assert_eq!(differing(&rows, 0.0), 2.0 / 3.0);
        assert_eq!(differing(&[], 0.5), 0.0);
    }

    /// Samples may earn the same in sum and differ by sentence; what is left of sums in float32 is no difference.
    #[test]
    fn a_signal_is_a_difference_of_scores_from_some_sentence_on() {
        let has = |rows: &[Experience]| has_signal(rows, 0.5);
        assert!(has(&[experience("a", 2, &[(0, 1.0), (1, 0.0)]), experience("a", 2, &[(0, 0.0), (1, 1.0)])]));
        assert!(has(&[experience("a", 2, &[(0, 0.9), (1, 0.9)]), experience("a", 2, &[(1, 0.9)])]));
        let same = [(0, 0.9), (1, 0.9), (2, 0.9)];
        let mut rows =
            vec![experience("a", 3, &same), experience("a", 3, &same), experience("b", 1, &[(0, 0.2)])];
        rows.push(rows[2].clone());
        // A penalty that differs between samples is none of the Teacher's.
        rows[0].rewards[0] -= 1e-2;
        assert!(!has(&rows));
        rows.pop();
        assert!(has(&rows), "the only sample of b is compared with those of a");
        assert!(!has(&[]));
    }

    #[test]
    fn tokens_belong_to_sentences() {
        let row = experience("a", 6, &[(1, 1.0), (4, 0.0)]);
        assert_eq!(row.sentence_of_tokens(), [0, 0, 1, 1, 1, 2]);
        assert_eq!(row.returns_to_go(1.0), [0.0, -0.5, 0.0]);
        assert_eq!(row.returns_to_go(0.5), [0.25, -0.5, 0.0]);
        // Two sentences that end in the same token, as some tokenizers produce.
        assert_eq!(experience("a", 3, &[(1, 1.0), (1, 1.0)]).sentence_of_tokens(), [0, 0, 2]);
        assert_eq!(experience("a", 2, &[]).sentence_of_tokens(), [0, 0]);
    }
}
