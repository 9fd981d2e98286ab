//! `train pretrain`: supervised training on the dataset's gold solutions (MM-CoT's first stage), which produces a base student.

use crate::checkpoint::hf;
use crate::data::corpus::{Corpus, rationale_source};
use crate::data::option_order::reordered;
use crate::data::prompt;
use crate::error::{Error, Result};
use crate::objective::sft::{Example, Plan, fit, identity};
use crate::seed;
use crate::stage::Context;
use crate::train::metrics::MetricLog;
use crate::train::resume::StepCheckpoint;
use schemas::number::counted;
use std::path::Path;

/// Trains the student of `from` on the first `share` of the train problems with a solution (in an order by seed) for
/// `epochs`, and writes it to `out`. With `option_orders` above 1 each problem is also seen with its options in other orders.
///
/// # Errors
/// If `from` is missing, `out` exists, or training fails.
pub fn pretrain(
    context: &Context,
    from: &Path,
    out: &Path,
    share: f64,
    epochs: u32,
    option_orders: u32,
) -> Result<String> {
    if context.group.of_first(context.has(out))? {
        StepCheckpoint::forget(out, &context.group);
        return Ok(format!("{} already exists: nothing to do", out.display()));
    }
    if !(share > 0.0 && share <= 1.0) {
        let message = format!("--share: expected a number above 0, at most 1, found {share}");
        return Err(Error::BadInput { message, hint: None });
    }
    hf::refuse_taken(out)?;
    let settings = &context.settings;
    let policy = context.read_policy_to_train(from)?;
    let corpus = Corpus::open(&context.dataset, &settings.student, &*policy.student.config)?;
    let problems: Vec<_> =
        corpus.split("train").into_iter().filter(|problem| !problem.solution.trim().is_empty()).collect();
    let order = seed::order(problems.len(), true, settings.rollout.seed, "pretrain share", 0);
    let count = ((problems.len() as f64 * share).ceil() as usize).min(problems.len());
    let mut examples = Vec::with_capacity(count);
    for &index in &order[..count] {
        let options = problems[index].choices.len();
        for copy in 0..option_orders {
            let stage = format!("option order of {}", problems[index].problem_id);
            let order = seed::order(options, copy > 0, settings.rollout.seed, &stage, copy.into());
            let problem = reordered(problems[index], &order);
            let target = prompt::rationale_target(&problem.solution);
            examples.push(Example {
                problem_id: problem.problem_id.clone(),
                source: rationale_source(&policy.tokenizer, &problem, &settings.student)?,
                target: policy.tokenizer.encode(&target, settings.sft.max_target_tokens)?,
            });
        }
    }
    let plan = Plan {
        stage: "pretrain",
        epochs,
        batch: settings.sft.batch,
        learning_rate: settings.sft.learning_rate,
        weight_decay: settings.sft.weight_decay,
        max_grad_norm: settings.sft.max_grad_norm,
        seed: settings.rollout.seed,
        kind: context.kind(),
        warmup: settings.sft.warmup,
        max_tokens_per_batch: context.settings.student.max_tokens_per_batch,
    };
    let chosen = format!("{}{}", corpus.features.identity(), policy.identity());
    let identity = identity(&policy.fingerprint, &plan, &examples, &chosen);
    let mut saved = context.step_checkpoint(out, identity);
    let mut log = MetricLog::new(0, "pretrain").on_board(&settings.student.tensorboard)?;
    fit((&policy.student, &policy.weights), &examples, &corpus.features, &plan, None, &mut saved, &mut log)?;
    let last = log.rows().iter().rev().find(|row| row.name == "loss").map_or(f64::NAN, |row| row.value);
    // The checkpoint is written last: if it exists, nothing is left to do.
    context.write_part(0, "pretrain", log.into_rows())?;
    context.group.on_first(|| policy.write(out, "pretrain"))?;
    StepCheckpoint::forget(out, &context.group);
    Ok(format!(
        "{}: trained on {} for {}, last loss {last:.3}",
        out.display(),
        counted(count, "gold solution"),
        counted(epochs, "epoch")
    ))
}
