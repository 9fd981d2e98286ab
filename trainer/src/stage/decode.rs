//! Greedy rationales of a checkpoint, for stages rl and sft and for evaluation.

use super::context::Context;
use super::outcome::warn_of_truncation;
use super::parts;
use super::policy::{Policy, short};
use super::text_metrics::{bleu, rouge_l};
use super::view::agree_on_files;
use crate::backend::memory::in_batches;
use crate::data::batch;
use crate::data::corpus::{Corpus, rationale_source};
use crate::data::sentences;
use crate::error::{Error, Result};
use crate::rollout::{Generated, Generator, Sampling};
use crate::train::metrics::MetricLog;
use crate::train::progress::{Progress, check_interrupt};
use schemas::{Answer, Metric, Problem, Rationale};
use serde::Deserialize;
use std::collections::HashMap;

/// Splits decoded by evaluation and at the end of a round.
pub(super) const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Problems in one Parquet part, the unit of work lost when a run is killed.
const PROBLEMS_A_PART: usize = 512;

/// A stage's missing rationales of a split: names of parts with their problems.
fn due<'a>(
    context: &Context,
    round: u32,
    (stage, split): (&str, &str),
    problems: &[&'a Problem],
) -> Result<Vec<(String, Vec<&'a Problem>)>> {
    let prefix = format!("{stage}-{split}");
    parts::due::<Rationale>(&context.dataset, round, &prefix, PROBLEMS_A_PART, problems)
}

/// Refuses to repeat a stage while results of its older policy exist, since they would be mistaken for those of the new one.
///
/// # Errors
/// If there are rationales or later checkpoints of the round.
pub(super) fn refuse_leftovers(context: &Context, round: u32, stage: &str) -> Result<()> {
    let mut found = None;
    for split in SPLITS {
        if parts::exist::<Rationale>(&context.dataset, round, &format!("{stage}-{split}"))? {
            found = Some(format!("rationales of split {split} after {stage}"));
        }
    }
    let answers: &[&str] = if stage == "rl" { &["rl", "sft"] } else { &["sft"] };
    let answers = answers.iter().map(|stage| context.dataset.part_path::<Answer>(round, stage));
    let later: &[&str] = if stage == "rl" { &["answer-rl", "sft", "answer"] } else { &["answer"] };
    let later = later.iter().map(|stage| context.checkpoint(round, stage)).chain(answers);
    let later = later.into_iter().find(|path| path.exists());
    found = found.or(later.map(|folder| folder.display().to_string()));
    let Some(found) = found else { return Ok(()) };
    let hint = match stage {
        "rl" => "remove the round's checkpoints, rationales, corrections and answers",
        _ => "remove the round's answer checkpoint, answers and rationales (part-sft-… alone)",
    };
    Err(Error::input(
        format!(
            "round {round}: expected {}, of which there are {found}",
            context.checkpoint(round, stage).display()
        ),
        format!("restore the checkpoint; or, to repeat {stage}, {hint}"),
    ))
}

/// Removes metrics of a stage's older policy and of its results, since they would be compared with the new ones.
///
/// # Errors
/// If a file cannot be removed.
pub(super) fn forget_metrics(context: &Context, round: u32, stage: &str) -> Result<()> {
    let of_sft = ["sft", "rationales-sft-", "answer-sft", "answer-training"];
    let stale: &[&str] = if stage == "rl" { &["sft", "rationales-", "answer-"] } else { &of_sft };
    context.remove_parts::<Metric>(round, |name| stale.iter().any(|stale| name.starts_with(stale)))
}

#[derive(Deserialize)]
struct PolicyOf {
    rationale_id: String,
    stage: String,
    policy: String,
}

/// Refuses to add to, or answer with, rationales of a stage that were written by another policy.
///
/// # Errors
/// If there are such rationales.
pub(super) fn refuse_others(context: &Context, round: u32, stage: &str, policy: &Policy) -> Result<()> {
    let columns = ["rationale_id", "stage", "policy"];
    let rows = context.dataset.project::<Rationale, PolicyOf>(round, &columns)?;
    let mut of_stage = rows.into_iter().filter(|row| row.stage == stage);
    match of_stage.find(|row| row.policy != policy.fingerprint) {
        None => Ok(()),
        Some(row) => Err(Error::input(
            format!(
                "round {round}: rationale {}: expected one of {}, which is policy {}, found one of policy {}",
                row.rationale_id,
                policy.folder.display(),
                short(&policy.fingerprint),
                short(&row.policy)
            ),
            format!(
                "restore the policy that wrote it; or remove the round's rationales part-{stage}-… and what \
                 was derived from them (corrections, answers and their checkpoints) to repeat them"
            ),
        )),
    }
}

/// Whether all rationales of a stage and split exist.
pub(super) fn is_done(
    context: &Context,
    round: u32,
    stage: &str,
    split: &str,
    problems: &[&Problem],
) -> Result<bool> {
    let nothing_due = due(context, round, (stage, split), problems)?.is_empty();
    Ok(nothing_due && (problems.is_empty() || measured(context, round, stage, split)))
}

