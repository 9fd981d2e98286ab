//! Stage rollout: k sampled rationales for each train problem, with the log-probability of every token, and values if RL uses
//! them.

use super::context::Context;
use super::outcome::{Outcome, warn_of_truncation};
use super::parts;
use super::policy::Policy;
use crate::backend;
use crate::backend::memory::in_batches;
use crate::collective::Numbers;
use crate::data::batch;
use crate::data::corpus::{Corpus, rationale_source};
use crate::data::sentences;
use crate::data::vision::ImageFeatures;
use crate::error::{Error, Result};
use crate::model::Source;
use crate::nn::mode::Mode;
use crate::nn::value_head::ValueHead;
use crate::objective::value_model::initial_head;
use crate::rollout::score::{TeacherForced, needs_own_pass, teacher_forced};
use crate::rollout::{Generated, Generator, Sampling};
use crate::seed;
use crate::train::progress::{Progress, check_interrupt};
use schemas::number::counted;
use schemas::{Problem, Rollout};
use tch::Device;

/// Problems in one Parquet part, the unit of work lost when a run is killed.
pub(crate) const PROBLEMS_A_PART: usize = 256;

/// Prefix of the parts of sampled rollouts; imported ones have other names.
const SAMPLED: &str = "sampled";

/// Samples the round's missing rollouts.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let problems = context.dataset.problems()?;
    let mut train: Vec<&Problem> = problems.iter().filter(|problem| problem.split == "train").collect();
    if train.is_empty() {
        return Err(Error::BadInput {
            message: format!(
                "{}: expected problems of split train, found none",
                context.dataset.root().display()
            ),
            hint: None,
        });
    }
    let (share, all) = (context.settings.sampled(round), train.len());
    train.retain(|problem| share.contains(&problem.problem_id));
    if train.is_empty() {
        return Err(Error::input(
            format!(
                "round {round}: rollout.problems_share = {}: expected train problems in the round's share, found none of {all}",
                context.settings.rollout.problems_share
            ),
            "raise it",
        ));
    }
    let due = parts::due::<Rollout>(&context.dataset, round, SAMPLED, PROBLEMS_A_PART, &train)?;
    let total: usize = due.iter().map(|(_, chunk)| chunk.len()).sum();
    if total > 0 && context.has(&context.checkpoint(round, "rl")) {
        schemas::warn!(
            "round {round}: {total} train problems have no rollouts, but RL is complete: they are included from the next round on"
        );
        return Ok(Outcome::Already);
    }
    if due.is_empty() {
        return Ok(Outcome::Already);
    }
    let mut models = Models::new(context, round);
    if models.has_reference() {
        // A missing or broken reference is detected before a part is sampled.
        models.reference()?;
    }
    let policy = models.policy()?;
    let corpus = Corpus::open(&context.dataset, &context.settings.student, &*policy.student.config)?;
    let mut progress = Progress::new(&format!("round {round}: rollout"), total as u64);
    let (mut rows, mut truncated) = (0, 0);
    let mut problems_done = 0;
    for (name, chunk) in due {
        let tick = &mut |done| {
            progress.set((problems_done + done) as u64, "problems");
            check_interrupt()
        };
        let rollouts = part(&mut models, &chunk, &corpus.features, tick)?;
        problems_done += chunk.len();
        rows += rollouts.len();
        truncated += rollouts.iter().filter(|rollout| rollout.truncated).count();
        context.write_part(round, &name, rollouts)?;
    }
    let what = format!("round {round}: sampled rationales");
    warn_of_truncation(
        &what,
        (truncated, rows),
        "rollout.max_new_tokens",
        context.settings.rollout.max_new_tokens,
    );
    let (rationales, problems) = (counted(rows, "rationale"), counted(total, "problem"));
    Ok(Outcome::Done(format!("round {round}: {rationales} sampled for {problems}")))
}

/// The models of a round. On the CPU, only one is in memory at a time: rereading weights is cheap compared with processing a
/// part, and memory limits the size of the student there.
struct Models<'a> {
    context: &'a Context,
    round: u32,
    policy: Option<Policy>,
    reference: Option<Policy>,
}

