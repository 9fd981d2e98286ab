//! `train bench`: speed and memory of sampling, a fine-tuning step and an RL step on random weights, with the number formats of
//! the settings.

mod launches;
mod sampling;
mod steps;
mod sums;
mod system;

use crate::backend;
use crate::backend::libtorch;
use crate::backend::libtorch::product_kind;
use crate::data::vision::ImageFeatures;
use crate::data::vision::features;
use crate::error::{Error, Result};
use crate::model::mm_t5::StudentConfig;
use crate::model::random_weights;
use crate::nn::weights::Weights;
use clap::{Args, ValueEnum};
use schemas::Settings;
use schemas::settings::Dtype;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use system::{Scratch, peak_mb, reset_peak};
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
    /// Summing a policy's gradients over ranks, by NCCL with a single rank; on a GPU only.
    Sums,
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
    /// Rows of a sampling batch, or problems of a collection; training steps take half as many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..4096))]
    pub batch: u32,
    /// Source tokens.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..4096))]
    pub source: u32,
    /// New or target tokens.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..4096))]
    pub target: u32,
    /// File of real lengths for the steps, one line each: source tokens, target tokens.
    #[arg(long, value_name = "FILE")]
    pub lengths: Option<PathBuf>,
    /// Measured repetitions, after one warm-up; the best is reported, or the mean with --lengths.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000))]
    pub iterations: u32,
    /// Print one JSON object per line instead of the table.
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
    /// New tokens per second in sampling; source and target tokens per second in steps, padding not counted.
    pub tokens_per_s: f64,
    /// CPU seconds of the same, over all threads: less affected by other load on the machine.
    pub cpu_seconds: f64,
    /// Peak memory of the process during the measurement, in MB.
    pub peak_rss_mb: Option<f64>,
    /// Kernels launched on the GPU in one repetition; `None` on a CPU, or without CUPTI.
    pub kernel_launches: Option<u64>,
    /// Threads.
    pub threads: i32,
    /// Parameters read, or trained.
    pub parameters: i64,
}

/// Runs the measurements and prints them.
///
/// # Errors
/// If a shape is unknown, the file of lengths is broken, or the write fails.
pub fn run(options: &Options, settings: &Settings) -> Result<()> {
    if settings.student.threads > 0 {
        tch::set_num_threads(i32::try_from(settings.student.threads).unwrap_or(i32::MAX));
    }
    let device = libtorch::device(settings.student.device)?;
    let mut settings = settings.clone();
    backend::resolve(&mut settings.student, &mut settings.rollout.sampling_dtype, device);
    let settings = &settings;
    if let Device::Cuda(_) = device {
        libtorch::set_tf32(settings.student.tf32);
    }
    schemas::warn!("measured on {}", libtorch::described(device));
    let lengths = options.lengths.as_deref().map(read_lengths).transpose()?;
    if !options.json {
        schemas::say!(
            "{:<10} {:<6} {:<24} {:>14} {:>9} {:>9} {:>9} {:>9}",
            "work",
            "shape",
            "variant",
            "batch",
            "s",
            "cpu s",
            "tokens/s",
            "peak MB"
        );
    }
    for shape in &options.shapes {
        let config = config(shape)?;
        for &work in &options.work {
            reset_peak();
            let bench = Bench::new(&config, options, settings, lengths.as_deref(), device)?;
            let launches = || device.is_cuda().then(launches::so_far).flatten();
            let before = launches();
            let mut measured = match work {
                Work::Sampling => bench.sampling()?,
                Work::Collection => bench.collection()?,
                Work::Sft => bench.fine_tuning()?,
                Work::Ppo => bench.reinforcement()?,
                Work::Sums => bench.sums()?,
            };
            measured.shape.clone_from(shape);
            measured.peak_rss_mb = peak_mb();
            // The first repetition is a warm-up and is not measured.
            let repetitions = u64::from(options.iterations) + 1;
            measured.kernel_launches =
                before.zip(launches()).map(|(before, after)| (after - before) / repetitions);
            print(&measured, options.json);
        }
    }
    Ok(())
}

fn print(m: &Measurement, json: bool) {
    if json {
        schemas::say!("{}", serde_json::json!(m));
        return;
    }
    let work = m.work.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    schemas::say!(
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
        let words = text.split([' ', ',', '\t']).filter(|word| !word.is_empty());
        let numbers: Option<Vec<usize>> = words.map(|word| word.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[source @ 1..4096, target @ 1..4096]) => lengths.push((source, target)),
            _ => {
                let message = format!(
                    "{}, line {}: expected source and target tokens, each from 1 to 4095, found `{text}`",
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

    /// The requested number format, and the one in use if it differs.
    fn format(&self) -> String {
        let dtype = self.settings.student.dtype;
        let runs_so = dtype != Dtype::Bfloat16 || self.kind() == Kind::BFloat16;
        if runs_so { dtype.to_string() } else { format!("{dtype} in float32") }
    }

    fn weights(&self) -> Weights {
        tch::no_grad(|| random_weights(&self.config, 1)).into_device(self.device)
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
            kernel_launches: None,
            threads: tch::get_num_threads(),
            parameters,
        }
    }

    /// Waits until the device has finished all queued work.
    fn wait(&self) {
        if let Device::Cuda(index) = self.device {
            tch::Cuda::synchronize(index as i64);
        }
    }
}

/// Random pictures of the ViT's shape, from a file as in training.
fn random_features(count: usize) -> Result<ImageFeatures> {
    let file = Scratch::new("features");
    tch::manual_seed(3);
    let options = (Kind::Float, Device::Cpu);
    let rows: BTreeMap<String, Tensor> =
        (0..count).map(|row| (row.to_string(), Tensor::randn([145, 1024], options))).collect();
    features::write(&file.path, &rows, "random")?;
    ImageFeatures::open(&file.path, 1024) // the mapping keeps the file alive until the end
}
