//! The answer reward: how far each sentence raises the answer model's probability of the correct option.
//!
//! A rationale's sentences s_1 … s_n earn w · (P_i − P_{i−1}), where P_i is the probability of the correct option among the
//! problem's options, given the problem and s_1 … s_i. In total a rationale earns w · (P_n − P_0), so no sentence is rewarded
//! for what an earlier one has already established (potential-based shaping, Ng et al., 1999). With
//! `rl.answer_reward = product`, a sentence's score is multiplied by 1 − w + w · P_n instead; with `alone` scores are not used.

use super::context::Context;
use super::policy::{Policy, short};
use crate::backend::memory::in_batches;
use crate::checkpoint::peft::{base_of, read_adapter};
use crate::data::batch::Padded;
use crate::data::corpus::Corpus;
use crate::data::prompt;
use crate::error::{Error, Result};
use crate::model::Student;
use crate::nn::mode::Mode;
use crate::objective::sft::Example;
use crate::objective::split_rows;
use crate::rollout::logprobs::token_logprobs;
use crate::train::progress::check_interrupt;
use schemas::settings::{AnswerReward, RewardUnit, RlSettings};
use schemas::{Rollout, sentences};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tch::no_grad;

/// Probabilities of the correct option along each rollout.
pub(super) struct AnswerRewards {
    /// P_0 … P_n by rollout; none for problems whose answer is hidden.
    along: HashMap<String, Vec<f64>>,
}

impl AnswerRewards {
    /// Adds the answer reward to the scores of a rollout, each at its last token; no change if the answer is hidden. Neutral
    /// scores of `undecided` sentences are not multiplied: that would turn them into a reward.
    pub(super) fn add_to(
        &self,
        ends: &mut [(u32, f32)],
        undecided: &[usize],
        rollout: &Rollout,
        rl: &RlSettings,
    ) {
        let Some(along) = self.along.get(&rollout.rollout_id) else { return };
        let weight = rl.answer_weight;
        if rl.answer_reward == AnswerReward::Product {
            let factor = 1.0 - weight + weight * along.last().copied().unwrap_or_default();
            let decided = ends.iter_mut().enumerate().filter(|(end, _)| !undecided.contains(end));
            decided.for_each(|(_, (_, score))| *score = (f64::from(*score) * factor) as f32);
            return;
        }
        let gains = along.windows(2).map(|pair| weight * (pair[1] - pair[0]));
        match (rl.reward, ends) {
            (RewardUnit::Rationale, [(_, score)]) => *score += gains.sum::<f64>() as f32,
            (_, ends) => ends.iter_mut().zip(gains).for_each(|((_, score), gain)| *score += gain as f32),
        }
    }

    /// What a rollout earns in sum: w · (P_n − P_0); 0 where scores are multiplied instead, or the answer is hidden.
    pub(super) fn gain(&self, rollout: &Rollout, rl: &RlSettings) -> f64 {
        match self.along.get(&rollout.rollout_id).map(Vec::as_slice) {
            Some([first, .., last]) if rl.answer_reward != AnswerReward::Product => {
                rl.answer_weight * (last - first)
            }
            _ => 0.0,
        }
    }