impl<'a> Models<'a> {
    fn new(context: &'a Context, round: u32) -> Self {
        Self { context, round, policy: None, reference: None }
    }

    /// Whether the reference differs from the sampling policy, as it does after the first round.
    fn has_reference(&self) -> bool {
        self.context.start_of(self.round) != self.context.base()
    }

    fn keeps_students(&self) -> bool {
        backend::of(self.context.device).keeps_students()
    }

    /// The policy that samples.
    fn policy(&mut self) -> Result<&Policy> {
        let keeps_students = self.keeps_students();
        let policy = match self.policy.take() {
            Some(policy) => policy,
            None => {
                self.reference = self.reference.take().filter(|_| keeps_students);
                self.context.starting_policy(self.round)?
            }
        };
        Ok(self.policy.insert(policy))
    }

    /// The reference policy of the KL penalty.
    fn reference(&mut self) -> Result<&Policy> {
        let keeps_students = self.keeps_students();
        let reference = match self.reference.take() {
            Some(reference) => reference,
            None => {
                self.policy = self.policy.take().filter(|_| keeps_students);
                self.context.read_policy(&self.context.base())?
            }
        };
        Ok(self.reference.insert(reference))
    }
}

/// Rollouts of some problems, ordered by problem and sample.
fn part(
    models: &mut Models<'_>,
    problems: &[&Problem],
    features: &ImageFeatures,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Rollout>> {
    let (context, round) = (models.context, models.round);
    let settings = &context.settings;
    let policy = models.policy()?;
    let mut sources = Vec::with_capacity(problems.len());
    for problem in problems {
        sources.push(rationale_source(&policy.tokenizer, problem, &settings.student)?);
    }
    let batches =
        Batches::new(context, problems, &sources, features, policy.student.config.special_tokens().pad);
    let tick = &mut |done| tick(context.group.done_by_all(done, problems.len()));
    let mut rows = sample(context, round, policy, &batches, tick)?;
    if models.has_reference() {
        let reference = models.reference()?;
        let samples = settings.rollout.samples as usize;
        let mut own = Vec::new();
        let done = batches.each("reference log-probabilities", |indices| {
            check_interrupt()?;
            let rollouts: Vec<usize> =
                indices.iter().flat_map(|&index| index * samples..(index + 1) * samples).collect();
            let tokens: Vec<Vec<i64>> = rollouts
                .iter()
                .map(|&row| rows[row].token_ids.iter().map(|&id| i64::from(id)).collect())
                .collect();
            let tokens: Vec<&[i64]> = tokens.iter().map(Vec::as_slice).collect();
            let mode = Mode { train: false, kind: context.kind() };
            let numbers = teacher_forced(&reference.student, None, &batches.source(indices), &tokens, mode);
            own.extend(rollouts.into_iter().zip(numbers.logprobs.into_iter().map(Numbers)));
            Ok(())
        });
        for (row, Numbers(logprobs)) in context.group.collect(own, done)? {
            check_finite("reference log-probability", &rows[row].problem_id, &logprobs)?;
            rows[row].ref_logprobs = logprobs;
        }
    }
    context.group.agree(tick(problems.len()))?;
    Ok(rows)
}

/// This rank's problems of a part in batches of similar length, to reduce padding.
struct Batches<'a> {
    problems: &'a [&'a Problem],
    sources: &'a [Vec<i64>],
    features: &'a ImageFeatures,
    order: Vec<usize>,
    /// Problems in a batch.
    together: usize,
    pad: i64,
    device: Device,
}

