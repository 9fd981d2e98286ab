//! Stage rl: learn from the scores of the round's rollouts, then decode the new policy greedily if corrections follow.

use super::answer_reward::{self, AnswerRewards};
use super::comparison::{Change, Comparison, Measured, likely_cause};
use super::context::{Context, ENDS_ROUND};
use super::experience::{experience, kl_coefficient, mean_kl, measured_in};
use super::learned_values::{self, LearnedValues};
use super::pairs::pairs;
use super::policy::Policy;
use super::scored::{Scored, ready};
use super::view::agree_on_files;
use super::{Outcome, decode};
use crate::checkpoint::hf;
use crate::data::corpus::Corpus;
use crate::error::{Error, Result};
use crate::objective::dpo::{Dpo, Pair};
use crate::objective::experience::{Experience, differing, mean_reward};
use crate::objective::passes::{self, End};
use crate::objective::plan::Plan;
use crate::objective::policy_gradient::{PolicyGradient, Prepared};
use crate::objective::ppo::Learner;
use crate::objective::reward::neutral;
use crate::objective::{Objective, value_model};
use crate::rollout::distribution::Distribution;
use crate::seed;
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use schemas::number::{counted, grouped};
use schemas::provenance::sha256_hex;
use schemas::settings::{Algorithm, RlKeep, RlSettings, RoundStages};
use schemas::{Metric, Rollout, Score};

/// Name of the metric for the mean sentence score of the sampled rationales.
const MEAN_SCORE: &str = "mean_sentence_score";

/// Trains if the scores suffice, then decodes the train split.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let folder = context.checkpoint(round, "rl");
    let mut line = None;
    if !context.has(&folder) {
        hf::refuse_taken(&folder)?;
        decode::refuse_leftovers(context, round, "rl")?;
        let policy = context.read_policy_to_train(&context.starting_folder(round)?)?;
        let rollouts = match ready(context, round, &policy)? {
            Ok(ready) => ready,
            Err(waiting) => return Ok(Outcome::Waiting(waiting)),
        };
        line = Some(train(context, round, &policy, &rollouts)?);
        agree_on_files(context)?;
    }
    let is_unscored = context.settings.rl.needs_scores() && context.dataset.parts::<Score>(round)?.is_empty();
    if line.is_none() && is_unscored {
        return Err(Error::input(
            format!(
                "round {round}: {} exists, but the dataset has no scores of this round: does it belong to another dataset?",
                folder.display()
            ),
            "use other checkpoints (--checkpoints), or restore the scores; or remove the round's \
             checkpoints to repeat it",
        ));
    }
    StepCheckpoint::forget(&folder, &context.group);
    learned_values::forget(context, round);
    if line.is_none() && context.has(&context.checkpoint(round, "sft")) {
        return Ok(Outcome::Already); // even if problems have been imported since
    }
    if context.settings.round.stages == RoundStages::Rl {
        return Ok(line.map_or(Outcome::Already, Outcome::Done)); // no later stage needs rationales
    }
    let problems = context.dataset.problems()?;
    let train: Vec<_> = problems.iter().filter(|problem| problem.split == "train").collect();
    if !decode::is_done(context, round, "rl", "train", &train)? {
        let policy = context.read_policy(&folder)?;
        let corpus = Corpus::open(&context.dataset, &context.settings.student, &*policy.student.config)?;
        let written = decode::run(context, round, "rl", "train", &policy, &corpus)?;
        let decoded = format!("{} decoded", counted(written, "rationale"));
        let text =
            line.map_or_else(|| format!("round {round}: rl: {decoded}"), |line| format!("{line}; {decoded}"));
        return Ok(Outcome::Done(text));
    }
    Ok(line.map_or(Outcome::Already, Outcome::Done))
}