/// Whether there are any rationales of a stage.
///
/// # Errors
/// If the folder cannot be read.
pub(super) fn exist(context: &Context, round: u32, stage: &str) -> Result<bool> {
    parts::exist::<Rationale>(&context.dataset, round, &format!("{stage}-train"))
}

/// Name of the metrics part on a stage's rationales of a split.
fn metrics_part(stage: &str, split: &str) -> String {
    format!("rationales-{stage}-{split}")
}

fn measured(context: &Context, round: u32, stage: &str, split: &str) -> bool {
    context.dataset.part_path::<Metric>(round, &metrics_part(stage, split)).is_file()
}

/// Decodes a stage's missing rationales of a split; returns the number written.
pub(super) fn run(
    context: &Context,
    round: u32,
    stage: &str,
    split: &str,
    policy: &Policy,
    corpus: &Corpus,
) -> Result<usize> {
    refuse_others(context, round, stage, policy)?;
    let problems = corpus.split(split);
    let due = due(context, round, (stage, split), &problems)?;
    let total: usize = due.iter().map(|(_, chunk)| chunk.len()).sum();
    let mut progress =
        Progress::new(&format!("round {round}: rationales of {split} after {stage}"), total as u64);
    let mut written = 0;
    if problems.is_empty() {
        return Ok(0);
    }
    if due.is_empty() {
        if !measured(context, round, stage, split) {
            measure(context, round, stage, split, &problems)?;
        }
        return Ok(0);
    }
    // Existing metrics are of fewer rationales; a killed run must compute them again.
    let old = context.dataset.part_path::<Metric>(round, &metrics_part(stage, split));
    context.group.on_first(|| match old.is_file() {
        true => std::fs::remove_file(&old).map_err(Error::io("remove", &old)),
        false => Ok(()),
    })?;
    let generator = Generator::new(&policy.student, &policy.weights, context.sampling_kind())?;
    for (name, chunk) in due {
        let rows = part(context, round, stage, (policy, &generator), corpus, &chunk, &mut |done| {
            progress.set((written + done) as u64, "problems");
            check_interrupt()
        })?;
        written += rows.len();
        context.write_part(round, &name, rows)?;
    }
    // All ranks read next what rank 0 has written.
    agree_on_files(context)?;
    measure(context, round, stage, split, &problems)?;
    Ok(written)
}

