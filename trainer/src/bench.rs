//! `train bench`: speed and memory of sampling, a fine-tuning step and a reinforcement step on random weights, in the
//! arithmetic that the settings ask for.

use crate::batch;
use crate::error::{Error, Result};
use crate::libtorch::product_kind;
use crate::optimizer::{AdamW, clip_factor, gradient_norm};
use crate::rl::ppo::{Learner, ScoredRollout};
use crate::rollout::forced::{needs_own_pass, token_numbers};
use crate::rollout::logprobs::ValueModel;
use crate::rollout::{Generated, Generator, Sampling};
use crate::sft::{Example, backward};
use crate::stage::PROBLEMS_A_PART;
use crate::student::checkpoint::{read_safetensors, write_safetensors};
use crate::student::value_head::ValueHead;
use crate::student::{Mode, Source, Student, StudentConfig, Weights};
use crate::vision::ImageFeatures;
use crate::vision::features;
use clap::{Args, ValueEnum};
use schemas::Settings;
use schemas::settings::{Algorithm, Dtype, ValueTrunk};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Sampling rationales, encoder included.
    Sampling,
    /// Stage rollout of a later round: rollout.samples rationales for each of --batch problems, with log-probabilities, those
    /// of another reference policy, and values.
    Collection,
    /// One step of supervised fine-tuning.
    Sft,
    /// One minibatch of reinforcement learning with its optimizer step.
    Ppo,
}

/// Flags of `train bench`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Shapes to measure: small (T5 v1.0, 62 million parameters), base or large (Flan-Alpaca); tiny for trials.
    #[arg(long, value_delimiter = ',', default_value = "small,base")]
    pub shapes: Vec<String>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sampling,sft,ppo")]
    pub work: Vec<Work>,
    /// Rows of a sampling batch, problems of a collection; steps take half as many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..4096))]
    pub batch: u32,
    /// Source tokens.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..4096))]
    pub source: u32,
    /// New or target tokens.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..4096))]
    pub target: u32,
    /// File of real lengths for the steps, a line each: source tokens, target tokens.
    #[arg(long, value_name = "FILE")]
    pub lengths: Option<PathBuf>,
    /// Measured repetitions, after one that is not; the best one counts, and the mean with --lengths.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000))]
    pub iterations: u32,
    /// One JSON object a line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What was measured.
    pub work: Work,
    /// Shape of the student.
    pub shape: String,
    /// Algorithm and number format.
    pub variant: String,
    /// Rows of a batch.
    pub batch: usize,
    /// Mean padded source tokens of a batch.
    pub source: f64,
    /// Mean padded target tokens of a batch.
    pub target: f64,
    /// Seconds for a batch of rationales, or for a step.
    pub seconds: f64,
    /// New tokens a second in sampling; source and target tokens a second in steps, padding not counted.
    pub tokens_per_s: f64,
    /// Processor seconds of the same, of all threads: what a busy machine disturbs less.
    pub cpu_seconds: f64,
    /// Most memory of the process while this was measured, in MB.
    pub peak_rss_mb: Option<f64>,
    /// Threads.
    pub threads: i32,
    /// Parameters that are read, or trained.
    pub parameters: i64,
}

/// Runs the measurements and prints them.
///
/// # Errors
/// Where a shape is unknown, the file of lengths is broken, or the disk refuses.
pub fn run(options: &Options, settings: &Settings) -> Result<()> {
    if settings.student.threads > 0 {
        tch::set_num_threads(i32::try_from(settings.student.threads).unwrap_or(i32::MAX));
    }
    let device = crate::libtorch::device(settings.student.device)?;
    let lengths = options.lengths.as_deref().map(read_lengths).transpose()?;
    if !options.json {
        println!(
            "{:<10} {:<6} {:<24} {:>14} {:>9} {:>9} {:>9} {:>9}",
            "work", "shape", "variant", "batch", "s", "cpu s", "tokens/s", "peak MB"
        );
    }
    for shape in &options.shapes {
        let config = config(shape)?;
        for &work in &options.work {
            reset_peak();
            let bench = Bench::new(&config, options, settings, lengths.as_deref(), device)?;
            let mut measured = match work {
                Work::Sampling => bench.sampling()?,
                Work::Collection => bench.collection()?,
                Work::Sft => bench.fine_tuning()?,
                Work::Ppo => bench.reinforcement()?,
            };
            measured.shape.clone_from(shape);
            measured.peak_rss_mb = peak_mb();
            print(&measured, options.json);
        }
    }
    Ok(())
}