impl<'a> Batches<'a> {
    fn new(
        context: &Context,
        problems: &'a [&'a Problem],
        sources: &'a [Vec<i64>],
        features: &'a ImageFeatures,
        pad: i64,
    ) -> Self {
        let mut order: Vec<usize> = (0..problems.len()).collect();
        order.sort_by_key(|&index| (sources[index].len(), index));
        let together =
            (context.settings.student.decode_batch / context.settings.rollout.samples).max(1) as usize;
        let order = context.group.share(&order, together);
        Self { problems, sources, features, order, together, pad, device: context.device }
    }

    /// Processes the problem indices of each batch.
    fn each(&self, what: &str, work: impl FnMut(&[usize]) -> Result<()>) -> Result<()> {
        in_batches(what, &self.order, self.together, work)
    }

    fn source(&self, indices: &[usize]) -> Source {
        let rows: Vec<(&[i64], &str)> = indices
            .iter()
            .map(|&index| (self.sources[index].as_slice(), self.problems[index].problem_id.as_str()))
            .collect();
        batch::source(&rows, self.features, self.pad, self.device)
    }
}

/// Samples rollouts of the policy, with the policy as the reference until another one is applied.
fn sample(
    context: &Context,
    round: u32,
    policy: &Policy,
    batches: &Batches<'_>,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Rollout>> {
    let settings = &context.settings;
    let samples = settings.rollout.samples as usize;
    // The value model starts as a copy of the policy, so its values can be computed from the policy's states.
    let rl = &settings.rl;
    let reads_values = rl.takes_sampled_values();
    let value_weights = reads_values.then(|| {
        let config = &*policy.student.config;
        initial_head(config, rl.value_init, settings.rollout.seed, round).into_device(context.device)
    });
    let (sampling_kind, training_kind) = (context.sampling_kind(), context.kind());
    let own_pass = needs_own_pass(sampling_kind, training_kind);
    let mut generator = Generator::new(&policy.student, &policy.weights, sampling_kind)?;
    if let Some(weights) = value_weights.as_ref().filter(|_| !own_pass) {
        generator = generator.with_value_head(weights);
    }
    let head = value_weights.as_ref().map(ValueHead::new);
    let choice = Sampling::Random {
        top_k: settings.rollout.top_k,
        top_p: settings.rollout.top_p,
        temperature: settings.rollout.temperature,
    };
    let seed = |index: usize, sample: usize| {
        sample_seed(settings.rollout.seed, round, &batches.problems[index].problem_id, sample)
    };
    let mut own: Vec<(usize, Generated)> = Vec::new();
    let mut count = 0;
    let done = batches.each("sampling", |indices| {
        tick(count)?;
        let source = batches.source(indices);
        let places: Vec<(usize, usize)> =
            indices.iter().flat_map(|&index| (0..samples).map(move |sample| (index, sample))).collect();
        let seeds: Vec<u64> = places.iter().map(|&(index, sample)| seed(index, sample)).collect();
        let mut generated = generator.generate(&source, choice, &seeds, settings.rollout.max_new_tokens);
        if own_pass {
            let mode = Mode { train: false, kind: training_kind };
            rescore(&mut generated, indices.len(), |first, count, tokens| {
                let source = source.narrow(first as i64, count as i64);
                teacher_forced(&policy.student, head.as_ref(), &source, tokens, mode)
            })?;
        }
        count += indices.len();
        own.extend(places.into_iter().map(|(index, sample)| index * samples + sample).zip(generated));
        Ok(())
    });
    let mut all = context.group.collect(own, done)?;
    all.sort_by_key(|(row, _)| *row);
    let row = |(row, generated): (usize, Generated)| {
        let (index, sample) = (row / samples, row % samples);
        let problem_id = batches.problems[index].problem_id.clone();
        rollout(policy, round, (problem_id, sample as u32), generated, seed(index, sample))
    };
    all.into_iter().map(row).collect()
}

