//! Stage sft: learn from the Teacher's corrections of what the RL policy said, then decode all splits.

use super::context::Context;
use super::{Outcome, decode};
use crate::corpus::{Corpus, rationale_source};
use crate::error::{Error, Result};
use crate::metrics::MetricLog;
use crate::prompt;
use crate::resume::StepCheckpoint;
use crate::sft::{Example, Plan, fit};
use crate::student::checkpoint;
use schemas::number::grouped;
use schemas::provenance::sha256_hex;
use schemas::settings::CorrectionFilter;
use schemas::{Correction, Metric, Rationale, Reject};
use serde::Deserialize;
use std::collections::HashSet;

/// Splits decoded after fine-tuning; the answer stage needs all three.
pub(super) const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Fine-tunes where corrections allow, then decodes all splits.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let folder = context.checkpoint(round, "sft");
    let mut lines = Vec::new();
    if !context.has(&folder) {
        let corrections = match ready(context, round)? {
            Ok(corrections) => corrections,
            Err(waiting) => return Ok(Outcome::Waiting(waiting)),
        };
        lines.push(train(context, round, &corrections)?);
    }
    StepCheckpoint::forget(&folder);
    let problems = context.dataset.problems()?;
    let mut written = 0;
    for split in SPLITS {
        let of_split: Vec<_> = problems.iter().filter(|problem| problem.split == split).collect();
        if !decode::is_done(context, round, "sft", split, &of_split) {
            let policy = context.read_policy(&folder)?;
            let corpus = Corpus::open(&context.dataset, &context.settings.student, &policy.student.config)?;
            written += decode::run(context, round, "sft", split, &policy, &corpus)?;
        }
    }
    if written > 0 {
        lines.push(format!("{written} rationales decoded"));
    }
    Ok(match lines.as_slice() {
        [] => Outcome::Already,
        lines => Outcome::Done(format!("round {round}: sft: {}", lines.join("; "))),
    })
}

#[derive(Deserialize)]
struct RationaleOf {
    rationale_id: String,
    stage: String,
    split: String,
    deduplicated: String,
}

#[derive(Deserialize)]
struct RejectOf {
    kind: String,
    subject_id: String,
}

/// The corrections to learn from; the inner error is the line that says what the round waits for.
fn ready(context: &Context, round: u32) -> Result<Result<Vec<Correction>, String>> {
    let dataset = &context.dataset;
    let columns = ["rationale_id", "stage", "split", "deduplicated"];
    let due: HashSet<String> = dataset
        .project::<Rationale, RationaleOf>(round, &columns)?
        .into_iter()
        .filter(|row| row.stage == "rl" && row.split == "train" && !row.deduplicated.trim().is_empty())
        .map(|row| row.rationale_id)
        .collect();
    if due.is_empty() && !context.has(&context.checkpoint(round, "rl")) {
        let data = dataset.root().display();
        return Err(Error::input(
            format!("round {round}: expected rationales of stage rl, found none"),
            format!("next: train --round {round} --data {data}"),
        ));
    }
    let mut seen = HashSet::new();
    let mut corrections = Vec::new();
    for correction in dataset.read::<Correction>(round)? {
        if !due.contains(&correction.rationale_id) {
            return Err(Error::BadInput {
                message: format!(
                    "corrections, round {round}: expected a rationale of stage rl, found `{}`",
                    correction.rationale_id
                ),
                hint: None,
            });
        }
        if !seen.insert(correction.rationale_id.clone()) {
            let message = format!(
                "corrections, round {round}: rationale {} stands there twice",
                correction.rationale_id
            );
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
    let rejected = dataset
        .project::<Reject, RejectOf>(round, &["kind", "subject_id"])?
        .into_iter()
        .filter(|reject| reject.kind == "corrections" && due.contains(&reject.subject_id))
        .count();
    let waiting = due.len().saturating_sub(corrections.len() + rejected);
    if waiting > 0 {
        return Ok(Err(format!(
            "round {round}: {} rationales wait for corrections; next: collect-feedback --round {round}{}",
            grouped(waiting),
            dataset.flag()
        )));
    }
    // The order of parts depends on interruptions of the collector; the order of learning must not.
    corrections.sort_by(|a, b| a.rationale_id.cmp(&b.rationale_id));
    Ok(Ok(corrections))
}

fn train(context: &Context, round: u32, corrections: &[Correction]) -> Result<String> {
    let settings = &context.settings;
    let policy = context.read_policy(&context.checkpoint(round, "rl"))?;
    let config = &policy.student.config;
    let corpus = Corpus::open(&context.dataset, &settings.student, config)?;
    let mut examples = Vec::with_capacity(corrections.len());
    let only_changed = settings.sft.filter == CorrectionFilter::Changed;
    let corrections: Vec<&Correction> =
        corrections.iter().filter(|correction| correction.changed || !only_changed).collect();
    for correction in &corrections {
        let problem = corpus.get(&correction.problem_id, "corrections")?;
        let limit = settings.sft.max_target_tokens;
        let mut target = policy.tokenizer.encode(&prompt::rationale_target(&correction.corrected), limit)?;
        if settings.sft.padded_loss {
            target.resize(limit as usize, config.pad_token_id);
        }
        examples.push(Example {
            problem_id: problem.problem_id.clone(),
            source: rationale_source(&policy.tokenizer, problem, &settings.student)?,
            target,
        });
    }
    let plan = Plan {
        stage: "sft",
        epochs: settings.sft.epochs,
        batch: settings.sft.batch,
        learning_rate: settings.sft.learning_rate,
        weight_decay: settings.sft.weight_decay,
        max_grad_norm: settings.sft.max_grad_norm,
        seed: settings.rollout.seed ^ u64::from(round),
        kind: context.kind(),
        warmup: settings.sft.warmup,
        max_tokens_per_batch: context.settings.student.max_tokens_per_batch,
    };
    let folder = context.checkpoint(round, "sft");
    let identity = identity(&policy.fingerprint, &plan, &examples);
    let mut saved = StepCheckpoint::new(&folder, identity, context.save_interval());
    let mut log = MetricLog::new(round, "sft");
    policy.weights.train_only(|_| true);
    fit(&policy.student, &policy.weights, &examples, &corpus.features, &plan, &mut saved, &mut log)?;
    // The checkpoint comes last: where it is, the stage is done.
    context.dataset.write_part::<Metric>(round, "sft", log.into_rows(), &context.provenance)?;
    checkpoint::write_student(&folder, config, &policy.weights, &policy.folder)?;
    let changed = corrections.iter().filter(|correction| correction.changed).count();
    Ok(format!("{} corrections learned, {} of them changed", grouped(corrections.len()), grouped(changed)))
}

/// What a fine-tuning is started with, for its step checkpoint.
pub(super) fn identity(fingerprint: &str, plan: &Plan, examples: &[Example]) -> String {
    let tokens: Vec<String> =
        examples.iter().map(|e| format!("{} {:?} {:?}", e.problem_id, e.source, e.target)).collect();
    sha256_hex(format!("{fingerprint} {plan:?} {}", sha256_hex(tokens.join("\n").as_bytes())).as_bytes())
}
