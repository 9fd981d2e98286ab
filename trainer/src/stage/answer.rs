//! Stage answer: a LoRA answer model on the policy, trained on problem + rationale, then val and test answered.

use super::context::Context;
use super::decode::{self, SPLITS};
use super::outcome::{Outcome, warn_of_truncation};
use super::policy::{Policy, short};
use super::report::accuracy;
use crate::backend::memory::in_batches;
use crate::checkpoint::hf;
use crate::checkpoint::peft::{Base, base_of, read_adapter, training_hash_of, write_adapter};
use crate::data::batch;
use crate::data::corpus::Corpus;
use crate::data::prompt;
use crate::data::sentences;
use crate::error::{Error, Result};
use crate::model::Student;
use crate::model::lora::{LoraConfig, is_lora};
use crate::objective::sft::{Choice, Example, Plan, fit, identity, mean_loss};
use crate::rollout::{Generated, Generator, Sampling};
use crate::train::metrics::MetricLog;
use crate::train::progress::{Progress, check_interrupt};
use crate::train::resume::StepCheckpoint;
use schemas::provenance::sha256_hex;
use schemas::settings::{AnswerKeepBy, RationaleSource};
use schemas::{Answer, Metric, Problem, Rationale};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Splits that are answered.
const ANSWERED: [&str; 2] = ["val", "test"];

/// Answers with the round's fine-tuned policy.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let policy = context.checkpoint(round, "sft");
    if !context.has(&policy) {
        return Err(Error::input(
            format!("{}: expected the fine-tuned policy, found none", policy.display()),
            format!("next: train --round {round}{}", context.dataset.flag()),
        ));
    }
    if context.has_answers(round, "sft") {
        return Ok(Outcome::Already);
    }
    evaluate(context, round, "sft")
}

/// Decodes missing rationales of all splits with a stage's checkpoint, trains its answer model, and answers val and test. Round
/// 0 with stage `base` is the base student.
///
/// # Errors
/// If the checkpoint is missing or is not the one that wrote the existing rationales, there is no training data, or a step
/// fails.
pub fn evaluate(context: &Context, round: u32, stage: &str) -> Result<Outcome> {
    if (stage == "base") != (round == 0) {
        return Err(Error::input(
            format!(
                "expected a round with --checkpoint rl or sft, and none with base, found round {round} with {stage}"
            ),
            "next: train eval --checkpoint base, or train eval --round N --checkpoint sft",
        ));
    }
    let (policy_folder, adapter_folder) = folders(context, round, stage);
    let mut policy = match stage {
        "base" => context.starting_policy(1)?,
        _ if !context.has(&policy_folder) => {
            return Err(Error::input(
                format!("{}: expected a checkpoint, found none", policy_folder.display()),
                format!("next: train --round {round}{}", context.dataset.flag()),
            ));
        }
        _ => context.read_policy(&policy_folder)?,
    };
    decode::refuse_others(context, round, stage, &policy)?;
    if context.has_answers(round, stage) {
        return Ok(Outcome::Already);
    }
    let corpus = Corpus::open(&context.dataset, &context.settings.student, &*policy.student.config)?;
    for split in SPLITS {
        decode::run(context, round, stage, split, &policy, &corpus)?;
    }
    let rationales = rationales(context, round, stage)?;
    let new_log = || {
        let log = MetricLog::new(round, if stage == "sft" { "answer" } else { "eval" });
        log.on_board(&context.settings.student.tensorboard)
    };
    let mut log = new_log()?;
    let lora = adapted(context, (&corpus, &rationales), &mut policy, &adapter_folder)?;
    let model = AnswerModel {
        context,
        student: Student::new(&policy.weights, &*policy.student.config),
        policy: &policy,
        corpus: &corpus,
        rationales: &rationales,
    };
    if let Some(lora) = lora {
        model.train(round, &lora, &adapter_folder, new_log()?)?;
    }
    let generator = model.generator()?;
    let mut answers = Vec::new();
    for split in ANSWERED {
        let title = format!("round {round}: answers to {split} after {stage}");
        let said = model.answer(&generator, &corpus.split(split), &title)?;
        answers.extend(said.into_iter().map(|said| said.row(round, split, stage)));
    }
    let problems: HashMap<&str, &Problem> = SPLITS
        .iter()
        .flat_map(|split| corpus.split(split))
        .map(|problem| (problem.problem_id.as_str(), problem))
        .collect();
    let mut line = format!("round {round}: answers after {stage}:");
    if answers.is_empty() {
        line += " none, as there are no val or test problems";
    }
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
            if !classes.is_empty() {
                line += &format!(" test by class: {}", classes.join(", "));
            }
        }
    }
    context.write_part::<Metric>(round, &format!("answer-{stage}"), log.into_rows())?;
    StepCheckpoint::forget(&adapter_folder, &context.group);
    // The answers are written last: if they exist, the stage is complete.
    context.write_part::<Answer>(round, stage, answers)?;
    Ok(Outcome::Done(line))
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