/// Sets teacher-forced log-probabilities and values of the samples of `problems` problems: `score` receives the first problem,
/// the number of problems, and the tokens of their samples. If memory runs out, fewer problems are scored per pass; the samples
/// are kept.
fn rescore(
    generated: &mut [Generated],
    problems: usize,
    score: impl Fn(usize, usize, &[&[i64]]) -> TeacherForced,
) -> Result<()> {
    let samples = generated.len() / problems.max(1);
    let all: Vec<usize> = (0..problems).collect();
    in_batches("log-probabilities", &all, problems, |part| {
        let Some(&first) = part.first() else { return Ok(()) };
        let rows = first * samples..(first + part.len()) * samples;
        let tokens: Vec<&[i64]> = generated[rows.clone()].iter().map(|row| row.tokens.as_slice()).collect();
        let TeacherForced { logprobs, values } = score(first, part.len(), &tokens);
        let values = values.unwrap_or_else(|| vec![Vec::new(); rows.len()]);
        for (row, (logprobs, values)) in generated[rows].iter_mut().zip(logprobs.into_iter().zip(values)) {
            (row.logprobs, row.values) = (logprobs, values);
        }
        Ok(())
    })
}

/// Seed of the random stream of a sample of a problem in a round.
pub(super) fn sample_seed(run_seed: u64, round: u32, problem_id: &str, sample: usize) -> u64 {
    seed::derive(run_seed, "rollout", &format!("{round}/{problem_id}/{sample}"))
}

fn rollout(
    policy: &Policy,
    round: u32,
    (problem_id, sample): (String, u32),
    generated: Generated,
    seed: u64,
) -> Result<Rollout> {
    let token_ids: Vec<i32> =
        generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
    let decoded = sentences::decode(policy.tokenizer.inner(), &token_ids)?;
    check_finite("log-probability", &problem_id, &generated.logprobs)?;
    check_finite("value", &problem_id, &generated.values)?;
    Ok(Rollout {
        rollout_id: Rollout::id(&problem_id, round, sample),
        problem_id,
        round,
        sample,
        rationale: decoded.text,
        token_ids,
        ref_logprobs: generated.logprobs.clone(),
        logprobs: generated.logprobs,
        values: generated.values,
        sentences: decoded.sentences,
        truncated: generated.truncated,
        policy: policy.fingerprint.clone(),
        seed,
    })
}

/// Otherwise a non-finite number would be refused only after the Teacher's scores have been paid for.
fn check_finite(what: &str, problem_id: &str, numbers: &[f32]) -> Result<()> {
    let Some(wrong) = numbers.iter().find(|number| !number.is_finite()) else { return Ok(()) };
    let message = format!("rollout of problem `{problem_id}`: expected a finite {what}, found {wrong}");
    Err(Error::input(message, "check the checkpoint's weights, or try --dtype float32"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tch::{Kind, Tensor};

    #[test]
    fn each_sample_has_a_random_stream_of_its_own() {
        let mut seeds: Vec<u64> = Vec::new();
        for run in [1, 2] {
            for round in [1, 2] {
                for problem in ["a", "b"] {
                    seeds.extend((0..3).map(|sample| sample_seed(run, round, problem, sample)));
                }
            }
        }
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!((count, seeds.len()), (24, 24));
    }

    #[test]
    fn a_lack_of_memory_while_scoring_keeps_what_was_sampled() {
        let mut generated: Vec<Generated> = (0..10)
            .map(|row| Generated {
                tokens: vec![row, row],
                logprobs: Vec::new(),
                values: Vec::new(),
                truncated: true,
            })
            .collect();
        let calls = Cell::new(0);
        rescore(&mut generated, 5, |first, count, tokens| {
            calls.set(calls.get() + 1);
            assert_eq!(tokens.len(), count * 2);
            assert_eq!(tokens[0], [first as i64 * 2; 2]);
            if count > 2 {
                let _ = Tensor::zeros([1 << 45], (Kind::Float, Device::Cpu));
            }
            let numbers =
                tokens.iter().map(|tokens| tokens.iter().map(|&id| -(id as f32)).collect()).collect();
            TeacherForced { logprobs: numbers, values: None }
        })
        .expect("scored");
        assert_eq!(calls.get(), 4, "5, then 2, 2 and 1 problems");
        for (row, generated) in (0i64..).zip(&generated) {
            assert_eq!(
                (generated.tokens.as_slice(), generated.logprobs.as_slice()),
                (&[row, row][..], &[-(row as f32); 2][..])
            );
        }
    }
}
