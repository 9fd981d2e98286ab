//! Stage sft: learn from the Teacher's corrections of the RL policy's rationales, then decode all splits.

use super::context::Context;
use super::decode::{self, SPLITS};
use super::outcome::Outcome;
use super::text_metrics;
use super::view::agree_on_files;
use crate::checkpoint::hf;
use crate::data::corpus::{Corpus, rationale_source};
use crate::data::prompt;
use crate::error::{Error, Result};
use crate::objective::sft::{Choice, Example, Plan, fit, identity, mean_loss};
use crate::rollout::Generator;
use crate::seed;
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use schemas::number::{counted, grouped};
use schemas::opinions::{OnRollout, Opinions};
use schemas::sentences;
use schemas::settings::{CorrectionFilter, KeepBy};
use schemas::{Correction, Metric, Rationale, Reject, Rollout, Score};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Fine-tunes if the corrections suffice, then decodes all splits.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let folder = context.checkpoint(round, "sft");
    let mut lines = Vec::new();
    if !context.has(&folder) {
        hf::refuse_taken(&folder)?;
        decode::refuse_leftovers(context, round, "sft")?;
        refuse_incomplete(context, round)?;
        let (texts, line) = if context.settings.sft.filter == CorrectionFilter::Scored {
            well_scored(context, round)?
        } else {
            match ready(context, round)? {
                Ok(ready) => of_corrections(context, round, &ready)?,
                Err(waiting) => return Ok(Outcome::Waiting(waiting)),
            }
        };
        train(context, round, &texts)?;
        agree_on_files(context)?;
        lines.push(line);
    }
    StepCheckpoint::forget(&folder, &context.group);
    let problems = context.dataset.problems()?;
    if lines.is_empty() && context.has_answers(round, "sft") && decode::exist(context, round, "sft")? {
        return Ok(Outcome::Already); // even if problems have been imported since
    }
    let mut written = 0;
    for split in SPLITS {
        let of_split: Vec<_> = problems.iter().filter(|problem| problem.split == split).collect();
        if !decode::is_done(context, round, "sft", split, &of_split)? {
            let policy = context.read_policy(&folder)?;
            let corpus = Corpus::open(&context.dataset, &context.settings.student, &*policy.student.config)?;
            written += decode::run(context, round, "sft", split, &policy, &corpus)?;
        }
    }
    if written > 0 {
        lines.push(format!("{} decoded", counted(written, "rationale")));
    }
    Ok(match lines.as_slice() {
        [] => Outcome::Already,
        lines => Outcome::Done(format!("round {round}: sft: {}", lines.join("; "))),
    })
}

/// Fine-tuning waits until the RL policy has decoded all train problems.
fn refuse_incomplete(context: &Context, round: u32) -> Result<()> {
    let problems = context.dataset.problems()?;
    let of_train: Vec<_> = problems.iter().filter(|problem| problem.split == "train").collect();
    if !context.has(&context.checkpoint(round, "rl"))
        || decode::is_done(context, round, "rl", "train", &of_train)?
    {
        return Ok(());
    }
    Err(Error::input(
        format!("round {round}: expected rationales of all train problems after rl, found some missing"),
        format!("next: train --round {round}{}", context.dataset.flag()),
    ))
}

#[derive(Deserialize)]
struct RationaleOf {
    rationale_id: String,
    problem_id: String,
    stage: String,
    split: String,
    deduplicated: String,
}

#[derive(Deserialize)]
struct RejectOf {
    kind: String,
    subject_id: String,
}

/// A round's corrections, and the number of rationales without one because the Teacher's replies were rejected.
struct Ready {
    corrections: Vec<Correction>,
    rejected: usize,
}