fn print(m: &Measurement, json: bool) {
    if json {
        println!("{}", serde_json::to_string(m).unwrap_or_default());
        return;
    }
    let work = m.work.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    println!(
        "{:<10} {:<6} {:<24} {:>14} {:>9.2} {:>9.2} {:>9.1} {:>9}",
        work,
        m.shape,
        m.variant,
        format!("{}×{:.0}→{:.0}", m.batch, m.source, m.target),
        m.seconds,
        m.cpu_seconds,
        m.tokens_per_s,
        m.peak_rss_mb.map_or_else(|| "?".to_owned(), |mb| format!("{mb:.0}"))
    );
}

/// The shapes of the benchmark; `small` is T5 v1.0, as in the comparison, not the small student of `train init`.
fn config(shape: &str) -> Result<StudentConfig> {
    let named = if shape == "small" { "base" } else { shape };
    let mut config = StudentConfig::named(named, 32_128, 1024).ok_or_else(|| {
        Error::input(
            format!("--shapes: expected tiny, small, base or large, found `{shape}`"),
            "train bench --help",
        )
    })?;
    if shape == "small" {
        (config.d_model, config.num_heads, config.num_layers) = (512, 8, 6);
        config.num_decoder_layers = Some(6);
        config.feed_forward_proj = "relu".to_owned();
        config.tie_word_embeddings = true;
    }
    config.eos_token_id = -1; // so that every row runs to the limit
    Ok(config)
}

fn read_lengths(path: &Path) -> Result<Vec<(usize, usize)>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut lengths = Vec::new();
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let numbers: Vec<usize> =
            text.split([' ', ',', '\t']).filter_map(|number| number.trim().parse().ok()).collect();
        match numbers[..] {
            [source @ 1..4096, target @ 1..4096] => lengths.push((source, target)),
            _ => {
                let message = format!(
                    "{}, line {}: expected source and target tokens, found `{text}`",
                    path.display(),
                    line + 1
                );
                return Err(Error::BadInput { message, hint: None });
            }
        }
    }
    if lengths.is_empty() {
        let message = format!("{}: expected lengths, found none", path.display());
        return Err(Error::BadInput { message, hint: None });
    }
    Ok(lengths)
}

struct Bench<'a> {
    config: StudentConfig,
    options: &'a Options,
    settings: &'a Settings,
    device: Device,
    features: ImageFeatures,
    /// Batches of (source, target) lengths for the steps, the first for warming up.
    batches: Vec<Vec<(usize, usize)>>,
}

impl<'a> Bench<'a> {
    fn new(
        config: &StudentConfig,
        options: &'a Options,
        settings: &'a Settings,
        lengths: Option<&[(usize, usize)]>,
        device: Device,
    ) -> Result<Self> {
        let rows = options.batch as usize / 2;
        let count = options.iterations as usize + 1;
        let batches = match lengths {
            None => vec![vec![(options.source as usize, options.target as usize); rows]; count],
            Some(lengths) => {
                let order = crate::seed::order(lengths.len(), true, settings.rollout.seed, "bench", 0);
                let endless = order.iter().cycle().map(|&index| lengths[index]);
                endless.take(rows * count).collect::<Vec<_>>().chunks(rows).map(<[_]>::to_vec).collect()
            }
        };
        let features = random_features(options.batch as usize)?;
        Ok(Self { config: config.clone(), options, settings, device, features, batches })
    }

    /// Number format of the steps' products.
    fn kind(&self) -> Kind {
        product_kind(self.settings.student.dtype, self.device)
    }

    /// The number format that was asked for, and the one that was taken where that is another.
    fn format(&self) -> String {
        let dtype = self.settings.student.dtype;
        let runs_so = dtype != Dtype::Bfloat16 || self.kind() == Kind::BFloat16;
        if runs_so { dtype.to_string() } else { format!("{dtype} in float32") }
    }

    fn weights(&self) -> Weights {
        tch::no_grad(|| Weights::random(&self.config, 1)).into_device(self.device)
    }