/// One round of RL: rewards, the objective's rows, its passes, then the checkpoint.
fn train(context: &Context, round: u32, policy: &Policy, scored: &Scored) -> Result<String> {
    let settings = &context.settings;
    let rl = &settings.rl;
    let corpus = Corpus::open(&context.dataset, &settings.student, &*policy.student.config)?;
    let kl = mean_kl(&scored.rollouts);
    let kl_coefficient = kl_coefficient(context, round, kl)?;
    let answers = if rl.answer_weight > 0.0 {
        let rollouts: Vec<&Rollout> = scored.rollouts.iter().map(|(rollout, _)| rollout).collect();
        Some(answer_reward::along(context, round, &corpus, &rollouts)?)
    } else {
        None
    };
    let experience = experience(context, &corpus, policy, scored, kl_coefficient, answers.as_ref())?;
    let reward = mean_reward(&experience);
    let at_start = [
        ("mean_reward", reward),
        ("differing/problems", differing(&experience, neutral(rl))),
        ("rollouts", experience.len() as f64),
        ("kl_to_reference", kl),
        ("kl_coefficient", kl_coefficient),
    ];
    let pairs = match rl.algorithm {
        Algorithm::Dpo => Some(pairs(context, round, policy, &corpus, &experience)?),
        Algorithm::Ppo | Algorithm::Grpo => None,
    };
    let plan = Plan {
        settings: rl,
        seed: seed::of_round(settings.rollout.seed, round, "rl"),
        kind: context.kind(),
        max_tokens_per_batch: settings.student.max_tokens_per_batch,
    };
    let ends_round = (settings.round.stages == RoundStages::Rl).then_some((ENDS_ROUND, 1.0));
    let run = Run {
        context,
        round,
        plan,
        measured: mean_score(scored, rl)
            .map(|mean| (MEAN_SCORE, mean))
            .into_iter()
            .chain(at_start)
            .chain(scored.form)
            .chain(answers.iter().flat_map(AnswerRewards::numbers))
            .chain(ends_round)
            .collect(),
        start: start(context, policy, &corpus, (&experience, pairs.as_deref()), kl_coefficient),
        policy,
        comparison: Comparison::new(context, &corpus)?,
    };

    if !rl.learns_values_first() {
        learned_values::forget_metrics(context, round, 0)?;
    }
    policy.weights.train();
    let together = settings.student.decode_batch as usize;
    let learned = if let Some(pairs) = pairs {
        run.learn(Dpo {
            policy: &policy.student,
            weights: &policy.weights,
            features: &corpus.features,
            plan,
            together,
            group: context.group.clone(),
            pairs,
        })?
    } else {
        let learns_values = rl.learns_values_along();
        let models = (&policy.student, &policy.weights);
        let value = learns_values.then(|| value_model::initial(models, rl, settings.rollout.seed, round));
        let learned_values =
            LearnedValues { context, round, policy, corpus: &corpus, plan: &plan, identity: &run.start };
        run.learn(PolicyGradient {
            experience: &experience,
            learner: Learner {
                policy: &policy.student,
                policy_weights: &policy.weights,
                value: value.as_ref().map(|(model, weights)| (model, weights)),
                distribution: Distribution::of(settings),
            },
            features: &corpus.features,
            plan,
            kl_coefficient,
            together,
            learned_values: &|experience| learned_values.of(experience),
            group: context.group.clone(),
            prepared: Prepared::default(),
        })?
    };

    // The checkpoint is written last: if it exists, the stage is complete.
    let folder = context.checkpoint(round, "rl");
    // Written as it was read for training: an adapter stays an adapter.
    let before = if learned.keeps_start { Some(context.read_policy_to_train(&policy.folder)?) } else { None };
    let kept = before.as_ref().unwrap_or(policy);
    context.group.on_first(|| kept.write(&folder, &format!("round {round}, rl")))?;
    let earned = earned(context, round, mean_score(scored, rl), answers.as_ref(), reward)?;
    Ok(format!(
        "round {round}: rl: {} on {}, {earned}{}{}{}",
        rl.algorithm,
        counted(experience.len(), "rollout"),
        ended(learned.end),
        learned.remark,
        left_out(scored)
    ))
}

/// Inputs of the passes, common to all objectives.
struct Run<'a> {
    context: &'a Context,
    round: u32,
    plan: Plan<'a>,
    /// Metrics of the rollouts, by name.
    measured: Vec<(&'static str, f64)>,
    /// Identity of the training's inputs.
    start: String,
    /// The trained policy.
    policy: &'a Policy,
    /// The problems for the comparison before and after.
    comparison: Option<Comparison<'a>>,
}

/// Result of the passes.
struct Learned {
    end: End,
    /// Whether to keep the round's starting policy because it is better.
    keeps_start: bool,
    /// Result of the comparison, for the stage's line.
    remark: String,
}

