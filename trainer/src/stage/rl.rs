//! Stage rl: learn from the scores of the round's rollouts, then decode the new policy greedily.

use super::advantages::{Baseline, advantages, kl_coefficient, mean_kl, mean_reward, rewarded};
use super::context::{Context, Policy};
use super::rollout::value_model;
use super::scored::{Scored, ready};
use super::{Outcome, decode};
use crate::batch::Padded;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::memory::in_batches;
use crate::metrics::MetricLog;
use crate::resume::StepCheckpoint;
use crate::rl::passes::{self, Plan};
use crate::rl::ppo::Learner;
use crate::rl::scored::ScoredRollout;
use crate::rl::warmup;
use crate::rollout::logprobs::token_logprobs;
use crate::student::{Mode, checkpoint};
use schemas::number::grouped;
use schemas::provenance::sha256_hex;
use schemas::settings::{Algorithm, RlSettings};
use schemas::{Metric, Score};
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
                "round {round}: {} exists, but the dataset has no scores of this round: does it belong to another dataset?",
                folder.display()
            ),
            "use other checkpoints (--checkpoints), or restore the scores; or remove the round's \
             checkpoints to repeat it",
        ));
    }
    StepCheckpoint::forget(&folder);
    StepCheckpoint::forget(&context.checkpoint(round, VALUES));
    if line.is_none() && context.has(&context.checkpoint(round, "sft")) {
        return Ok(Outcome::Already); // even if problems were imported since
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

/// Rollouts checked by [`warn_of_other_input`].
const LOOKED_AT: usize = 16;

/// The policy must give the log-probabilities now that it gave while sampling, or ratios are wrong from the first step
/// on: warns if it does not, for instance because of different sources, pictures or number formats.
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
    decode::forget_metrics(context, round, "rl")?;
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
        "remove the round's rollouts and scores, and sample more of each problem (rollout.samples); or use rl.algorithm = ppo",
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
