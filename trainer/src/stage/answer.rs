//! Stage answer: a LoRA answer model on the policy, trained on problem + rationale, then val and test answered.

use super::context::{Context, Policy};
use super::report::accuracy;
use super::sft::{SPLITS, identity};
use super::{Outcome, decode};
use crate::batch;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::metrics::MetricLog;
use crate::progress::{Progress, check_interrupt};
use crate::prompt;
use crate::resume::StepCheckpoint;
use crate::rollout::{Generator, Sampling};
use crate::sentences;
use crate::sft::{Example, Plan, fit};
use crate::student::Student;
use crate::student::adapter::{read_adapter, write_adapter};
use crate::student::lora::{LoraConfig, is_lora};
use schemas::settings::RationaleSource;
use schemas::{Answer, Metric, Problem, Rationale};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Splits that are answered.
const ANSWERED: [&str; 2] = ["val", "test"];

/// Answers with the round's fine-tuned policy.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let policy = context.checkpoint(round, "sft");
    if !context.has(&policy) {
        return Err(Error::input(
            format!("{}: expected the fine-tuned policy, found none", policy.display()),
            format!("next: train --round {round} --data {}", context.dataset.root().display()),
        ));
    }
    evaluate(context, round, "sft")
}

/// Decodes all splits with a stage's checkpoint where that is missing, trains its answer model, answers val and test.
/// Round 0 with stage `base` is the base student.
///
/// # Errors
/// Where the checkpoint is missing, there is nothing to learn from, or a step fails.
pub fn evaluate(context: &Context, round: u32, stage: &str) -> Result<Outcome> {
    if answered(context, round, stage)? {
        return Ok(Outcome::Already);
    }
    let (policy_folder, adapter_folder) = folders(context, round, stage);
    let mut policy = context.read_policy(&policy_folder)?;
    let corpus = Corpus::open(&context.dataset, &context.settings.student, &policy.student.config)?;
    for split in SPLITS {
        decode::run(context, round, stage, split, &policy, &corpus)?;
    }
    let rationales = rationales(context, round, stage)?;
    let new_log = || {
        let log = MetricLog::new(round, if stage == "sft" { "answer" } else { "eval" });
        log.on_board(&context.settings.student.tensorboard)
    };
    let mut log = new_log()?;
    let student = if adapter_folder.join("adapter_config.json").is_file() {
        read_adapter(&adapter_folder, &policy.student.config, &mut policy.weights, context.device)?;
        Student::new(&policy.weights, &policy.student.config)
    } else {
        train(context, round, &mut policy, &corpus, &rationales, &adapter_folder, new_log()?)?
    };
    let generator = Generator::new(&student, &policy.weights, context.sampling_kind())?;
    let mut answers = Vec::new();
    for split in ANSWERED {
        answers.extend(answer(context, round, stage, split, &generator, &policy, &corpus, &rationales)?);
    }
    let problems: HashMap<&str, &Problem> = SPLITS
        .iter()
        .flat_map(|split| corpus.split(split))
        .map(|problem| (problem.problem_id.as_str(), problem))
        .collect();
    let mut line = format!("round {round}: answers after {stage}:");
    for split in ANSWERED {
        let classes = accuracy(answers.iter().filter(|answer| answer.split == split), &problems);
        for (class, share, count) in &classes {
            log.push(0, 0.0, [(format!("accuracy/{stage}/{split}/{class}").as_str(), *share)]);
            if *class == "average" {
                line += &format!(" {split} accuracy {:.2} % of {count};", share * 100.0);
            }
        }
        if split == "test" {
            let classes: Vec<String> = classes
                .iter()
                .filter(|(class, ..)| *class != "average")
                .map(|(class, share, _)| format!("{class} {:.2}", share * 100.0))
                .collect();
            line += &format!(" test by class: {}", classes.join(", "));
        }
    }
    context.dataset.write_part::<Metric>(
        round,
        &format!("answer-{stage}"),
        log.into_rows(),
        &context.provenance,
    )?;
    StepCheckpoint::forget(&adapter_folder);
    // The answers come last: where they are, the stage is done.
    context.dataset.write_part::<Answer>(round, stage, answers, &context.provenance)?;
    Ok(Outcome::Done(line))
}

pub(super) fn answered(context: &Context, round: u32, stage: &str) -> Result<bool> {
    Ok(context.dataset.part_path::<Answer>(round, stage).is_file())
}

/// Folders of a stage's policy and of its answer model.
fn folders(context: &Context, round: u32, stage: &str) -> (PathBuf, PathBuf) {
    match stage {
        "base" => (context.base(), context.checkpoint(0, "answer")),
        "sft" => (context.checkpoint(round, "sft"), context.checkpoint(round, "answer")),
        stage => (context.checkpoint(round, stage), context.checkpoint(round, &format!("answer-{stage}"))),
    }
}

#[derive(Deserialize)]
struct RationaleOf {
    problem_id: String,
    stage: String,
    deduplicated: String,
}

/// A stage's rationales by problem, without repeats.
fn rationales(context: &Context, round: u32, stage: &str) -> Result<HashMap<String, String>> {
    let rows =
        context.dataset.project::<Rationale, RationaleOf>(round, &["problem_id", "stage", "deduplicated"])?;
    let of_stage = rows.into_iter().filter(|row| row.stage == stage);
    Ok(of_stage.map(|row| (row.problem_id, row.deduplicated)).collect())
}

