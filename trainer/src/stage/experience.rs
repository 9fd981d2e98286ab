//! A round's scored rollouts as experience: checked, with sources and rewards; and the KL coefficient of a round.

use super::answer_reward::AnswerRewards;
use super::context::Context;
use super::policy::Policy;
use super::scored::Scored;
use crate::data::corpus::{Corpus, rationale_source};
use crate::error::{Error, Result};
use crate::objective::experience::Experience;
use crate::objective::reward::{neutral, scored_ends, token_rewards};
use schemas::settings::{AnswerReward, RewardUnit, RlSettings};
use schemas::{Metric, Rollout};
use serde::Deserialize;

#[derive(Deserialize)]
struct MetricOf {
    name: String,
    value: f64,
}

/// β of a round: fixed, or adjusted towards `rl.kl_target` from the coefficient of the previous round.
pub(super) fn kl_coefficient(context: &Context, round: u32, kl: f64) -> Result<f64> {
    let rl = &context.settings.rl;
    let Some(target) = rl.kl_target.filter(|_| round > 1) else { return Ok(rl.kl_coefficient) };
    let before = measured_in(context, round - 1, "kl_coefficient")?;
    Ok(steered(before.unwrap_or(rl.kl_coefficient), kl, target))
}

/// A metric of a round, by name.
pub(super) fn measured_in(context: &Context, round: u32, name: &str) -> Result<Option<f64>> {
    let rows = context.dataset.project::<Metric, MetricOf>(round, &["name", "value"])?;
    Ok(rows.into_iter().find(|row| row.name == name).map(|row| row.value))
}

/// β · (1 + clip(KL / target − 1, ±0.5)): the proportional controller of Ziegler et al. (2019), one step per round.
fn steered(coefficient: f64, kl: f64, target: f64) -> f64 {
    coefficient * (1.0 + (kl / target - 1.0).clamp(-0.5, 0.5))
}

/// Mean over rollouts of Σ_t (log π − log π_ref)(a_t), in nats: the distance of the sampling policy from the reference.
pub(super) fn mean_kl(scored: &[(Rollout, Vec<f32>)]) -> f64 {
    let of_one = |rollout: &Rollout| -> f64 {
        let pairs = rollout.logprobs.iter().zip(&rollout.ref_logprobs);
        pairs.map(|(policy, reference)| f64::from(policy - reference)).sum()
    };
    scored.iter().map(|(rollout, _)| of_one(rollout)).sum::<f64>() / scored.len().max(1) as f64
}

/// Checks the columns of all scored rollouts and computes their token rewards, including the answer reward of `answers`. A
/// rollout without sentences counts as one sentence with score 0, up to its last token.
///
/// # Errors
/// If the length of a column differs from that of the tokens, or a column has an impossible value.
pub(super) fn experience(
    context: &Context,
    corpus: &Corpus,
    policy: &Policy,
    scored: &Scored,
    kl_coefficient: f64,
    answers: Option<&AnswerRewards>,
) -> Result<Vec<Experience>> {
    let rl = &context.settings.rl;
    let mut all = Vec::with_capacity(scored.rollouts.len());
    for (rollout, scores) in &scored.rollouts {
        let wrong = |what: String| Error::BadInput {
            message: format!("rollouts, round {}: {}: {what}", rollout.round, rollout.rollout_id),
            hint: None,
        };
        check(rollout, rl, policy.student.config.vocabulary()).map_err(wrong)?;
        let tokens: Vec<u32> = rollout.sentences.iter().map(|sentence| sentence.token_end).collect();
        let whole = rl.reward == RewardUnit::Rationale;
        let undecided = scored.undecided.get(&rollout.rollout_id).map_or(&[][..], Vec::as_slice);
        let (mut ends, undecided) = if whole {
            whole_end(&tokens, scores, undecided)
        } else {
            (scored_ends(&tokens, scores, false), undecided.to_vec())
        };
        // The answer's reward is that of the rationale as a whole: it counts whole, not divided by sentences.
        let mut mean_score = mean_of(&ends, &undecided);
        if let Some(answers) = answers {
            answers.add_to(&mut ends, &undecided, rollout, rl);
            mean_score = match rl.answer_reward {
                AnswerReward::Product => mean_of(&ends, &undecided),
                AnswerReward::Sum | AnswerReward::Alone => mean_score + answers.gain(rollout, rl),
            };
        }
        if ends.is_empty() {
            ends.push((rollout.token_ids.len().saturating_sub(1) as u32, 0.0));
        }
        let (logprobs, reference) = (&rollout.logprobs, &rollout.ref_logprobs);
        let rewards = token_rewards(logprobs, reference, &ends, kl_coefficient, neutral(rl));
        let problem = corpus.get(&rollout.problem_id, "rollouts")?;
        all.push(Experience {
            problem_id: rollout.problem_id.clone(),
            source: rationale_source(&policy.tokenizer, problem, &context.settings.student)?,
            tokens: rollout.token_ids.iter().map(|&id| i64::from(id)).collect(),
            logprobs: rollout.logprobs.clone(),
            ref_logprobs: rollout.ref_logprobs.clone(),
            values: rollout.values.clone(),
            mean_score,
            ends,
            undecided,
            rewards: rewards.map_err(wrong)?,
        });
    }
    Ok(all)
}

