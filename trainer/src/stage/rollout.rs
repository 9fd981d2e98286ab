//! Stage rollout: k sampled rationales for each train problem, with log-probabilities and values of every token.

use super::Outcome;
use super::context::{Context, Policy};
use crate::batch;
use crate::corpus::{Corpus, rationale_source};
use crate::error::{Error, Result};
use crate::progress::{Progress, check_interrupt};
use crate::rollout::forced::{ForcedPasses, TokenNumbers, needs_own_pass};
use crate::rollout::logprobs::ValueModel;
use crate::rollout::{Generated, Generator, Sampling};
use crate::seed;
use crate::sentences;
use crate::student::value_head::ValueHead;
use crate::student::{Mode, Student, Weights};
use crate::vision::ImageFeatures;
use schemas::settings::{Algorithm, ValueTrunk};
use schemas::{Problem, Rollout};

/// Problems in one Parquet part, the unit that a killed run repeats.
const PROBLEMS_A_PART: usize = 256;

/// Samples what is missing of the round.
pub(super) fn run(context: &Context, round: u32) -> Result<Outcome> {
    let problems = context.dataset.problems()?;
    let train: Vec<&Problem> = problems.iter().filter(|problem| problem.split == "train").collect();
    if train.is_empty() {
        return Err(Error::BadInput {
            message: format!(
                "{}: expected problems of split train, found none",
                context.dataset.root().display()
            ),
            hint: None,
        });
    }
    let parts: Vec<(String, &[&Problem])> =
        train.chunks(PROBLEMS_A_PART).enumerate().map(|(i, chunk)| (part_name(i), chunk)).collect();
    let due: Vec<&(String, &[&Problem])> = parts
        .iter()
        .filter(|(name, _)| !context.dataset.part_path::<Rollout>(round, name).is_file())
        .collect();
    if due.is_empty() {
        return Ok(Outcome::Already);
    }
    let policy = context.starting_policy(round)?;
    let corpus = Corpus::open(&context.dataset, &context.settings.student, &policy.student.config)?;
    let sampler = Sampler::new(context, round, &policy)?;
    let total: usize = due.iter().map(|(_, chunk)| chunk.len()).sum();
    let mut progress = Progress::new(&format!("round {round}: rollout"), total as u64);
    let mut rows = 0;
    let mut problems_done = 0;
    for (name, chunk) in due {
        let rollouts = sampler.part(chunk, &corpus.features, &mut |done| {
            progress.set((problems_done + done) as u64, "problems");
            check_interrupt()
        })?;
        problems_done += chunk.len();
        rows += rollouts.len();
        context.dataset.write_part(round, name, rollouts, &context.provenance)?;
    }
    Ok(Outcome::Done(format!("round {round}: {rows} rationales sampled for {total} problems")))
}

/// Name of a part of sampled rollouts; imported ones have other names.
fn part_name(index: usize) -> String {
    format!("sampled-{index:05}")
}

struct Sampler<'a> {
    context: &'a Context,
    round: u32,
    policy: &'a Policy,
    generator: Generator<'a>,
    /// Whether log-probabilities come from a pass in the format of training, because sampling ran in another one.
    own_pass: bool,
    /// The reference policy where it is not the sampling policy.
    reference: Option<Student>,
    /// None where the algorithm needs no values.
    value: Option<ValueModel>,
    mode: Mode,
}

impl<'a> Sampler<'a> {
    fn new(context: &'a Context, round: u32, policy: &'a Policy) -> Result<Self> {
        let base = context.base();
        // In the first round the reference is the policy itself.
        let reference = if policy.folder == base { None } else { Some(context.read_policy(&base)?.student) };
        let rl = &context.settings.rl;
        let seed = context.settings.rollout.seed;
        let value =
            (rl.algorithm == Algorithm::Ppo).then(|| value_model(policy, rl.value_model, seed, round).0);
        let (sampling, training) = (context.sampling_kind(), context.kind());
        Ok(Self {
            context,
            round,
            policy,
            generator: Generator::new(&policy.student, &policy.weights, sampling)?,
            own_pass: needs_own_pass(sampling, training),
            reference,
            value,
            mode: Mode { train: false, kind: training },
        })
    }