/// Adds to the policy's weights the adapter in `folder`; if there is none, a new one to train, which is returned.
fn adapted(
    context: &Context,
    (corpus, rationales): (&Corpus, &HashMap<String, String>),
    policy: &mut Policy,
    folder: &Path,
) -> Result<Option<LoraConfig>> {
    let config = &*policy.student.config;
    if folder.join("adapter_config.json").is_file() {
        if let Some(base) = base_of(folder)?.filter(|base| *base != policy.fingerprint) {
            return Err(Error::input(
                format!(
                    "{}: expected an adapter of {}, which is policy {}, found one of policy {}",
                    folder.display(),
                    policy.folder.display(),
                    short(&policy.fingerprint),
                    short(&base)
                ),
                "remove the adapter to train it again, or restore its policy",
            ));
        }
        if training_hash_of(folder)?.is_some_and(|found| found != training_hash(context, corpus, rationales))
        {
            return Err(Error::input(
                format!(
                    "{}: expected an adapter trained with these settings and rationales, found one of others",
                    folder.display()
                ),
                "remove the adapter to train it again, or use the settings of [answer] and [student] that \
                 it was trained with",
            ));
        }
        read_adapter(folder, config, &mut policy.weights, context.device)?;
        return Ok(None);
    }
    hf::refuse_taken(folder)?;
    let settings = &context.settings.answer;
    let lora = LoraConfig::new(config, settings.lora_rank, settings.lora_alpha, settings.lora_dropout);
    let seed = crate::seed::for_torch(context.settings.rollout.seed, "lora", "");
    lora.add_to(&mut policy.weights, config, seed, context.device);
    policy.weights.train_only(is_lora);
    Ok(Some(lora))
}

/// Settings of an adapter's training, other than the policy and its rationales, in one line.
fn training_hash(context: &Context, corpus: &Corpus, rationales: &HashMap<String, String>) -> String {
    let (answer, student) = (&context.settings.answer, &context.settings.student);
    let training = (answer.epochs, answer.batch, answer.learning_rate, answer.weight_decay, answer.warmup);
    let shape = (answer.lora_rank, answer.lora_alpha, answer.lora_dropout);
    let chosen = (answer.keep, answer.patience, answer.max_grad_norm);
    let source = (answer.prompt_format, answer.rationales, answer.max_new_tokens);
    let student = (student.use_caption, student.max_source_tokens, corpus.features.identity());
    let run = (context.settings.rollout.seed, context.kind());
    // Its training data; gold solutions are part of the dataset.
    let texts: BTreeMap<&str, &str> =
        rationales.iter().map(|(problem, text)| (problem.as_str(), text.as_str())).collect();
    let texts = (answer.rationales == RationaleSource::Generated).then_some(texts);
    let text = format!("{training:?} {shape:?} {chosen:?} {source:?} {student:?} {run:?} {texts:?}");
    sha256_hex(text.as_bytes())
}