    fn tokens(&self, count: usize, salt: usize) -> Vec<i64> {
        (0..count).map(|i| ((i * 7919 + salt * 104_729) % 32_000 + 3) as i64).collect()
    }

    fn measurement(&self, work: Work, variant: String, times: &[(f64, f64)], parameters: i64) -> Measurement {
        let measured = &self.batches[1..];
        let padded = |side: fn(&(usize, usize)) -> usize| {
            let longest = measured.iter().map(|batch| batch.iter().map(side).max().unwrap_or(0) as f64);
            longest.sum::<f64>() / measured.len() as f64
        };
        let of = |time: fn(&(f64, f64)) -> f64| match self.options.lengths {
            Some(_) if matches!(work, Work::Sft | Work::Ppo) => {
                times.iter().map(time).sum::<f64>() / times.len() as f64
            }
            _ => times.iter().map(time).fold(f64::INFINITY, f64::min),
        };
        let (seconds, cpu_seconds) = (of(|time| time.0), of(|time| time.1));
        let tokens: usize = measured.iter().flatten().map(|(source, target)| source + target).sum();
        Measurement {
            work,
            shape: String::new(),
            variant,
            batch: self.batches[0].len(),
            source: padded(|(source, _)| *source),
            target: padded(|(_, target)| *target),
            seconds,
            cpu_seconds,
            tokens_per_s: tokens as f64 / measured.len() as f64 / seconds,
            peak_rss_mb: None,
            threads: tch::get_num_threads(),
            parameters,
        }
    }

    /// One sample for each of --batch problems.
    fn sampling(&self) -> Result<Measurement> {
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

    /// What stage rollout does in a later round, with one model at a time as there. Reading the weights is counted at these
    /// problems' share of a part.
    fn collection(&self) -> Result<Measurement> {
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
        let mut head_weights = Weights::default();
        head_weights.add_random(&self.config, self.config.value_head_shapes(), 2);
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
                    token_numbers(&student, head, &source, &tokens(&generated), mode);
                }
                generated
            };
            add(&mut time, start.elapsed());
            drop(weights);
            let reading = Clock::start();
            let weights = read(&files[1])?;
            add(&mut time, reading.share(share));
            let start = Clock::start();
            token_numbers(&Student::new(&weights, &self.config), None, &source, &tokens(&generated), mode);
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

    /// The value model that the settings ask for, and the weights that are its own.
    fn value_model(&self, policy: &Weights) -> Option<(ValueModel, Weights)> {
        let rl = &self.settings.rl;
        let shared = rl.value_model == ValueTrunk::Shared;
        (rl.algorithm == Algorithm::Ppo).then(|| {
            let mut own = if shared { Weights::default() } else { self.weights() };
            own.add_random(&self.config, self.config.value_head_shapes(), 2);
            let own = own.into_device(self.device);
            own.train_only(|name| name != "lm_head.weight");
            let trunk = Student::new(if shared { policy } else { &own }, &self.config);
            (ValueModel { student: trunk, head: ValueHead::new(&own) }, own)
        })
    }

    fn fine_tuning(&self) -> Result<Measurement> {
        let weights = self.weights();
        weights.train_only(|_| true);
        let student = Student::new(&weights, &self.config);
        let sets = [("student", &weights)];
        let mut optimizer = AdamW::new(0.01);
        let budget = self.settings.student.max_tokens_per_batch;
        let mode = Mode { train: true, kind: self.kind() };
        let mut times = Vec::new();
        for (index, lengths) in self.batches.iter().enumerate() {
            let examples: Vec<Example> = lengths
                .iter()
                .enumerate()
                .map(|(row, &(source, target))| Example {
                    problem_id: row.to_string(),
                    source: self.tokens(source, row),
                    target: self.tokens(target, row + 100),
                })
                .collect();
            let examples: Vec<&Example> = examples.iter().collect();
            let start = Clock::start();
            let _ = backward(&student, &examples, &self.features, mode, budget);
            let norm = gradient_norm(&sets);
            optimizer.step(&sets, 8e-5, clip_factor(norm, Some(1.0)));
            self.wait();
            times.extend((index > 0).then(|| start.elapsed()));
        }
        let variant = self.format();
        Ok(self.measurement(Work::Sft, variant, &times, weights.count()))
    }