/// The corrections to learn from; the inner error is the line that reports what is missing.
fn ready(context: &Context, round: u32) -> Result<Result<Ready, String>> {
    let dataset = &context.dataset;
    let columns = ["rationale_id", "problem_id", "stage", "split", "deduplicated"];
    let mut of_train: Vec<RationaleOf> = dataset.project::<Rationale, RationaleOf>(round, &columns)?;
    of_train.retain(|row| row.stage == "rl" && row.split == "train");
    let all_are_empty = !of_train.is_empty() && of_train.iter().all(|row| row.deduplicated.trim().is_empty());
    if all_are_empty {
        return Ok(Err(Rationale::nothing_to_correct(round) + &dataset.flag()));
    }
    let share = context.settings.corrected(round);
    let due: HashMap<String, (String, bool)> = of_train
        .into_iter()
        .filter(|row| !row.deduplicated.trim().is_empty())
        .map(|row| (row.rationale_id, (row.deduplicated, share.contains(&row.problem_id))))
        .collect();
    if due.is_empty() && !context.has(&context.checkpoint(round, "rl")) {
        return Err(Error::input(
            format!("round {round}: expected rationales of stage rl, found none"),
            format!("next: train --round {round}{}", dataset.flag()),
        ));
    }
    let mut seen = HashSet::new();
    let mut corrections = Vec::new();
    for correction in dataset.read::<Correction>(round)? {
        let Some((said, _)) = due.get(&correction.rationale_id) else {
            return Err(Error::BadInput {
                message: format!(
                    "corrections, round {round}: expected a rationale of stage rl, found `{}`",
                    correction.rationale_id
                ),
                hint: None,
            });
        };
        if *said != correction.original {
            let id = &correction.rationale_id;
            return Err(Error::input(
                format!(
                    "corrections, round {round}: rationale {id}: expected the correction of {said:?}, found that of {:?}",
                    correction.original
                ),
                "remove the corrections of the round, which belong to another policy's rationales, and collect them again",
            ));
        }
        if !seen.insert(correction.rationale_id.clone()) {
            let message =
                format!("corrections, round {round}: rationale {} appears twice", correction.rationale_id);
            return Err(Error::BadInput { message, hint: None });
        }
        if correction.corrected.trim().is_empty() {
            let id = &correction.rationale_id;
            let message =
                format!("corrections, round {round}: rationale {id}: expected a text, found an empty one");
            return Err(Error::BadInput { message, hint: None });
        }
        corrections.push(correction);
    }
    // A rejected rationale may have been corrected since.
    let rejected: HashSet<String> = dataset
        .project::<Reject, RejectOf>(round, &["kind", "subject_id"])?
        .into_iter()
        .filter(|reject| reject.kind == "corrections")
        .map(|reject| reject.subject_id)
        .filter(|id| due.contains_key(id) && !seen.contains(id))
        .collect();
    let is_open = |id: &str| !seen.contains(id) && !rejected.contains(id);
    let waiting = due.iter().filter(|(id, (_, is_asked))| *is_asked && is_open(id)).count();
    if waiting > 0 {
        let flags = if share.is_whole() { "" } else { &context.share_flags };
        let wait = if waiting == 1 { "waits" } else { "wait" };
        // If the reward needs no scores, none are requested.
        let only = if context.settings.needs_scores() { "" } else { " --stage corrections" };
        return Ok(Err(format!(
            "round {round}: {} {wait} for corrections; next: collect-feedback --round {round}{only}{}{flags}{}",
            counted(waiting, "rationale"),
            schemas::teacher::flags_to_go_on(dataset, round, &context.settings)?,
            dataset.flag()
        )));
    }
    if !due.is_empty() && corrections.is_empty() && rejected.is_empty() {
        return Err(Error::input(
            format!(
                "round {round}: sft.corrections_share = {}: expected train problems with a rationale in the round's share, found none of {}",
                context.settings.sft.corrections_share,
                due.len()
            ),
            "raise it; or end the round with RL: round.stages = rl",
        ));
    }
    // The order of parts depends on interruptions of the collector; the training order must not.
    corrections.sort_by(|a, b| a.rationale_id.cmp(&b.rationale_id));
    Ok(Ok(Ready { corrections, rejected: rejected.len() }))
}

/// A text to learn from.
struct Text {
    problem_id: String,
    rationale: String,
}