/// A policy with an answer adapter, and the rationales it answers from.
struct AnswerModel<'a> {
    context: &'a Context,
    /// The student on the policy's weights and the adapter's.
    student: Student,
    policy: &'a Policy,
    corpus: &'a Corpus,
    /// The policy's rationales by problem.
    rationales: &'a HashMap<String, String>,
}

/// An answer model's prediction for a problem.
struct Said<'a> {
    problem: &'a Problem,
    text: String,
    predicted: Option<u8>,
}

impl Said<'_> {
    /// Whether it is the correct option; `None` if that is hidden.
    fn is_right(&self) -> Option<bool> {
        self.problem.answer_index.map(|right| self.predicted == Some(right))
    }

    fn row(self, round: u32, split: &str, stage: &str) -> Answer {
        Answer {
            problem_id: self.problem.problem_id.clone(),
            round,
            split: split.to_owned(),
            stage: stage.to_owned(),
            predicted_index: self.predicted,
            answer_index: self.problem.answer_index,
            correct: self.is_right(),
            text: self.text,
        }
    }
}

impl AnswerModel<'_> {
    /// Decodes with the adapter's current weights.
    fn generator(&self) -> Result<Generator<'_>> {
        Generator::new(&self.student, &self.policy.weights, self.context.sampling_kind())
    }

    /// The policy's rationale of a problem; empty if there is none.
    fn rationale(&self, problem: &Problem) -> &str {
        self.rationales.get(&problem.problem_id).map_or("", String::as_str)
    }

    /// Source tokens of a problem with a rationale.
    fn source(&self, problem: &Problem, rationale: &str) -> Result<Vec<i64>> {
        let settings = &self.context.settings;
        let format = settings.answer.prompt_format;
        let text = prompt::answer_source(problem, rationale, settings.student.use_caption, format);
        self.policy.tokenizer.encode(&text, settings.student.max_source_tokens)
    }

    /// A problem with its correct answer as the target; `None` if that is hidden.
    fn example(&self, problem: &Problem, rationale: &str) -> Result<Option<Example>> {
        let Some(right) = problem.answer_index else { return Ok(None) };
        let limit = self.context.settings.answer.max_new_tokens;
        Ok(Some(Example {
            problem_id: problem.problem_id.clone(),
            source: self.source(problem, rationale)?,
            target: self.policy.tokenizer.encode(&prompt::answer_target(right), limit)?,
        }))
    }

    /// Trains the adapter on the train split and writes it to `folder`.
    fn train(&self, round: u32, lora: &LoraConfig, folder: &Path, mut log: MetricLog) -> Result<()> {
        let (context, corpus) = (self.context, self.corpus);
        let settings = &context.settings.answer;
        let mut examples = Vec::new();
        for problem in corpus.split("train") {
            let gold = format!("{} {}", problem.lecture, problem.solution);
            let rationale = match settings.rationales {
                RationaleSource::Generated => self.rationale(problem),
                RationaleSource::Gold => gold.trim(),
            };
            examples.extend(self.example(problem, rationale)?);
        }
        let plan = Plan {
            stage: "answer",
            epochs: settings.epochs,
            batch: settings.batch,
            learning_rate: settings.learning_rate,
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
            seed: context.settings.rollout.seed,
            kind: context.kind(),
            warmup: settings.warmup,
            max_tokens_per_batch: context.settings.student.max_tokens_per_batch,
        };
        let val: Vec<&Problem> =
            corpus.split("val").into_iter().filter(|problem| problem.answer_index.is_some()).collect();
        let mut right = Vec::new();
        if settings.keep != AnswerKeepBy::Last {
            for problem in &val {
                right.extend(self.example(problem, self.rationale(problem))?);
            }
            if right.is_empty() {
                let found = "expected val problems with a known answer, found none";
                return Err(Error::input(
                    format!("answer.keep = {}: {found}", settings.keep),
                    "set answer.keep = last",
                ));
            }
        }
        let val_loss = || {
            let batch = context.settings.student.decode_batch as usize;
            mean_loss(&self.student, &right, &corpus.features, batch, context.kind(), &context.group)
        };
        let val_accuracy = || {
            let said = self.answer(&self.generator()?, &val, "answers to val")?;
            let right = said.iter().filter(|said| said.is_right() == Some(true)).count();
            Ok(right as f64 / said.len().max(1) as f64)
        };
        let (name, patience) = (settings.keep.as_str(), settings.patience);
        let choice = match settings.keep {
            AnswerKeepBy::Last => None,
            AnswerKeepBy::ValLoss => Some(Choice { name, higher: false, patience, measure: &val_loss }),
            AnswerKeepBy::ValAccuracy => {
                Some(Choice { name, higher: true, patience, measure: &val_accuracy })
            }
        };
        let vision = corpus.features.identity();
        let chosen = format!(
            "{vision} {lora:?} {:?} {patience:?} {right:?} {:?} {}{}",
            settings.keep,
            context.sampling_kind(),
            settings.max_new_tokens,
            self.policy.identity()
        );
        let identity = identity(&self.policy.fingerprint, &plan, &examples, &chosen);
        let mut saved = context.step_checkpoint(folder, identity);
        let model = (&self.student, &self.policy.weights);
        fit(model, &examples, &corpus.features, &plan, choice.as_ref(), &mut saved, &mut log)?;
        // The adapter is written last: if it exists, its training is complete.
        let part = format!("{}-training", folder.file_name().unwrap_or_default().to_string_lossy());
        context.write_part::<Metric>(round, &part, log.into_rows())?;
        let Policy { weights, fingerprint, companions, .. } = self.policy;
        let config = &*self.policy.student.config;
        let base = Base { config, folder: companions, fingerprint };
        let hash = training_hash(context, corpus, self.rationales);
        context.group.on_first(|| write_adapter(folder, lora, weights, &base, &hash)).map(|_| ())
    }

    /// Answers problems greedily, in order; `title` labels the progress.
    fn answer<'p>(
        &self,
        generator: &Generator<'_>,
        problems: &[&'p Problem],
        title: &str,
    ) -> Result<Vec<Said<'p>>> {
        let (context, config) = (self.context, &*self.policy.student.config);
        let mut sources = Vec::with_capacity(problems.len());
        for problem in problems {
            sources.push(self.source(problem, self.rationale(problem))?);
        }
        let mut order: Vec<usize> = (0..problems.len()).collect();
        order.sort_by_key(|&index| (sources[index].len(), index));
        let mut progress = Progress::new(title, order.len() as u64);
        let group = &context.group;
        let together = context.settings.student.decode_batch as usize;
        let mut own: Vec<(usize, Generated)> = Vec::new();
        let done = in_batches(title, &group.share(&order, together), together, |indices| {
            check_interrupt()?;
            let rows: Vec<(&[i64], &str)> =
                indices.iter().map(|&i| (sources[i].as_slice(), problems[i].problem_id.as_str())).collect();
            let source =
                batch::source(&rows, &self.corpus.features, config.special_tokens().pad, context.device);
            let seeds = vec![0; indices.len()];
            let limit = context.settings.answer.max_new_tokens;
            let generated = generator.generate(&source, Sampling::Greedy, &seeds, limit);
            own.extend(indices.iter().copied().zip(generated));
            progress.set(group.done_by_all(own.len(), problems.len()) as u64, "problems");
            Ok(())
        });
        let mut all = group.collect(own, done)?;
        all.sort_by_key(|(index, _)| *index);
        let truncated = all.iter().filter(|(_, generated)| generated.truncated).count();
        let said = |(index, generated): (usize, Generated)| {
            let problem: &'p Problem = problems[index];
            let ids: Vec<i32> =
                generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
            let text = sentences::decode(self.policy.tokenizer.inner(), &ids)?.text;
            let predicted = prompt::read_answer(&text, problem.choices.len());
            Ok(Said { problem, text, predicted })
        };
        let all = all.into_iter().map(said).collect::<Result<Vec<_>>>()?;
        let limit = context.settings.answer.max_new_tokens;
        warn_of_truncation(title, (truncated, problems.len()), "answer.max_new_tokens", limit);
        Ok(all)
    }
}
