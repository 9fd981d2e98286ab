//! Stage rl: learn from the scores of the round's rollouts, then say greedily what the new policy says.

use super::advantages::{Baseline, advantages, kl_coefficient, mean_kl, mean_reward, rewarded};
use super::context::{Context, Policy, short};
use super::rollout::{sample_seed, value_model};
use super::{Outcome, decode};
use crate::batch::Padded;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::memory::in_batches;
use crate::metrics::MetricLog;
use crate::resume::StepCheckpoint;
use crate::rl::passes::{self, Plan};
use crate::rl::ppo::{Learner, ScoredRollout};
use crate::rl::warmup;
use crate::rollout::logprobs::token_logprobs;
use crate::student::{Mode, checkpoint};
use schemas::number::grouped;
use schemas::provenance::sha256_hex;
use schemas::settings::{Algorithm, RlSettings};
use schemas::{Metric, Reject, Rollout, Score};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use tch::{Kind, Tensor, no_grad};

/// Name of the value model's own training, in file names.
const VALUES: &str = "rl-values";

/// Trains where scores allow, then decodes the train split.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let folder = context.checkpoint(round, "rl");
    let mut line = None;
    if !context.has(&folder) {
        checkpoint::refuse_taken(&folder)?;
        decode::refuse_leftovers(context, round, "rl")?;
        let policy = context.starting_policy(round)?;
        let rollouts = match ready(context, round, &policy)? {
            Ok(ready) => ready,
            Err(waiting) => return Ok(Outcome::Waiting(waiting)),
        };
        line = Some(train(context, round, &policy, &rollouts)?);
    }
    if line.is_none() && context.dataset.parts::<Score>(round)?.is_empty() {
        return Err(Error::input(
            format!(
                "round {round}: {} is there, but the dataset has no scores of this round: is it of another dataset?",
                folder.display()
            ),
            "name other checkpoints (--checkpoints), or put the scores back; or remove the round's checkpoints to do it \
             again",
        ));
    }
    StepCheckpoint::forget(&folder);
    StepCheckpoint::forget(&context.checkpoint(round, VALUES));
    if line.is_none() && context.has(&context.checkpoint(round, "sft")) {
        return Ok(Outcome::Already); // whatever problems were imported since
    }
    let problems = context.dataset.problems()?;
    let train: Vec<_> = problems.iter().filter(|problem| problem.split == "train").collect();
    if !decode::is_done(context, round, "rl", "train", &train)? {
        let policy = context.read_policy(&folder)?;
        let corpus = Corpus::open(&context.dataset, &context.settings.student, &policy.student.config)?;
        let written = decode::run(context, round, "rl", "train", &policy, &corpus)?;
        let decoded = format!("{written} rationales decoded");
        let text =
            line.map_or_else(|| format!("round {round}: rl: {decoded}"), |line| format!("{line}; {decoded}"));
        return Ok(Outcome::Done(text));
    }
    Ok(line.map_or(Outcome::Already, Outcome::Done))
}