/// The corrections that pass the filter, with the line for the user.
///
/// # Errors
/// If the filter leaves none.
fn of_corrections(context: &Context, round: u32, ready: &Ready) -> Result<(Vec<Text>, String)> {
    let only_changed = context.settings.sft.filter == CorrectionFilter::Changed;
    let chosen: Vec<&Correction> =
        ready.corrections.iter().filter(|correction| correction.changed || !only_changed).collect();
    if chosen.is_empty() && !ready.corrections.is_empty() {
        let message = format!(
            "round {round}: sft.filter = changed: expected corrections that changed something, found none of {}",
            ready.corrections.len()
        );
        return Err(Error::input(message, "set sft.filter = all"));
    }
    let changed = chosen.iter().filter(|correction| correction.changed).count();
    let mut line =
        format!("{} learned, {} of them changed", counted(chosen.len(), "correction"), grouped(changed));
    if ready.rejected > 0 {
        line += &format!(" (left out: {} rejected)", grouped(ready.rejected));
    }
    let text = |correction: &&Correction| Text {
        problem_id: correction.problem_id.clone(),
        rationale: correction.corrected.clone(),
    };
    Ok((chosen.iter().map(text).collect(), line))
}

#[derive(Deserialize)]
struct ScoreOf {
    rollout_id: String,
    sentence_index: u32,
    score: f32,
    teacher: String,
    repeat: Option<u32>,
}

/// The round's sampled rationales with a mean sentence score of `sft.min_score` or more, each distinct text of a problem once;
/// with the line for the user.
fn well_scored(context: &Context, round: u32) -> Result<(Vec<Text>, String)> {
    let opinions = Opinions::read(&context.dataset, round, &context.settings)?;
    let mut scores: HashMap<String, OnRollout> = HashMap::new();
    let columns = ["rollout_id", "sentence_index", "score", "teacher", "repeat"];
    for row in context.dataset.project::<Score, ScoreOf>(round, &columns)? {
        if let Some(opinion) = opinions.number(&row.teacher, row.repeat) {
            scores.entry(row.rollout_id).or_default().insert(opinion, row.sentence_index, row.score);
        }
    }
    let least = context.settings.sft.min_score;
    let mut texts = BTreeSet::new(); // sorted, so that the order does not depend on the parts
    let mut scored = 0;
    for rollout in context.dataset.stream::<Rollout>(round)? {
        let rollout = rollout?;
        let Some(on) = scores.get(&rollout.rollout_id) else { continue };
        if rollout.token_ids.is_empty() {
            continue; // imported: written by another model, and possibly for other splits
        }
        let count = rollout.sentences.len();
        let combined = opinions.combined(on, count).map_err(|incomplete| Error::BadInput {
            message: format!("scores, round {round}: rollout {}: {incomplete}", rollout.rollout_id),
            hint: None,
        })?;
        let Some(combined) = combined else { continue };
        scored += 1;
        // Scores are rounded to f32, so that 0.9 may be stored as slightly less.
        let sum: f64 = combined.sentences.iter().map(|sentence| f64::from(sentence.score)).sum();
        if sum / count.max(1) as f64 >= least - 1e-6 {
            let sentences: Vec<&str> =
                rollout.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
            let said = sentences::cut_repeats(&rollout.rationale, &sentences);
            texts.insert((rollout.problem_id, sentences::restore_newlines(&said)));
        }
    }
    if texts.is_empty() {
        let message = format!(
            "round {round}: sft.filter = scored: expected sampled rationales with a mean score of {least} or more, \
             found none of {scored} scored ones"
        );
        return Err(Error::input(message, "lower sft.min_score, or learn from corrections"));
    }
    let line = format!(
        "{} sampled rationales with a mean score of {least} or more learned, of {} scored",
        grouped(texts.len()),
        grouped(scored)
    );
    Ok((texts.into_iter().map(|(problem_id, rationale)| Text { problem_id, rationale }).collect(), line))
}