/// Greedy rationales of some problems, without repetitions, one sentence per line; nothing is written.
pub(super) fn texts(
    context: &Context,
    policy: (&Policy, &Generator<'_>),
    corpus: &Corpus,
    problems: &[&Problem],
) -> Result<Vec<String>> {
    let rows = part(context, 0, "sft", policy, corpus, problems, &mut |_| check_interrupt())?;
    Ok(rows.into_iter().map(|row| row.deduplicated).collect())
}

#[derive(Deserialize)]
struct TextOf {
    problem_id: String,
    split: String,
    stage: String,
    sentences: Vec<String>,
    deduplicated: String,
    repeated_sentences: u32,
    truncated: bool,
}

/// Writes metrics of a stage's rationales of a split: lengths and repetition, and similarity to the gold solutions.
fn measure(context: &Context, round: u32, stage: &str, split: &str, problems: &[&Problem]) -> Result<()> {
    let columns =
        ["problem_id", "split", "stage", "sentences", "deduplicated", "repeated_sentences", "truncated"];
    let rows = context.dataset.project::<Rationale, TextOf>(round, &columns)?;
    let rows: Vec<TextOf> = rows.into_iter().filter(|row| row.stage == stage && row.split == split).collect();
    let gold: HashMap<&str, &str> =
        problems.iter().map(|problem| (problem.problem_id.as_str(), problem.solution.as_str())).collect();
    let pairs: Vec<(&str, &str)> = rows
        .iter()
        .filter_map(|row| Some((row.deduplicated.as_str(), *gold.get(row.problem_id.as_str())?)))
        .filter(|(_, gold)| !gold.trim().is_empty())
        .collect();
    let share = |counts: fn(&TextOf) -> bool| {
        rows.iter().filter(|row| counts(row)).count() as f64 / rows.len().max(1) as f64
    };
    let sentences: usize = rows.iter().map(|row| row.sentences.len()).sum();
    let mut numbers = vec![
        ("sentences", sentences as f64 / rows.len().max(1) as f64),
        ("repeated", share(|row| row.repeated_sentences > 0)),
        ("truncated", share(|row| row.truncated)),
        ("empty", share(|row| row.deduplicated.trim().is_empty())),
    ];
    numbers.extend(rouge_l(&pairs).map(|value| ("rouge_l", value)));
    numbers.extend(bleu(&pairs).map(|value| ("bleu", value)));
    let truncated = rows.iter().filter(|row| row.truncated).count();
    let what = format!("round {round}: rationales of {split} after {stage}");
    let limit = context.settings.rollout.max_new_tokens;
    warn_of_truncation(&what, (truncated, rows.len()), "rollout.max_new_tokens", limit);
    let before = starting_numbers(context, round, stage, split)?;
    for (name, value) in &numbers {
        if !matches!(*name, "repeated" | "empty") {
            continue;
        }
        // Without an earlier value there is no rise to report, but half of them is bad in any case.
        let rise = before.get(*name).map(|earlier| value - earlier);
        if rise.map_or(*value > 0.5, |rise| rise > 0.05) {
            let than_before =
                rise.map_or(String::new(), |rise| format!(", {:.1} points more than before", rise * 100.0));
            schemas::warn!(
                "round {round}: {:.1} % of the rationales of {split} after {stage} are {}{than_before}: the policy \
                 is degenerating{}",
                value * 100.0,
                if *name == "empty" { "empty" } else { "partly repeated" },
                match stage {
                    "rl" => "; lower rl.learning_rate or rl.passes, or set rl.max_kl",
                    "sft" => "; lower sft.learning_rate or sft.epochs, or set sft.keep",
                    _ => "",
                },
            );
        }
    }
    let mut log = MetricLog::new(round, if matches!(stage, "rl" | "sft") { stage } else { "eval" })
        .on_board(&context.settings.student.tensorboard)?;
    let names: Vec<String> = numbers.iter().map(|(name, _)| format!("{name}/{stage}/{split}")).collect();
    log.push(0, 0.0, names.iter().map(String::as_str).zip(numbers.iter().map(|(_, value)| *value)));
    context.write_part(round, &metrics_part(stage, split), log.into_rows())
}

#[derive(Deserialize)]
struct MetricOf {
    name: String,
    value: f64,
}

/// The same metrics of the round's starting policy, if they were recorded.
fn starting_numbers(context: &Context, round: u32, stage: &str, split: &str) -> Result<HashMap<String, f64>> {
    let (round, of) = match (round, stage) {
        (0, _) => return Ok(HashMap::new()),
        (round, "sft") => (round, "rl"),
        (1, _) => (0, "base"),
        (round, _) => (round - 1, if context.ended_with_rl(round - 1) { "rl" } else { "sft" }),
    };
    let end = format!("/{of}/{split}");
    let rows = context.dataset.project::<Metric, MetricOf>(round, &["name", "value"])?;
    let of_split = rows.into_iter().filter_map(|row| {
        let name = row.name.strip_suffix(&end)?.to_owned();
        Some((name, row.value))
    });
    Ok(of_split.collect())
}

fn part(
    context: &Context,
    round: u32,
    stage: &str,
    (policy, generator): (&Policy, &Generator<'_>),
    corpus: &Corpus,
    problems: &[&Problem],
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Rationale>> {
    let settings = &context.settings;
    let config = &*policy.student.config;
    let mut sources = Vec::with_capacity(problems.len());
    for problem in problems {
        sources.push(rationale_source(&policy.tokenizer, problem, &settings.student)?);
    }
    let mut order: Vec<usize> = (0..problems.len()).collect();
    order.sort_by_key(|&index| (sources[index].len(), index));
    let group = &context.group;
    let together = settings.student.decode_batch as usize;
    let mut own: Vec<(usize, Generated)> = Vec::new();
    let done = in_batches("greedy rationales", &group.share(&order, together), together, |indices| {
        tick(group.done_by_all(own.len(), problems.len()))?;
        let batch_rows: Vec<(&[i64], &str)> =
            indices.iter().map(|&i| (sources[i].as_slice(), problems[i].problem_id.as_str())).collect();
        let source =
            batch::source(&batch_rows, &corpus.features, config.special_tokens().pad, context.device);
        let seeds = vec![0; indices.len()];
        let limit = settings.rollout.max_new_tokens;
        let generated = generator.generate(&source, Sampling::Greedy, &seeds, limit);
        own.extend(indices.iter().copied().zip(generated));
        Ok(())
    });
    let mut all = group.collect(own, done)?;
    all.sort_by_key(|(index, _)| *index);
    let row = |(index, generated): (usize, Generated)| {
        let problem: &Problem = problems[index];
        let ids: Vec<i32> =
            generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
        let decoded = sentences::decode(policy.tokenizer.inner(), &ids)?;
        let sentences: Vec<String> = decoded.sentences.into_iter().map(|sentence| sentence.text).collect();
        let texts: Vec<&str> = sentences.iter().map(String::as_str).collect();
        let kept = schemas::sentences::without_repeats(&texts);
        Ok(Rationale {
            rationale_id: Rationale::id(&problem.problem_id, round, stage),
            problem_id: problem.problem_id.clone(),
            round,
            split: problem.split.clone(),
            stage: stage.to_owned(),
            rationale: decoded.text,
            deduplicated: kept.join("\n"),
            repeated_sentences: (texts.len() - kept.len()) as u32,
            truncated: generated.truncated,
            policy: policy.fingerprint.clone(),
            sentences,
        })
    };
    let rows = all.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    group.agree(tick(problems.len()))?;
    Ok(rows)
}