    fn passes(&self) -> ForcedPasses<'_> {
        ForcedPasses {
            policy: &self.policy.student,
            own: self.own_pass,
            reference: self.reference.as_ref(),
            value: self.value.as_ref(),
            mode: self.mode,
        }
    }

    /// Rollouts of some problems, in the order of the problems and samples.
    fn part(
        &self,
        problems: &[&Problem],
        features: &ImageFeatures,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Rollout>> {
        let settings = &self.context.settings;
        let config = &self.policy.student.config;
        let samples = settings.rollout.samples as usize;
        let mut sources = Vec::with_capacity(problems.len());
        for problem in problems {
            sources.push(rationale_source(&self.policy.tokenizer, problem, &settings.student)?);
        }
        // Alike lengths share a batch, so that little is spent on padding.
        let mut order: Vec<usize> = (0..problems.len()).collect();
        order.sort_by_key(|&index| (sources[index].len(), index));
        let mut rows: Vec<Option<Vec<Rollout>>> = vec![None; problems.len()];
        let together = (settings.student.decode_batch as usize / samples).max(1);
        for (batch_index, indices) in order.chunks(together).enumerate() {
            tick(batch_index * together)?;
            let batch_rows: Vec<(&[i64], &str)> = indices
                .iter()
                .map(|&index| (sources[index].as_slice(), problems[index].problem_id.as_str()))
                .collect();
            let source = batch::source(&batch_rows, features, config.pad_token_id, self.context.device);
            let seeds: Vec<u64> = indices
                .iter()
                .flat_map(|&index| (0..samples).map(move |sample| (index, sample)))
                .map(|(index, sample)| {
                    let place = format!("{}/{}/{sample}", self.round, problems[index].problem_id);
                    seed::derive(settings.rollout.seed, "rollout", &place)
                })
                .collect();
            let sampling = Sampling::Random {
                top_k: settings.rollout.top_k,
                top_p: settings.rollout.top_p,
                temperature: settings.rollout.temperature,
            };
            let limit = settings.rollout.max_new_tokens;
            let mut generated = self.generator.generate(&source, sampling, &seeds, limit);
            let TokenNumbers { own, reference, values } = self.passes().run(&source, &generated);
            for (generated, own) in generated.iter_mut().zip(own.into_iter().flatten()) {
                generated.logprobs = own;
            }
            for (place, &index) in indices.iter().enumerate() {
                let first = place * samples;
                let mut rollouts = Vec::with_capacity(samples);
                for row in first..first + samples {
                    let problem = &problems[index].problem_id;
                    let of = |numbers: &Option<Vec<Vec<f32>>>| numbers.as_ref().map(|rows| rows[row].clone());
                    rollouts.push(self.rollout(
                        problem,
                        (row - first) as u32,
                        &generated[row],
                        (of(&reference), of(&values)),
                        seeds[row],
                    )?);
                }
                rows[index] = Some(rollouts);
            }
        }
        tick(problems.len())?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    fn rollout(
        &self,
        problem_id: &str,
        sample: u32,
        generated: &Generated,
        (reference, values): (Option<Vec<f32>>, Option<Vec<f32>>),
        seed: u64,
    ) -> Result<Rollout> {
        let token_ids: Vec<i32> =
            generated.tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
        let decoded = sentences::decode(self.policy.tokenizer.inner(), &token_ids)?;
        Ok(Rollout {
            rollout_id: Rollout::id(problem_id, self.round, sample),
            problem_id: problem_id.to_owned(),
            round: self.round,
            sample,
            rationale: decoded.text,
            token_ids,
            logprobs: generated.logprobs.clone(),
            ref_logprobs: reference.unwrap_or_else(|| generated.logprobs.clone()),
            values: values.unwrap_or_default(),
            sentences: decoded.sentences,
            truncated: generated.truncated,
            policy: self.policy.fingerprint.clone(),
            seed,
        })
    }
}

/// The value model that a round starts with: a copy of the policy, or the policy itself, with a head made from the
/// seed; and the weights that are its own.
pub(super) fn value_model(
    policy: &Policy,
    trunk: ValueTrunk,
    run_seed: u64,
    round: u32,
) -> (ValueModel, Weights) {
    let config = &policy.student.config;
    let mut weights = match trunk {
        ValueTrunk::Separate => policy.weights.copy_to(tch::Device::Cpu),
        ValueTrunk::Shared => Weights::default(),
    };
    let head_seed = (seed::derive(run_seed, "value head", &round.to_string()) >> 1) as i64;
    weights.add_random(config, config.value_head_shapes(), head_seed);
    let weights = weights.copy_to(policy.student.encoder.device());
    let trunk = if trunk == ValueTrunk::Separate { &weights } else { &policy.weights };
    let model = ValueModel { student: Student::new(trunk, config), head: ValueHead::new(&weights) };
    (model, weights)
}
