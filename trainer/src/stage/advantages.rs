//! Rewards and advantages of a round's scored rollouts, and their KL coefficient.

use super::context::{Context, Policy};
use crate::corpus::{Corpus, rationale_source};
use crate::error::{Error, Result};
use crate::rl::advantage::{charge_kl, gae, group_relative};
use crate::rl::reward::token_rewards;
use crate::rl::scored::ScoredRollout;
use schemas::settings::{Algorithm, RewardUnit, RlSettings};
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

/// A scored rollout with its rewards, which do not change with what advantages are taken against.
pub(super) struct Rewarded<'a> {
    rollout: &'a Rollout,
    source: Vec<i64>,
    /// Tokens that end what is scored, with the scores.
    ends: Vec<(u32, f32)>,
    /// One number a token.
    rewards: Vec<f32>,
}

/// Checks the numbers of all scored rollouts and takes their token rewards.
///
/// # Errors
/// If a column has another length than the tokens, or holds a number that cannot be.
pub(super) fn rewarded<'a>(
    context: &Context,
    corpus: &Corpus,
    policy: &Policy,
    scored: &'a [(Rollout, Vec<f32>)],
    kl_coefficient: f64,
) -> Result<Vec<Rewarded<'a>>> {
    let rl = &context.settings.rl;
    let mut all = Vec::with_capacity(scored.len());
    for (rollout, scores) in scored {
        let wrong = |what: String| Error::BadInput {
            message: format!("rollouts, round {}: {}: {what}", rollout.round, rollout.rollout_id),
            hint: None,
        };
        check(rollout, rl.algorithm, policy.student.config.vocab_size).map_err(wrong)?;
        let sentences = rollout.sentences.iter().zip(scores);
        let ends: Vec<(u32, f32)> = sentences.map(|(sentence, &score)| (sentence.token_end, score)).collect();
        let ends = match rl.reward {
            RewardUnit::Sentence => ends,
            RewardUnit::Rationale => one_score(&ends),
        };
        let (logprobs, reference) = (&rollout.logprobs, &rollout.ref_logprobs);
        let rewards = token_rewards(logprobs, reference, &ends, kl_coefficient, rl.neutral_score);
        let problem = corpus.get(&rollout.problem_id, "rollouts")?;
        all.push(Rewarded {
            rollout,
            source: rationale_source(&policy.tokenizer, problem, &context.settings.student)?,
            ends,
            rewards: rewards.map_err(wrong)?,
        });
    }
    Ok(all)
}

/// What is wrong with a rollout's numbers.
fn check(rollout: &Rollout, algorithm: Algorithm, vocabulary: i64) -> Result<(), String> {
    let tokens = rollout.token_ids.len();
    // Rollouts sampled for grpo hold no values.
    let values = if algorithm == Algorithm::Ppo { rollout.values.len() } else { tokens };
    for (column, found) in [("logprobs", rollout.logprobs.len()), ("values", values)] {
        if found != tokens {
            let of_grpo = column == "values" && found == 0;
            let next = if of_grpo {
                ": they were sampled for rl.algorithm = grpo; set it, or sample again"
            } else {
                ""
            };
            return Err(format!("expected {tokens} {column}, found {found}{next}"));
        }
    }
    let mut numbers = rollout.logprobs.iter().chain(&rollout.ref_logprobs).chain(&rollout.values);
    if let Some(number) = numbers.find(|number| !number.is_finite()) {
        return Err(format!("expected finite numbers, found {number}"));
    }
    if let Some(number) = rollout.logprobs.iter().find(|number| **number > 1e-3) {
        return Err(format!("expected log-probabilities of at most 0, found {number}"));
    }
    let ends = rollout.sentences.iter().map(|sentence| sentence.token_end);
    if !ends.clone().is_sorted() {
        return Err(format!(
            "expected sentences in order, found ends at tokens {:?}",
            ends.collect::<Vec<_>>()
        ));
    }
    match rollout.token_ids.iter().find(|&&id| !(0..vocabulary).contains(&i64::from(id))) {
        Some(id) => Err(format!("expected tokens below {vocabulary}, found {id}")),
        None => Ok(()),
    }
}

/// Mean over rollouts of Σ_t r_t: centred scores less what drifting from the reference costs.
pub(super) fn mean_reward(rewarded: &[Rewarded<'_>]) -> f64 {
    let sum: f64 = rewarded.iter().flat_map(|row| &row.rewards).map(|&reward| f64::from(reward)).sum();
    sum / rewarded.len().max(1) as f64
}

/// Advantages and returns of rewarded rollouts.
pub(super) fn advantages(
    rl: &RlSettings,
    rewarded: &[Rewarded<'_>],
    kl_coefficient: f64,
    baseline: &Baseline,
) -> Vec<ScoredRollout> {
    let taken = match rl.algorithm {
        Algorithm::Ppo => against_values(rl, rewarded, baseline),
        Algorithm::Grpo => {
            let relative = against_the_group(rl, rewarded, kl_coefficient);
            relative.into_iter().map(|advantages| (advantages, Vec::new())).collect()
        }
    };
    let of_one = |(row, (advantages, returns)): (&Rewarded<'_>, (Vec<f32>, Vec<f32>))| ScoredRollout {
        problem_id: row.rollout.problem_id.clone(),
        source: row.source.clone(),
        tokens: row.rollout.token_ids.iter().map(|&id| i64::from(id)).collect(),
        old_logprobs: row.rollout.logprobs.clone(),
        advantages,
        returns,
    };
    rewarded.iter().zip(taken).map(of_one).collect()
}

fn against_values(
    rl: &RlSettings,
    rewarded: &[Rewarded<'_>],
    baseline: &Baseline,
) -> Vec<(Vec<f32>, Vec<f32>)> {
    let of_one = |(place, row): (usize, &Rewarded<'_>)| match baseline {
        Baseline::Stored => gae(&row.rewards, &row.rollout.values, rl.gamma, rl.lambda),
        Baseline::None => gae(&row.rewards, &vec![0.0; row.rewards.len()], rl.gamma, 1.0),
        Baseline::New(values) => gae(&row.rewards, &values[place], rl.gamma, rl.lambda),
    };
    rewarded.iter().enumerate().map(of_one).collect()
}

/// Advantages relative to the other samples of each problem, charged for drifting.
fn against_the_group(rl: &RlSettings, rewarded: &[Rewarded<'_>], kl_coefficient: f64) -> Vec<Vec<f32>> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, row) in rewarded.iter().enumerate() {
        groups.entry(&row.rollout.problem_id).or_default().push(place);
    }
    let mut all = vec![Vec::new(); rewarded.len()];
    for members in groups.values() {
        let centre = |&(token, score): &(u32, f32)| (token, (f64::from(score) - rl.neutral_score) as f32);
        let centred: Vec<Vec<(u32, f32)>> =
            members.iter().map(|&member| rewarded[member].ends.iter().map(centre).collect()).collect();
        let lengths: Vec<usize> = members.iter().map(|&member| rewarded[member].rewards.len()).collect();
        for (&member, mut advantages) in members.iter().zip(group_relative(&centred, &lengths)) {
            let rollout = rewarded[member].rollout;
            charge_kl(&mut advantages, &rollout.logprobs, &rollout.ref_logprobs, kl_coefficient);
            all[member] = advantages;
        }
    }
    all
}

/// The mean of all scores, at the last sentence's end: as a Teacher that scores whole rationales would give it.
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