    fn reinforcement(&self) -> Result<Measurement> {
        let rl = &self.settings.rl;
        let weights = self.weights();
        weights.train_only(|_| true);
        let student = Student::new(&weights, &self.config);
        let value = self.value_model(&weights);
        let learner = Learner {
            policy: &student,
            policy_weights: &weights,
            value: value.as_ref().map(|(model, weights)| (model, weights)),
        };
        let mut sets = vec![("policy", &weights)];
        sets.extend(value.as_ref().map(|(_, weights)| ("value", weights)));
        let mut optimizer = AdamW::new(0.01);
        let budget = self.settings.student.max_tokens_per_batch;
        let mode = Mode { train: false, kind: self.kind() };
        let mut times = Vec::new();
        for (index, lengths) in self.batches.iter().enumerate() {
            let numbers = |count: usize, salt: usize| -> Vec<f32> {
                (0..count).map(|i| (((i + salt) * 31) as f32).sin() * 0.1).collect()
            };
            let rollouts: Vec<ScoredRollout> = lengths
                .iter()
                .enumerate()
                .map(|(row, &(source, target))| ScoredRollout {
                    problem_id: row.to_string(),
                    source: self.tokens(source, row),
                    tokens: self.tokens(target, row + 100),
                    old_logprobs: vec![-10.0; target],
                    advantages: numbers(target, row),
                    returns: numbers(target, row + 7),
                })
                .collect();
            let rollouts: Vec<&ScoredRollout> = rollouts.iter().collect();
            let start = Clock::start();
            learner.backward(&rollouts, &self.features, rl, mode, budget, 1.0).numbers(1.0);
            let norm = gradient_norm(&sets);
            optimizer.step(&sets, 2e-5, clip_factor(norm, rl.max_grad_norm));
            self.wait();
            times.extend((index > 0).then(|| start.elapsed()));
        }
        let trunk = if value.is_some() { format!(" {}", rl.value_model) } else { String::new() };
        let variant = format!("{}{trunk} {}", rl.algorithm, self.format());
        let parameters = sets.iter().map(|(_, weights)| weights.count()).sum();
        Ok(self.measurement(Work::Ppo, variant, &times, parameters))
    }

    /// Waits until the device has done what it was asked to.
    fn wait(&self) {
        if let Device::Cuda(index) = self.device {
            tch::Cuda::synchronize(index as i64);
        }
    }
}

fn tokens(generated: &[Generated]) -> Vec<&[i64]> {
    generated.iter().map(|row| row.tokens.as_slice()).collect()
}

/// Number format of the weights in decoding.
fn kind(dtype: Dtype) -> Kind {
    if dtype == Dtype::Bfloat16 { Kind::BFloat16 } else { Kind::Float }
}

/// Wall-clock and processor seconds.
struct Clock {
    start: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_seconds() }
    }

    fn elapsed(&self) -> (f64, f64) {
        (self.start.elapsed().as_secs_f64(), cpu_seconds() - self.cpu)
    }

    fn share(&self, share: f64) -> (f64, f64) {
        let (seconds, cpu) = self.elapsed();
        (seconds * share, cpu * share)
    }
}

fn add(sum: &mut (f64, f64), time: (f64, f64)) {
    *sum = (sum.0 + time.0, sum.1 + time.1);
}

/// A file for the time of a measurement.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("ares-bench-{}-{name}.safetensors", std::process::id());
        Self { path: std::env::temp_dir().join(name) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Processor seconds of this process so far, in hundredths; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |field: usize| after_name.split(' ').nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// Random pictures of the ViT's shape, from a file as in training.
fn random_features(count: usize) -> Result<ImageFeatures> {
    let file = Scratch::new("features");
    tch::manual_seed(3);
    let options = (Kind::Float, Device::Cpu);
    let rows: BTreeMap<String, Tensor> =
        (0..count).map(|row| (row.to_string(), Tensor::randn([145, 1024], options))).collect();
    features::write(&file.path, &rows, "random")?;
    ImageFeatures::open(&file.path, 1024) // the map keeps the file until the end
}

/// Starts a new peak of resident memory, where the system can.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most resident memory since, in MB.
fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
