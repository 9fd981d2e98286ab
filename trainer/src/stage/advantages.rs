//! Rewards and advantages of a round's scored rollouts, and the KL coefficient that they are charged with.

use super::context::{Context, Policy};
use crate::corpus::{Corpus, rationale_source};
use crate::error::{Error, Result};
use crate::rl::advantage::{charge_kl, gae, group_relative};
use crate::rl::ppo::ScoredRollout;
use crate::rl::reward::token_rewards;
use schemas::settings::{Algorithm, RewardUnit};
use schemas::{Metric, Rollout};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What advantages are taken against.
pub(super) enum Baseline {
    /// The values stored with the rollouts.
    Stored,
    /// Nothing: returns are the discounted sums of rewards.
    None,
    /// These values.
    New(Vec<Vec<f32>>),
}

/// Mean over rollouts of Σ_t (log π − log π_ref)(a_t), in nats: how far the policy that sampled is from the reference.
pub(super) fn mean_kl(scored: &[(Rollout, Vec<f32>)]) -> f64 {
    let of_one = |rollout: &Rollout| -> f64 {
        let pairs = rollout.logprobs.iter().zip(&rollout.ref_logprobs);
        pairs.map(|(policy, reference)| f64::from(policy - reference)).sum()
    };
    scored.iter().map(|(rollout, _)| of_one(rollout)).sum::<f64>() / scored.len().max(1) as f64
}

#[derive(Deserialize)]
struct MetricOf {
    name: String,
    value: f64,
}

/// β of a round: fixed, or steered towards `rl.kl_target` from the coefficient of the round before.
pub(super) fn kl_coefficient(context: &Context, round: u32, kl: f64) -> Result<f64> {
    let rl = &context.settings.rl;
    let Some(target) = rl.kl_target.filter(|_| round > 1) else { return Ok(rl.kl_coefficient) };
    let before = context.dataset.project::<Metric, MetricOf>(round - 1, &["name", "value"])?;
    let before = before.into_iter().find(|row| row.name == "kl_coefficient");
    Ok(steered(before.map_or(rl.kl_coefficient, |row| row.value), kl, target))
}

/// β · (1 + clip(KL / target − 1, ±0.5)): the proportional controller of Ziegler et al. (2019), a step a round.
fn steered(coefficient: f64, kl: f64, target: f64) -> f64 {
    coefficient * (1.0 + (kl / target - 1.0).clamp(-0.5, 0.5))
}

/// Rewards, then advantages and returns, of all scored rollouts.
pub(super) fn with_advantages(
    context: &Context,
    corpus: &Corpus,
    policy: &Policy,
    scored: &[(Rollout, Vec<f32>)],
    kl_coefficient: f64,
    baseline: &Baseline,
) -> Result<Vec<ScoredRollout>> {
    let rl = &context.settings.rl;
    let mut rollouts = Vec::with_capacity(scored.len());
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut ends = Vec::with_capacity(scored.len());
    for (rollout, scores) in scored {
        let wrong = |what: String| Error::BadInput {
            message: format!("rollouts: {}: {what}", rollout.rollout_id),
            hint: None,
        };
        let tokens = rollout.token_ids.len();
        // Rollouts sampled for grpo hold no values.
        let values = if rl.algorithm == Algorithm::Ppo { rollout.values.len() } else { tokens };
        for (column, found) in [("logprobs", rollout.logprobs.len()), ("values", values)] {
            if found != tokens {
                return Err(wrong(format!("expected {tokens} {column}, found {found}")));
            }
        }
        let numbers = rollout.logprobs.iter().chain(&rollout.ref_logprobs).chain(&rollout.values);
        if let Some(number) = numbers.copied().find(|number| !number.is_finite()) {
            return Err(wrong(format!("expected finite numbers, found {number}")));
        }
        let vocabulary = policy.student.config.vocab_size;
        if let Some(id) = rollout.token_ids.iter().find(|&&id| !(0..vocabulary).contains(&i64::from(id))) {
            return Err(wrong(format!("expected tokens below {vocabulary}, found {id}")));
        }
        let sentence_ends: Vec<(u32, f32)> = rollout
            .sentences
            .iter()
            .zip(scores)
            .map(|(sentence, &score)| (sentence.token_end, score))
            .collect();
        let sentence_ends = match rl.reward {
            RewardUnit::Sentence => sentence_ends,
            RewardUnit::Rationale => one_score(&sentence_ends),
        };
        let rewards = token_rewards(
            &rollout.logprobs,
            &rollout.ref_logprobs,
            &sentence_ends,
            kl_coefficient,
            rl.neutral_score,
        )
        .map_err(wrong)?;
        let (advantages, returns) = match rl.algorithm {
            Algorithm::Ppo => match baseline {
                Baseline::Stored => gae(&rewards, &rollout.values, rl.gamma, rl.lambda),
                Baseline::None => gae(&rewards, &vec![0.0; tokens], rl.gamma, 1.0),
                Baseline::New(values) => gae(&rewards, &values[rollouts.len()], rl.gamma, rl.lambda),
            },
            Algorithm::Grpo => (Vec::new(), Vec::new()),
        };
        groups.entry(&rollout.problem_id).or_default().push(rollouts.len());
        ends.push(sentence_ends);
        let problem = corpus.get(&rollout.problem_id, "rollouts")?;
        rollouts.push(ScoredRollout {
            problem_id: rollout.problem_id.clone(),
            source: rationale_source(&policy.tokenizer, problem, &context.settings.student)?,
            tokens: rollout.token_ids.iter().map(|&id| i64::from(id)).collect(),
            old_logprobs: rollout.logprobs.clone(),
            advantages,
            returns,
        });
    }
    if rl.algorithm == Algorithm::Grpo {
        for members in groups.values() {
            let centred: Vec<Vec<(u32, f32)>> = members
                .iter()
                .map(|&member| {
                    let centre =
                        |&(token, score): &(u32, f32)| (token, (f64::from(score) - rl.neutral_score) as f32);
                    ends[member].iter().map(centre).collect()
                })
                .collect();
            let lengths: Vec<usize> = members.iter().map(|&member| rollouts[member].tokens.len()).collect();
            for (&member, advantages) in members.iter().zip(group_relative(&centred, &lengths)) {
                rollouts[member].advantages = advantages;
                let (rollout, _) = &scored[member];
                let advantages = &mut rollouts[member].advantages;
                charge_kl(advantages, &rollout.logprobs, &rollout.ref_logprobs, kl_coefficient);
            }
        }
    }
    Ok(rollouts)
}

/// The mean of all scores, at the last sentence's end: what a Teacher that scores whole rationales would say.
fn one_score(sentence_ends: &[(u32, f32)]) -> Vec<(u32, f32)> {
    let sum: f32 = sentence_ends.iter().map(|(_, score)| score).sum();
    let last = sentence_ends.iter().map(|(token, _)| *token).max();
    last.map(|token| (token, sum / sentence_ends.len() as f32)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{one_score, steered};

    #[test]
    fn the_kl_coefficient_is_steered_towards_its_target() {
        assert_eq!(steered(0.2, 2.0, 2.0), 0.2);
        assert!((steered(0.2, 2.2, 2.0) - 0.22).abs() < 1e-12, "above the target drifting costs more");
        assert_eq!((steered(0.5, 9.0, 2.0), steered(0.5, 0.0, 2.0)), (0.75, 0.25));
    }

    #[test]
    fn a_whole_rationale_earns_the_mean_at_its_end() {
        assert_eq!(one_score(&[(3, 1.0), (9, 0.5)]), [(9, 0.75)]);
        assert!(one_score(&[]).is_empty());
    }
}