    /// Means over rollouts of P_0 and P_n, by name.
    pub(super) fn numbers(&self) -> [(&'static str, f64); 2] {
        let mean = |of: fn(&[f64]) -> Option<&f64>| {
            let sum: f64 = self.along.values().filter_map(|along| of(along)).sum();
            sum / self.along.len().max(1) as f64
        };
        let (start, end) = (mean(<[f64]>::first), mean(<[f64]>::last));
        [("answer_probability/without", start), ("answer_probability/with", end)]
    }
}

/// The answer model of the policy that a round starts from.
fn folder(context: &Context, round: u32) -> (PathBuf, String) {
    let command = |of: &str| format!("next: train eval {of}{}", context.dataset.flag());
    if round <= 1 {
        return (context.checkpoint(0, "answer"), command("--checkpoint base"));
    }
    let before = round - 1;
    if context.ended_with_rl(before) {
        let folder = context.checkpoint(before, "answer-rl");
        (folder, command(&format!("--round {before} --checkpoint rl")))
    } else {
        (context.checkpoint(before, "answer"), command(&format!("--round {before} --checkpoint sft")))
    }
}

/// Reads the answer model: the starting policy with its adapter.
fn answer_model(context: &Context, round: u32) -> Result<Policy> {
    let (folder, next) = folder(context, round);
    if !folder.join("adapter_config.json").is_file() {
        let message =
            format!("{}: rl.answer_weight: expected the answer model, found none", folder.display());
        return Err(Error::input(message, next));
    }
    let mut policy = context.starting_policy(round)?;
    if let Some(base) = base_of(&folder)?.filter(|base| *base != policy.fingerprint) {
        let message = format!(
            "{}: rl.answer_weight: expected an adapter of {}, which is policy {}, found one of policy {}",
            folder.display(),
            policy.folder.display(),
            short(&policy.fingerprint),
            short(&base)
        );
        return Err(Error::input(message, format!("remove the adapter; {next}")));
    }
    read_adapter(&folder, &*policy.student.config, &mut policy.weights, context.device)?;
    policy.student = Student::new(&policy.weights, &*policy.student.config);
    Ok(policy)
}

/// Probabilities along the rollouts of a round. Each distinct prefix of a rationale is evaluated once, even if several samples
/// share it.
///
/// # Errors
/// If the answer model is missing or belongs to another policy, a problem does not exist, or memory runs out.
pub(super) fn along(
    context: &Context,
    round: u32,
    corpus: &Corpus,
    rollouts: &[&Rollout],
) -> Result<AnswerRewards> {
    let model = answer_model(context, round)?;
    let mut beginnings: BTreeMap<(&str, String), f64> = BTreeMap::new();
    let mut of_rollouts: Vec<(&Rollout, Vec<String>)> = Vec::new();
    for rollout in rollouts {
        if corpus.get(&rollout.problem_id, "rollouts")?.answer_index.is_none() {
            continue;
        }
        let said: Vec<&str> = rollout.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        let begun: Vec<String> =
            (0..=said.len()).map(|count| sentences::without_repeats(&said[..count]).join("\n")).collect();
        for text in &begun {
            beginnings.insert((&rollout.problem_id, text.clone()), f64::NAN);
        }
        of_rollouts.push((rollout, begun));
    }
    probabilities(context, &model, corpus, &mut beginnings)?;
    let along = of_rollouts.into_iter().map(|(rollout, begun)| {
        let of = |text: String| beginnings.get(&(rollout.problem_id.as_str(), text)).copied().unwrap_or(0.0);
        (rollout.rollout_id.clone(), begun.into_iter().map(of).collect())
    });
    Ok(AnswerRewards { along: along.collect() })
}

/// Computes the probability of the correct option after each prefix: e^(log π(answer)), relative to the sum over all options.
fn probabilities(
    context: &Context,
    model: &Policy,
    corpus: &Corpus,
    beginnings: &mut BTreeMap<(&str, String), f64>,
) -> Result<()> {
    let (student, answer) = (&context.settings.student, &context.settings.answer);
    let mut rows: Vec<(usize, usize, Example)> = Vec::new();
    let mut right = Vec::with_capacity(beginnings.len());
    for (place, (problem_id, said)) in beginnings.keys().enumerate() {
        let problem = corpus.get(problem_id, "rollouts")?;
        let text = prompt::answer_source(problem, said, student.use_caption, answer.prompt_format);
        let source = model.tokenizer.encode(&text, student.max_source_tokens)?;
        for (option, _) in (0u8..).zip(&problem.choices) {
            let target = model.tokenizer.encode(&prompt::answer_target(option), answer.max_new_tokens)?;
            let example = Example { problem_id: (*problem_id).to_owned(), source: source.clone(), target };
            rows.push((place, usize::from(option), example));
        }
        right.push(problem.answer_index.map_or(0, usize::from));
    }
    // Similar lengths are batched together to reduce padding; the options of a prefix share its encoding.
    rows.sort_by_key(|(place, option, example)| (example.source.len(), *place, *option));
    let mut likelihoods: Vec<BTreeMap<usize, f64>> = vec![BTreeMap::new(); right.len()];
    let mode = Mode { train: false, kind: context.kind() };
    in_batches("answers in the reward", &rows, student.decode_batch as usize, |rows| {
        check_interrupt()?;
        let examples: Vec<&Example> = rows.iter().map(|(.., example)| example).collect();
        let padded = Padded::new(&examples, &corpus.features, &model.student);
        let logprobs = no_grad(|| {
            let states = padded.states(&model.student, mode);
            token_logprobs(&model.student, &states, padded.tokens(), mode)
        });
        let lengths = examples.iter().map(|example| example.target.len());
        for ((place, option, _), logprobs) in rows.iter().zip(split_rows(&logprobs, lengths)) {
            let sum = logprobs.into_iter().map(f64::from).sum();
            likelihoods[*place].insert(*option, sum);
        }
        Ok(())
    })?;
    for ((probability, right), of_options) in beginnings.values_mut().zip(right).zip(likelihoods) {
        *probability = share(&of_options, right);
    }
    Ok(())
}

/// e^(x_right) / Σ e^x.
fn share(logs: &BTreeMap<usize, f64>, right: usize) -> f64 {
    let highest = logs.values().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.values().map(|log| (log - highest).exp()).sum();
    logs.get(&right).map_or(0.0, |log| (log - highest).exp() / sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Settings;

    #[test]
    fn the_answer_is_added_to_scores_or_multiplied_with_them() {
        let rollout = Rollout { rollout_id: "a".into(), ..rollout() };
        let rewards = AnswerRewards { along: HashMap::from([("a".to_owned(), vec![0.25, 0.5, 0.375])]) };
        let after = |scores: &[f32], change: &dyn Fn(&mut RlSettings)| {
            let mut rl = RlSettings { answer_weight: 0.5, ..Settings::default().rl };
            change(&mut rl);
            let mut ends: Vec<(u32, f32)> = (0..).zip(scores.iter().copied()).collect();
            rewards.add_to(&mut ends, &[], &rollout, &rl);
            ends.into_iter().map(|(_, score)| score).collect::<Vec<_>>()
        };
        assert_eq!(after(&[1.0, 0.5], &|_| {}), [1.125, 0.4375]);
        assert_eq!(after(&[0.75], &|rl| rl.reward = RewardUnit::Rationale), [0.8125]);
        // 1 − 0.5 + 0.5 · 0.375.
        assert_eq!(after(&[1.0, 0.5], &|rl| rl.answer_reward = AnswerReward::Product), [0.6875, 0.34375]);
        let gain = |how| {
            let rl = RlSettings { answer_weight: 0.5, answer_reward: how, ..Settings::default().rl };
            rewards.gain(&rollout, &rl)
        };
        assert_eq!((gain(AnswerReward::Sum), gain(AnswerReward::Product)), (0.0625, 0.0));
        let mut ends = [(3, 0.5)];
        rewards.add_to(
            &mut ends,
            &[],
            &Rollout { rollout_id: "hidden".into(), ..rollout },
            &Settings::default().rl,
        );
        assert_eq!(ends, [(3, 0.5)]);
    }

    /// The neutral score of a sentence on which opinions differ would become a penalty.
    #[test]
    fn undecided_sentences_are_not_multiplied() {
        let rewards = AnswerRewards { along: HashMap::from([("a".to_owned(), vec![0.25, 0.5])]) };
        let rollout = Rollout { rollout_id: "a".into(), ..rollout() };
        let rl =
            RlSettings { answer_weight: 1.0, answer_reward: AnswerReward::Product, ..Settings::default().rl };
        let mut ends = [(0, 1.0), (1, 0.5)];
        rewards.add_to(&mut ends, &[1], &rollout, &rl);
        assert_eq!(ends, [(0, 0.5), (1, 0.5)]);
    }

    fn rollout() -> Rollout {
        Rollout {
            rollout_id: String::new(),
            problem_id: "p".into(),
            round: 1,
            sample: 0,
            rationale: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            ref_logprobs: Vec::new(),
            values: Vec::new(),
            sentences: Vec::new(),
            truncated: false,
            policy: String::new(),
            seed: 0,
        }
    }

    #[test]
    fn options_share_one_probability() {
        let logs: BTreeMap<usize, f64> = [(0, -1000.0), (1, -1000.0 + 3f64.ln()), (2, -4000.0)].into();
        assert!((share(&logs, 1) - 0.75).abs() < 1e-12);
        assert!((share(&logs, 0) - 0.25).abs() < 1e-12);
        assert_eq!((share(&logs, 2), share(&logs, 7)), (0.0, 0.0));
    }
}
