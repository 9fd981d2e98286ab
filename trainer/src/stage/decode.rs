//! Greedy rationales of a checkpoint: part of stages rl and sft, and of evaluation.

use super::context::{Context, Policy};
use crate::batch;
use crate::corpus::{Corpus, rationale_source};
use crate::error::Result;
use crate::progress::{Progress, check_interrupt};
use crate::rollout::{Generator, Sampling};
use crate::sentences;
use schemas::{Problem, Rationale};

/// Problems in one Parquet part, the unit that a killed run repeats.
const PROBLEMS_A_PART: usize = 512;

/// Where a stage's rationales of a split stand: names of parts with their problems.
fn parts<'a>(stage: &str, split: &str, problems: &'a [&'a Problem]) -> Vec<(String, &'a [&'a Problem])> {
    let chunks = problems.chunks(PROBLEMS_A_PART).enumerate();
    chunks.map(|(index, chunk)| (format!("{stage}-{split}-{index:05}"), chunk)).collect()
}

/// Whether all rationales of a stage and split are there.
pub(super) fn is_done(
    context: &Context,
    round: u32,
    stage: &str,
    split: &str,
    problems: &[&Problem],
) -> bool {
    let parts = parts(stage, split, problems);
    parts.iter().all(|(name, _)| context.dataset.part_path::<Rationale>(round, name).is_file())
}

/// Decodes what is missing of a stage's rationales of a split; returns the number written.
pub(super) fn run(
    context: &Context,
    round: u32,
    stage: &str,
    split: &str,
    policy: &Policy,
    corpus: &Corpus,
) -> Result<usize> {
    let problems = corpus.split(split);
    let parts = parts(stage, split, &problems);
    let due: Vec<_> = parts
        .iter()
        .filter(|(name, _)| !context.dataset.part_path::<Rationale>(round, name).is_file())
        .collect();
    let total: usize = due.iter().map(|(_, chunk)| chunk.len()).sum();
    let mut progress =
        Progress::new(&format!("round {round}: rationales of {split} after {stage}"), total as u64);
    let mut written = 0;
    if due.is_empty() {
        return Ok(0);
    }
    let generator = Generator::new(&policy.student, &policy.weights, context.sampling_kind())?;
    for (name, chunk) in due {
        let rows = part(context, round, stage, (policy, &generator), corpus, chunk, &mut |done| {
            progress.set((written + done) as u64, "problems");
            check_interrupt()
        })?;
        written += context.dataset.write_part(round, name, rows, &context.provenance)?;
    }
    Ok(written)
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
    let config = &policy.student.config;
    let mut sources = Vec::with_capacity(problems.len());
    for problem in problems {
        sources.push(rationale_source(&policy.tokenizer, problem, &settings.student)?);
    }
    let mut order: Vec<usize> = (0..problems.len()).collect();
    order.sort_by_key(|&index| (sources[index].len(), index));
    let mut rows: Vec<Option<Rationale>> = vec![None; problems.len()];
    let together = settings.student.decode_batch as usize;
    for (batch_index, indices) in order.chunks(together).enumerate() {
        tick(batch_index * together)?;
        let batch_rows: Vec<(&[i64], &str)> =
            indices.iter().map(|&i| (sources[i].as_slice(), problems[i].problem_id.as_str())).collect();
        let source = batch::source(&batch_rows, &corpus.features, config.pad_token_id, context.device);
        let seeds = vec![0; indices.len()];
        let limit = settings.rollout.max_new_tokens;
        let generated = generator.generate(&source, Sampling::Greedy, &seeds, limit);
        for (&index, generated) in indices.iter().zip(generated) {
            let problem = problems[index];
            let ids: Vec<i32> =
                generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
            let decoded = sentences::decode(policy.tokenizer.inner(), &ids)?;
            let sentences: Vec<String> =
                decoded.sentences.into_iter().map(|sentence| sentence.text).collect();
            let texts: Vec<&str> = sentences.iter().map(String::as_str).collect();
            let kept = schemas::sentences::without_repeats(&texts);
            rows[index] = Some(Rationale {
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
            });
        }
    }
    tick(problems.len())?;
    Ok(rows.into_iter().flatten().collect())
}
