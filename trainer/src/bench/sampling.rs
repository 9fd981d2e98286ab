//! Sampling, and the whole collection step.

use super::system::{Clock, Scratch, add};
use super::{Bench, Measurement, Work};
use crate::checkpoint::hf::{read_safetensors, write_safetensors};
use crate::data::batch;
use crate::error::Result;
use crate::model::{Source, Student};
use crate::nn::mode::Mode;
use crate::nn::value_head::{self, ValueHead};
use crate::nn::weights::Weights;
use crate::rollout::score::{needs_own_pass, teacher_forced};
use crate::rollout::{Generated, Generator, Sampling};
use crate::stage::PROBLEMS_A_PART;
use schemas::settings::{Algorithm, Dtype};
use tch::Kind;

impl Bench<'_> {
    /// One sample for each of --batch problems.
    pub(super) fn sampling(&self) -> Result<Measurement> {
        let weights = self.weights();
        let student = Student::new(&weights, &self.config);
        let dtype = self.sampling_dtype();
        let generator = Generator::new(&student, &weights, kind(dtype))?;
        let source = self.source();
        let mut times = Vec::new();
        for iteration in 0..=self.options.iterations {
            let start = Clock::start();
            self.generate(&generator, &source, 1, iteration);
            times.extend((iteration > 0).then(|| start.elapsed()));
        }
        Ok(self.sampled(Work::Sampling, dtype.to_string(), 1, &times, weights.count()))
    }

    /// The work of stage rollout in a later round, with one model at a time as in that stage. Reading the weights is counted in
    /// proportion to these problems' share of a part.
    pub(super) fn collection(&self) -> Result<Measurement> {
        let files = [Scratch::new("policy"), Scratch::new("reference")];
        for file in &files {
            let weights = self.weights();
            let named = weights.iter().map(|(name, tensor)| (name.to_owned(), tensor));
            write_safetensors(&file.path, named, &[])?;
        }
        let read = |file: &Scratch| -> Result<Weights> {
            Ok(Weights::new(read_safetensors(&file.path)?).into_device(self.device))
        };
        let dtype = self.sampling_dtype();
        let own_pass = needs_own_pass(kind(dtype), self.kind());
        let head_weights = value_head::random(self.config.d_model, 2);
        let head_weights = head_weights.into_device(self.device);
        let uses_values = self.settings.rl.algorithm == Algorithm::Ppo;
        let head = ValueHead::new(&head_weights);
        let head = uses_values.then_some(&head);
        let samples = self.settings.rollout.samples as usize;
        let share = f64::from(self.options.batch) / PROBLEMS_A_PART as f64;
        let source = self.source();
        let mode = Mode { train: false, kind: self.kind() };
        let (mut times, mut parameters) = (Vec::new(), 0);
        for iteration in 0..=self.options.iterations {
            let reading = Clock::start();
            let weights = read(&files[0])?;
            let mut time = reading.share(share);
            parameters = 2 * weights.count();
            let start = Clock::start();
            let generated = {
                let student = Student::new(&weights, &self.config);
                let mut generator = Generator::new(&student, &weights, kind(dtype))?;
                if uses_values && !own_pass {
                    generator = generator.with_value_head(&head_weights);
                }
                let generated = self.generate(&generator, &source, samples, iteration);
                if own_pass {
                    teacher_forced(&student, head, &source, &tokens(&generated), mode);
                }
                generated
            };
            add(&mut time, start.elapsed());
            drop(weights);
            let reading = Clock::start();
            let weights = read(&files[1])?;
            add(&mut time, reading.share(share));
            let start = Clock::start();
            teacher_forced(&Student::new(&weights, &self.config), None, &source, &tokens(&generated), mode);
            add(&mut time, start.elapsed());
            times.extend((iteration > 0).then_some(time));
        }
        let variant = format!("{samples} samples {dtype}");
        Ok(self.sampled(Work::Collection, variant, samples, &times, parameters))
    }

    fn sampling_dtype(&self) -> Dtype {
        self.settings.rollout.sampling_dtype.unwrap_or(self.settings.student.dtype)
    }

    fn source(&self) -> Source {
        let problems = self.options.batch as usize;
        let ids: Vec<Vec<i64>> =
            (0..problems).map(|row| self.tokens(self.options.source as usize, row)).collect();
        let names: Vec<String> = (0..problems).map(|row| row.to_string()).collect();
        let rows: Vec<(&[i64], &str)> =
            ids.iter().zip(&names).map(|(ids, name)| (ids.as_slice(), name.as_str())).collect();
        batch::source(&rows, &self.features, self.config.pad_token_id, self.device)
    }

    fn generate(
        &self,
        generator: &Generator<'_>,
        source: &Source,
        samples: usize,
        iteration: u32,
    ) -> Vec<Generated> {
        let rows = self.options.batch as usize * samples;
        let seeds: Vec<u64> = (0..rows).map(|row| (iteration as usize * rows + row) as u64).collect();
        let sampling = Sampling::Random { top_k: 50, top_p: 1.0, temperature: 1.0 };
        let generated = generator.generate(source, sampling, &seeds, self.options.target);
        debug_assert!(generated.iter().all(|row| row.tokens.len() == self.options.target as usize));
        generated
    }

    fn sampled(
        &self,
        work: Work,
        variant: String,
        samples: usize,
        times: &[(f64, f64)],
        parameters: i64,
    ) -> Measurement {
        let mut measured = self.measurement(work, variant, times, parameters);
        measured.batch = self.options.batch as usize;
        (measured.source, measured.target) = (f64::from(self.options.source), f64::from(self.options.target));
        measured.tokens_per_s = (measured.batch * samples) as f64 * measured.target / measured.seconds;
        measured
    }
}

fn tokens(generated: &[Generated]) -> Vec<&[i64]> {
    generated.iter().map(|row| row.tokens.as_slice()).collect()
}

/// Number format of the weights in decoding.
fn kind(dtype: Dtype) -> Kind {
    if dtype == Dtype::Bfloat16 { Kind::BFloat16 } else { Kind::Float }
}