fn source(context: &Context, policy: &Policy, problem: &Problem, rationale: &str) -> Result<Vec<i64>> {
    let settings = &context.settings;
    let text = prompt::answer_source(
        problem,
        rationale,
        settings.student.use_caption,
        settings.answer.prompt_format,
    );
    policy.tokenizer.encode(&text, settings.student.max_source_tokens)
}

fn train(
    context: &Context,
    round: u32,
    policy: &mut Policy,
    corpus: &Corpus,
    rationales: &HashMap<String, String>,
    folder: &Path,
    mut log: MetricLog,
) -> Result<Student> {
    let settings = &context.settings.answer;
    let mut examples = Vec::new();
    for problem in corpus.split("train") {
        let Some(index) = problem.answer_index else { continue };
        let gold = format!("{} {}", problem.lecture, problem.solution);
        let rationale = match settings.rationales {
            RationaleSource::Generated => rationales.get(&problem.problem_id).map_or("", String::as_str),
            RationaleSource::Gold => gold.trim(),
        };
        examples.push(Example {
            problem_id: problem.problem_id.clone(),
            source: source(context, policy, problem, rationale)?,
            target: policy.tokenizer.encode(&prompt::answer_target(index), settings.max_new_tokens)?,
        });
    }
    let config = policy.student.config.clone();
    let lora = LoraConfig::new(&config, settings.lora_rank, settings.lora_alpha, settings.lora_dropout);
    let seed = context.settings.rollout.seed;
    lora.add_to(
        &mut policy.weights,
        &config,
        (crate::seed::derive(seed, "lora", "") >> 1) as i64,
        context.device,
    );
    policy.weights.train_only(is_lora);
    let student = Student::new(&policy.weights, &config);
    let plan = Plan {
        stage: "answer",
        epochs: settings.epochs,
        batch: settings.batch,
        learning_rate: settings.learning_rate,
        weight_decay: settings.weight_decay,
        max_grad_norm: None,
        seed,
        kind: context.kind(),
        warmup: 0.0,
        max_tokens_per_batch: context.settings.student.max_tokens_per_batch,
    };
    let chosen = format!("{:?} {lora:?}", context.settings.student.vision);
    let identity = identity(&policy.fingerprint, &plan, &examples, &chosen);
    let mut saved = StepCheckpoint::new(folder, identity, context.save_interval());
    fit((&student, &policy.weights), &examples, &corpus.features, &plan, None, &mut saved, &mut log)?;
    // The adapter comes last: where it is, its training is done.
    let part = format!("{}-training", folder.file_name().unwrap_or_default().to_string_lossy());
    context.dataset.write_part::<Metric>(round, &part, log.into_rows(), &context.provenance)?;
    write_adapter(folder, &lora, &config, &policy.weights, &policy.folder)?;
    Ok(student)
}

#[allow(clippy::too_many_arguments)] // one call, in `evaluate`
fn answer(
    context: &Context,
    round: u32,
    stage: &str,
    split: &str,
    generator: &Generator<'_>,
    policy: &Policy,
    corpus: &Corpus,
    rationales: &HashMap<String, String>,
) -> Result<Vec<Answer>> {
    let problems = corpus.split(split);
    let mut sources = Vec::with_capacity(problems.len());
    for problem in &problems {
        let rationale = rationales.get(&problem.problem_id).map_or("", String::as_str);
        sources.push(source(context, policy, problem, rationale)?);
    }
    let mut order: Vec<usize> = (0..problems.len()).collect();
    order.sort_by_key(|&index| (sources[index].len(), index));
    let mut progress =
        Progress::new(&format!("round {round}: answers to {split} after {stage}"), order.len() as u64);
    let mut rows: Vec<Option<Answer>> = vec![None; problems.len()];
    let mut done = 0;
    for indices in order.chunks(context.settings.student.decode_batch as usize) {
        check_interrupt()?;
        let batch_rows: Vec<(&[i64], &str)> =
            indices.iter().map(|&i| (sources[i].as_slice(), problems[i].problem_id.as_str())).collect();
        let config = &policy.student.config;
        let source = batch::source(&batch_rows, &corpus.features, config.pad_token_id, context.device);
        let seeds = vec![0; indices.len()];
        let limit = context.settings.answer.max_new_tokens;
        let generated = generator.generate(&source, Sampling::Greedy, &seeds, limit);
        for (&index, generated) in indices.iter().zip(generated) {
            let problem = problems[index];
            let ids: Vec<i32> =
                generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
            let text = sentences::decode(policy.tokenizer.inner(), &ids)?.text;
            let predicted_index = prompt::read_answer(&text, problem.choices.len());
            rows[index] = Some(Answer {
                problem_id: problem.problem_id.clone(),
                round,
                split: split.to_owned(),
                stage: stage.to_owned(),
                predicted_index,
                answer_index: problem.answer_index,
                correct: problem.answer_index.map(|right| predicted_index == Some(right)),
                text,
            });
        }
        done += indices.len();
        progress.set(done as u64, "problems");
    }
    Ok(rows.into_iter().flatten().collect())
}