impl Run<'_> {
    /// Prepares the objective, runs its passes, and writes the metrics.
    fn learn<O: Objective>(&self, mut objective: O) -> Result<Learned> {
        let (context, round) = (self.context, self.round);
        let measure = || -> Result<Option<Measured>> {
            self.comparison.as_ref().map(|comparison| comparison.of(self.policy)).transpose()
        };
        let before = measure()?;
        objective.prepare()?;
        let mut log = MetricLog::new(round, "rl").on_board(&context.settings.student.tensorboard)?;
        log.push(0, 0.0, self.measured.iter().copied().chain(objective.measured()));
        let folder = context.checkpoint(round, "rl");
        let mut saved = context.step_checkpoint(&folder, self.start.clone());
        let end = passes::train(&objective, &self.plan, &mut saved, &mut log)?;
        let after = if end == End::NothingToLearn { before.clone() } else { measure()? };
        let change = before.zip(after).map(|(before, after)| Change::between(&before, &after));
        let (keeps_start, remark) = self.compare(change, &mut log);
        decode::forget_metrics(context, round, "rl")?;
        context.write_part::<Metric>(round, "rl", log.into_rows())?;
        Ok(Learned { end, keeps_start, remark })
    }

    /// Whether the starting policy is kept, and the remark for the stage's line; warns if the policy became worse.
    fn compare(&self, change: Option<Change>, log: &mut MetricLog) -> (bool, String) {
        let Some(change) = change else { return (false, String::new()) };
        let keeps_start = change.is_worse() && self.plan.settings.keep == RlKeep::Best;
        if change.is_worse() {
            let [before, after] = change.rouge_l;
            schemas::warn!(
                "round {}: rl: ROUGE-L on val fell from {before:.3} to {after:.3}: {}{}",
                self.round,
                likely_cause(self.plan.settings, log.rows(), &change),
                if keeps_start { "" } else { "; rl.keep = best would keep the starting policy" }
            );
        }
        let kept = if keeps_start { 1.0 } else { 0.0 };
        log.push(0, 0.0, change.numbers().chain([("kept_start", kept)]));
        let remark = if keeps_start { " (the starting policy is kept)" } else { "" };
        (keeps_start, format!(", {change}{remark}"))
    }
}

/// Mean of all sentence scores of the sampled rationales; `None` if the answer reward is the only one.
fn mean_score(scored: &Scored, rl: &RlSettings) -> Option<f64> {
    let scores = || scored.rollouts.iter().flat_map(|(_, scores)| scores).map(|&score| f64::from(score));
    rl.needs_scores().then(|| scores().sum::<f64>() / scores().count().max(1) as f64)
}

/// The samples' rewards, for the stage's line: their mean score and that of the previous round, the probability of the correct
/// answer, and the mean reward.
fn earned(
    context: &Context,
    round: u32,
    mean: Option<f64>,
    answers: Option<&AnswerRewards>,
    reward: f64,
) -> Result<String> {
    let mut parts = Vec::new();
    if let Some(mean) = mean {
        let earlier = if round > 1 { measured_in(context, round - 1, MEAN_SCORE)? } else { None };
        let earlier = earlier.map_or_else(String::new, |mean| format!(" ({mean:.3} in round {})", round - 1));
        parts.push(format!("mean sentence score {mean:.3}{earlier}"));
    }
    if let Some([(_, without), (_, with)]) = answers.map(AnswerRewards::numbers) {
        parts.push(format!(
            "probability of the correct answer {without:.3} without a rationale, {with:.3} with it"
        ));
    }
    parts.push(format!("mean reward {reward:.3}"));
    Ok(parts.join(", "))
}

/// The remark on training that ended early.
fn ended(end: End) -> String {
    match end {
        End::Complete => String::new(),
        End::NothingToLearn => ", which differ too little to learn from: the policy stays unchanged".into(),
        End::AtKlBound { steps, of, .. } => {
            format!(
                ", ended at rl.max_kl after {} of {}",
                grouped(steps as usize),
                counted(of as usize, "step")
            )
        }
    }
}

fn left_out(scored: &Scored) -> String {
    match scored.left_out.as_slice() {
        [] => String::new(),
        remarks => format!(" (left out: {})", remarks.join(", ")),
    }
}

/// Identity of the training's inputs: a step checkpoint with another identity is not continued.
fn start(
    context: &Context,
    policy: &Policy,
    corpus: &Corpus,
    (experience, pairs): (&[Experience], Option<&[Pair]>),
    kl_coefficient: f64,
) -> String {
    let settings = &context.settings;
    let mut rows: Vec<String> =
        experience.iter().map(|row| sha256_hex(format!("{row:?}").as_bytes())).collect();
    // Pairs may come from corrections and judgements, which are not part of the experience.
    rows.extend(pairs.unwrap_or_default().iter().map(|pair| sha256_hex(format!("{pair:?}").as_bytes())));
    let start = format!(
        "{}{} {:?} {kl_coefficient} {} {:?} {:?} {:?} {:?} {}",
        policy.fingerprint,
        policy.identity(),
        settings.rl,
        settings.rollout.seed,
        Distribution::of(settings),
        context.kind(),
        settings.student.max_tokens_per_batch,
        corpus.features.identity(),
        sha256_hex(rows.join("\n").as_bytes())
    );
    sha256_hex(start.as_bytes())
}