/// The end of the last sentence with the mean of those scores that are decided; undecided if none is.
fn whole_end(tokens: &[u32], scores: &[f32], undecided: &[usize]) -> (Vec<(u32, f32)>, Vec<usize>) {
    let decided = scores.iter().enumerate().filter(|(sentence, _)| !undecided.contains(sentence));
    let decided: Vec<f32> = decided.map(|(_, score)| *score).collect();
    if decided.is_empty() {
        let ends = scored_ends(tokens, scores, true);
        let all = (0..ends.len()).filter(|_| !scores.is_empty()).collect();
        return (ends, all);
    }
    (scored_ends(tokens, &decided, true), Vec::new())
}

/// Mean of the decided sentence scores, or of all if none is; 0 without any.
fn mean_of(ends: &[(u32, f32)], undecided: &[usize]) -> f64 {
    let all = undecided.len() == ends.len();
    let counted = ends.iter().enumerate().filter(|(end, _)| all || !undecided.contains(end));
    let scores: Vec<f64> = counted.map(|(_, (_, score))| f64::from(*score)).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// The first problem with a rollout's columns.
fn check(rollout: &Rollout, rl: &RlSettings, vocabulary: i64) -> Result<(), String> {
    let tokens = rollout.token_ids.len();
    let reads_values = rl.takes_sampled_values();
    let has_values = reads_values || !rollout.values.is_empty();
    let values = if has_values { rollout.values.len() } else { tokens };
    for (column, found) in [("logprobs", rollout.logprobs.len()), ("values", values)] {
        if found != tokens {
            let next = if column == "values" && found == 0 {
                ": they were not sampled for rl.baseline = sampled; set it to leave_one_out or model, or sample \
                 again"
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

#[cfg(test)]
mod tests {
    use super::{mean_of, steered, whole_end};

    #[test]
    fn undecided_sentences_are_in_no_mean() {
        assert_eq!(mean_of(&[(1, 0.75), (4, 0.5)], &[]), 0.625);
        assert_eq!(mean_of(&[(1, 0.75), (4, 0.5)], &[1]), 0.75);
        assert_eq!(mean_of(&[(1, 0.5), (4, 0.5)], &[0, 1]), 0.5);
        assert_eq!(mean_of(&[], &[]), 0.0);
        assert_eq!(whole_end(&[1, 4], &[0.75, 0.5], &[1]), (vec![(4, 0.75)], vec![]));
        assert_eq!(whole_end(&[1, 4], &[0.5, 0.5], &[0, 1]), (vec![(4, 0.5)], vec![0]));
        assert_eq!(whole_end(&[1, 4], &[0.75, 0.25], &[]), (vec![(4, 0.5)], vec![]));
        assert_eq!(whole_end(&[], &[], &[]), (vec![], vec![]));
    }

    #[test]
    fn the_kl_coefficient_is_steered_towards_its_target() {
        assert_eq!(steered(0.2, 2.0, 2.0), 0.2);
        assert!((steered(0.2, 2.2, 2.0) - 0.22).abs() < 1e-12, "above the target drifting costs more");
        assert_eq!((steered(0.5, 9.0, 2.0), steered(0.5, 0.0, 2.0)), (0.75, 0.25));
    }
}