/// Rollouts with the scores of their sentences.
struct Scored {
    rollouts: Vec<(Rollout, Vec<f32>)>,
    /// Remarks on what was left out.
    left_out: Vec<String>,
    /// What all sampled rationales are like, by name of the metric.
    form: [(&'static str, f64); 3],
}

#[derive(Deserialize)]
struct ScoreOf {
    rollout_id: String,
    sentence_index: u32,
    sentence: String,
    score: f32,
}

#[derive(Deserialize)]
struct RejectOf {
    kind: String,
    subject_id: String,
}

/// Joins rollouts and scores; the inner error is the line that says what the round waits for.
fn ready(context: &Context, round: u32, policy: &Policy) -> Result<Result<Scored, String>> {
    let dataset = &context.dataset;
    let rollouts: Vec<Rollout> = dataset.read(round)?;
    let (own, others): (Vec<Rollout>, Vec<Rollout>) =
        rollouts.into_iter().partition(|rollout| !rollout.token_ids.is_empty());
    let imported = others.len();
    if own.is_empty() {
        return Err(Error::input(
            format!("round {round}: expected rollouts with tokens to learn from, found {imported} without"),
            format!("next: train --round {round} --stage rollout{}", dataset.flag()),
        ));
    }
    if let Some(stale) = own.iter().find(|rollout| rollout.policy != policy.fingerprint) {
        return Err(Error::input(
            format!(
                "round {round}: rollout {} was sampled by policy {}, but {} is {}",
                stale.rollout_id,
                short(&stale.policy),
                policy.folder.display(),
                short(&policy.fingerprint)
            ),
            "put the policy back that sampled, or remove this round's rollouts and scores to sample anew",
        ));
    }
    warn_of_another_seed(context, &own);
    let scores = scores_by_rollout(context, round, &own, &others)?;
    let rejected: HashSet<String> = dataset
        .project::<Reject, RejectOf>(round, &["kind", "subject_id"])?
        .into_iter()
        .filter(|reject| reject.kind == "scores")
        .map(|reject| reject.subject_id)
        .collect();
    let form = form(&own);
    let with_sentences = own.iter().filter(|rollout| !rollout.sentences.is_empty()).count();
    let (mut waiting, mut lost, mut empty) = (0, 0, 0);
    let mut scored = Vec::new();
    for rollout in own {
        if rollout.sentences.is_empty() {
            empty += 1;
        } else if let Some(sentences) = scores.get(&rollout.rollout_id) {
            let count = rollout.sentences.len();
            let complete: Option<Vec<f32>> =
                (0..count as u32).map(|index| sentences.get(&index).copied()).collect();
            match complete {
                Some(sentence_scores) if sentences.len() == count => scored.push((rollout, sentence_scores)),
                _ => {
                    return Err(Error::BadInput {
                        message: format!(
                            "scores, round {round}: rollout {}: expected a score for each of {count} sentences, \
                             found {}",
                            rollout.rollout_id,
                            sentences.len()
                        ),
                        hint: None,
                    });
                }
            }
        } else if rejected.contains(&rollout.rollout_id) {
            lost += 1;
        } else {
            waiting += 1;
        }
    }
    let coverage = scored.len() as f64 / with_sentences.max(1) as f64;
    let least = context.settings.rl.min_coverage;
    let is_too_little = scored.is_empty() || coverage < least;
    if is_too_little && waiting > 0 {
        return Ok(Err(format!(
            "round {round}: {} rationales wait for scores; next: collect-feedback --round {round}{}",
            grouped(waiting),
            dataset.flag()
        )));
    }
    if with_sentences > 0 && coverage < least {
        return Err(Error::input(
            format!(
                "round {round}: rl.min_coverage: expected {:.1} % of {with_sentences} rollouts scored, found \
                 {:.1} % ({lost} rejected)",
                least * 100.0,
                coverage * 100.0
            ),
            "look at the rejects table; collect-feedback --retry-rejects asks them again; or lower --min-coverage",
        ));
    }
    if scored.is_empty() {
        let message =
            format!("round {round}: expected scored rollouts to learn from, found none ({empty} are empty)");
        return Err(Error::BadInput { message, hint: None });
    }
    let left_out = [(empty, "empty"), (lost, "rejected"), (waiting, "not scored"), (imported, "imported")];
    let left_out = left_out
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    Ok(Ok(Scored { rollouts: scored, left_out, form }))
}

/// Shares of the sampled rationales that repeat a sentence, end at the limit, or say nothing.
fn form(rollouts: &[Rollout]) -> [(&'static str, f64); 3] {
    let share = |counts: &dyn Fn(&Rollout) -> bool| {
        rollouts.iter().filter(|row| counts(row)).count() as f64 / rollouts.len().max(1) as f64
    };
    let repeats = |row: &Rollout| {
        let texts: Vec<&str> = row.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        schemas::sentences::without_repeats(&texts).len() < texts.len()
    };
    [
        ("repeated/rollouts", share(&repeats)),
        ("truncated/rollouts", share(&|row| row.truncated)),
        ("empty/rollouts", share(&|row| row.sentences.is_empty())),
    ]
}

/// The values stored with rollouts are those of a value head that was drawn from the seed of sampling, which is drawn again
/// to be trained: says where it was another seed.
fn warn_of_another_seed(context: &Context, rollouts: &[Rollout]) {
    let seed = context.settings.rollout.seed;
    let is_of_another =
        |row: &&Rollout| row.seed != sample_seed(seed, row.round, &row.problem_id, row.sample as usize);
    let others = rollouts.iter().filter(is_of_another).count();
    if context.settings.rl.algorithm == Algorithm::Ppo && others > 0 {
        schemas::warn!(
            "warning: {others} of {} rollouts were not sampled with rollout.seed = {seed}: their values are those of \
             another value head than the one that is trained now",
            rollouts.len()
        );
    }
}

/// Rollouts that are looked at by [`warn_of_other_input`].
const LOOKED_AT: usize = 16;

/// The policy must give the log-probabilities now that it gave while sampling, or ratios are wrong from the first step on:
/// says where it does not, as it sees other sources or pictures, or runs in another number format.
fn warn_of_other_input(
    context: &Context,
    policy: &Policy,
    rollouts: &[ScoredRollout],
    corpus: &Corpus,
) -> Result<()> {
    let some: Vec<&ScoredRollout> =
        rollouts.iter().step_by(rollouts.len().div_ceil(LOOKED_AT).max(1)).collect();
    let mode = Mode { train: false, kind: context.kind() };
    let (mut off, mut tokens) = (0.0, 0);
    in_batches("log-probabilities", &some, context.settings.student.decode_batch as usize, |part| {
        let padded = Padded::new(part, &corpus.features, &policy.student.config, context.device);
        let old: Vec<f32> = part.iter().flat_map(|rollout| rollout.old_logprobs.iter().copied()).collect();
        let old = Tensor::from_slice(&old).to_device(context.device);
        let now = no_grad(|| {
            token_logprobs(&policy.student, &padded.states(&policy.student, mode), padded.tokens(), mode)
        });
        off += (now - &old).abs().sum(Kind::Double).double_value(&[]);
        tokens += old.numel();
        Ok(())
    })?;
    let off = off / tokens.max(1) as f64;
    // What rounding explains.
    let bound = if mode.kind == Kind::Float { 1e-3 } else { 0.1 };
    if off > bound {
        schemas::warn!(
            "warning: the policy's log-probabilities of what it sampled are off by {off:.4} nats a token: was it sampled \
             with another student.vision (or other features), max_source_tokens, use_caption or dtype? Ratios start from \
             the stored ones"
        );
    }
    Ok(())
}

type SentenceScores = HashMap<u32, f32>;

fn scores_by_rollout(
    context: &Context,
    round: u32,
    rollouts: &[Rollout],
    imported: &[Rollout],
) -> Result<HashMap<String, SentenceScores>> {
    let mut known: HashMap<&str, &Rollout> = HashMap::new();
    for rollout in rollouts.iter().chain(imported) {
        if known.insert(&rollout.rollout_id, rollout).is_some() {
            return Err(Error::input(
                format!("rollouts, round {round}: {} stands there twice", rollout.rollout_id),
                "remove the part that was added, and the scores of its rollouts",
            ));
        }
    }
    let mut scores: HashMap<String, SentenceScores> = HashMap::new();
    let columns = ["rollout_id", "sentence_index", "sentence", "score"];
    for row in context.dataset.project::<Score, ScoreOf>(round, &columns)? {
        let wrong = |expected: String| {
            let place =
                format!("scores, round {round}: rollout {}, sentence {}", row.rollout_id, row.sentence_index);
            Error::input(
                format!("{place}: expected {expected}"),
                "remove the scores that belong to other rollouts, or put those rollouts back",
            )
        };
        let rollout = known.get(row.rollout_id.as_str());
        let rollout = rollout.ok_or_else(|| wrong("a rollout of this round, found none".into()))?;
        if rollout.token_ids.is_empty() {
            continue; // imported, nothing to learn from
        }
        let count = rollout.sentences.len();
        let sentence = rollout.sentences.get(row.sentence_index as usize);
        let sentence = sentence.ok_or_else(|| wrong(format!("a sentence below {count}")))?;
        if sentence.text != row.sentence {
            return Err(wrong(format!("`{}`, found `{}`", sentence.text, row.sentence)));
        }
        let of_rollout = scores.entry(row.rollout_id.clone()).or_default();
        if of_rollout.insert(row.sentence_index, row.score).is_some() {
            return Err(wrong("one score, found two".into()));
        }
    }
    Ok(scores)
}

fn train(context: &Context, round: u32, policy: &Policy, scored: &Scored) -> Result<String> {
    let settings = &context.settings;
    let config = &policy.student.config;
    let corpus = Corpus::open(&context.dataset, &settings.student, config)?;
    let kl = mean_kl(&scored.rollouts);
    let kl_coefficient = kl_coefficient(context, round, kl)?;
    let rewarded = rewarded(context, &corpus, policy, &scored.rollouts, kl_coefficient)?;
    let mut rollouts = advantages(&settings.rl, &rewarded, kl_coefficient, &Baseline::Stored);
    refuse_without_differences(&settings.rl, &rollouts)?;
    warn_of_other_input(context, policy, &rollouts, &corpus)?;
    let uses_value = settings.rl.algorithm == Algorithm::Ppo;
    let trunk = settings.rl.value_model;
    let value = uses_value.then(|| value_model(policy, trunk, settings.rollout.seed, round));
    policy.weights.train_only(|_| true);
    if let Some((_, weights)) = &value {
        weights.train_only(|name| name != "lm_head.weight");
    }
    let learner = Learner {
        policy: &policy.student,
        policy_weights: &policy.weights,
        value: value.as_ref().map(|(model, weights)| (model, weights)),
    };
    let folder = context.checkpoint(round, "rl");
    let start = format!(
        "{} {:?} {kl_coefficient} {} {:?} {:?} {:?} {}",
        policy.fingerprint,
        settings.rl,
        settings.rollout.seed,
        context.kind(),
        settings.student.max_tokens_per_batch,
        corpus.features.identity(),
        digest(&rollouts)
    );
    let identity = sha256_hex(start.as_bytes());
    if uses_value && settings.rl.value_passes > 0 {
        let returns = advantages(&settings.rl, &rewarded, kl_coefficient, &Baseline::None);
        let values = warmed_up(context, round, &learner, &returns, &corpus, &identity)?;
        rollouts = advantages(&settings.rl, &rewarded, kl_coefficient, &Baseline::New(values));
    } else {
        // Of values that another run had learned first.
        context.dataset.remove_part::<Metric>(round, VALUES)?;
    }
    let mut saved = StepCheckpoint::new(&folder, identity, context.save_interval());
    let mut log = MetricLog::new(round, "rl").on_board(&settings.student.tensorboard)?;
    let sentence_scores: Vec<f32> =
        scored.rollouts.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
    let mean = f64::from(sentence_scores.iter().sum::<f32>()) / sentence_scores.len().max(1) as f64;
    let at_start = [
        ("mean_sentence_score", mean),
        ("mean_reward", mean_reward(&rewarded)),
        ("rollouts", rollouts.len() as f64),
        ("kl_to_reference", kl),
        ("kl_coefficient", kl_coefficient),
    ];
    log.push(0, 0.0, at_start.into_iter().chain(scored.form));
    let seed = settings.rollout.seed ^ u64::from(round);
    let plan = Plan {
        settings: &settings.rl,
        seed,
        kind: context.kind(),
        max_tokens_per_batch: settings.student.max_tokens_per_batch,
    };
    passes::train(&learner, &rollouts, &corpus.features, &plan, &mut saved, &mut log)?;
    // The checkpoint comes last: where it is, the stage is done.
    context.dataset.write_part::<Metric>(round, "rl", log.into_rows(), &context.provenance)?;
    checkpoint::write_student(&folder, config, &policy.weights, &policy.folder)?;
    let left_out = match scored.left_out.as_slice() {
        [] => String::new(),
        remarks => format!(" (left out: {})", remarks.join(", ")),
    };
    Ok(format!(
        "round {round}: rl: {} on {} rollouts, mean sentence score {mean:.3}{left_out}",
        settings.rl.algorithm,
        grouped(rollouts.len())
    ))
}

/// grpo learns from how the samples of a problem differ.
fn refuse_without_differences(settings: &RlSettings, rollouts: &[ScoredRollout]) -> Result<()> {
    let differ = rollouts.iter().flat_map(|rollout| &rollout.advantages).any(|advantage| *advantage != 0.0);
    if differ || settings.algorithm != Algorithm::Grpo {
        return Ok(());
    }
    Err(Error::input(
        "rl: expected scores that differ between the samples of a problem, found none: grpo would learn nothing",
        "sample more rationales of each problem (rollout.samples), or use rl.algorithm = ppo",
    ))
}

/// Fits the value model to the returns and gives the values that it has learned.
fn warmed_up(
    context: &Context,
    round: u32,
    learner: &Learner<'_>,
    returns: &[ScoredRollout],
    corpus: &Corpus,
    identity: &str,
) -> Result<Vec<Vec<f32>>> {
    let settings = &context.settings;
    let plan = Plan {
        settings: &settings.rl,
        seed: settings.rollout.seed ^ u64::from(round),
        kind: context.kind(),
        max_tokens_per_batch: settings.student.max_tokens_per_batch,
    };
    let folder = context.checkpoint(round, VALUES);
    let mut saved = StepCheckpoint::new(&folder, identity.to_owned(), context.save_interval());
    let mut log = MetricLog::new(round, "rl").on_board(&settings.student.tensorboard)?;
    warmup::fit_values(learner, returns, &corpus.features, &plan, &mut saved, &mut log)?;
    context.dataset.write_part::<Metric>(round, VALUES, log.into_rows(), &context.provenance)?;
    let together = settings.student.decode_batch as usize;
    warmup::values_of(learner, returns, &corpus.features, together, context.kind())
}

/// sha256 over all that is learned from: sources, tokens, log-probabilities, advantages, returns.
fn digest(rollouts: &[ScoredRollout]) -> String {
    let text: Vec<String> =
        rollouts.iter().map(|rollout| sha256_hex(format!("{rollout:?}").as_bytes())).collect();
    sha256_hex(text.join("\n").as_bytes())
}