fn train(context: &Context, round: u32, texts: &[Text]) -> Result<()> {
    let settings = &context.settings;
    let policy = context.read_policy_to_train(&context.checkpoint(round, "rl"))?;
    decode::refuse_others(context, round, "rl", &policy)?;
    let config = &*policy.student.config;
    let corpus = Corpus::open(&context.dataset, &settings.student, config)?;
    let example = |problem_id: &str, rationale: &str| -> Result<Example> {
        let problem = corpus.get(problem_id, "corrections")?;
        let limit = settings.sft.max_target_tokens;
        Ok(Example {
            problem_id: problem.problem_id.clone(),
            source: rationale_source(&policy.tokenizer, problem, &settings.student)?,
            target: policy.tokenizer.encode(&prompt::rationale_target(rationale), limit)?,
        })
    };
    let mut examples = Vec::with_capacity(texts.len());
    for text in texts {
        let mut example = example(&text.problem_id, &text.rationale)?;
        if settings.sft.padded_loss {
            example.target.resize(settings.sft.max_target_tokens as usize, config.special_tokens().pad);
        }
        examples.push(example);
    }
    let plan = Plan {
        stage: "sft",
        epochs: settings.sft.epochs,
        batch: settings.sft.batch,
        learning_rate: settings.sft.learning_rate,
        weight_decay: settings.sft.weight_decay,
        max_grad_norm: settings.sft.max_grad_norm,
        seed: seed::of_round(settings.rollout.seed, round, "sft"),
        kind: context.kind(),
        warmup: settings.sft.warmup,
        max_tokens_per_batch: context.settings.student.max_tokens_per_batch,
    };
    let folder = context.checkpoint(round, "sft");
    let val: Vec<_> =
        corpus.split("val").into_iter().filter(|problem| !problem.solution.trim().is_empty()).collect();
    let mut chosen =
        format!("{} {:?} {:?}", corpus.features.identity(), settings.sft.keep, settings.sft.patience);
    if settings.sft.keep != KeepBy::Last {
        let student = &settings.student;
        let limits = (settings.sft.max_target_tokens, student.max_source_tokens, student.use_caption);
        chosen +=
            &format!(" {val:?} {} {:?} {limits:?}", settings.rollout.max_new_tokens, context.sampling_kind());
    }
    chosen += &policy.identity();
    let identity = identity(&policy.fingerprint, &plan, &examples, &chosen);
    let mut saved = context.step_checkpoint(&folder, identity);
    let mut log = MetricLog::new(round, "sft").on_board(&settings.student.tensorboard)?;
    if settings.sft.keep != KeepBy::Last && val.is_empty() {
        let message =
            format!("sft.keep = {}: expected val problems with a solution, found none", settings.sft.keep);
        return Err(Error::input(message, "set sft.keep = last"));
    }
    let measured = if settings.sft.keep == KeepBy::ValLoss { val.as_slice() } else { &[] };
    let gold: Vec<Example> = measured
        .iter()
        .map(|problem| example(&problem.problem_id, &problem.solution))
        .collect::<Result<_>>()?;
    let val_loss = || {
        let batch = settings.student.decode_batch as usize;
        mean_loss(&policy.student, &gold, &corpus.features, batch, context.kind(), &context.group)
    };
    let val_rouge_l = || {
        let generator = Generator::new(&policy.student, &policy.weights, context.sampling_kind())?;
        let said = decode::texts(context, (&policy, &generator), &corpus, &val)?;
        let pairs: Vec<(&str, &str)> =
            said.iter().zip(&val).map(|(said, problem)| (said.as_str(), problem.solution.as_str())).collect();
        Ok(text_metrics::rouge_l(&pairs).unwrap_or_default())
    };
    let patience = settings.sft.patience;
    let name = settings.sft.keep.as_str();
    let choice = match settings.sft.keep {
        KeepBy::Last => None,
        KeepBy::ValLoss => Some(Choice { name, higher: false, patience, measure: &val_loss }),
        KeepBy::ValRougeL => Some(Choice { name, higher: true, patience, measure: &val_rouge_l }),
    };
    let student = (&policy.student, &policy.weights);
    fit(student, &examples, &corpus.features, &plan, choice.as_ref(), &mut saved, &mut log)?;
    // The checkpoint is written last: if it exists, the stage is complete.
    decode::forget_metrics(context, round, "sft")?;
    context.write_part::<Metric>(round, "sft", log.into_rows())?;
    context.group.on_first(|| policy.write(&folder, &format!("round {round}, sft"))).map(|_| ())
}
