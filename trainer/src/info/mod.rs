//! `train info`: what a student is, and what each stage takes in memory with the current settings.

pub mod memory;

use crate::backend::libtorch::product_kind;
use crate::backend::{self, libtorch};
use crate::checkpoint::folder::{is_adapter, made_by, trunk_of};
use crate::checkpoint::hf::{self, Loaded};
use crate::checkpoint::peft;
use crate::checkpoint::weight_files::{WEIGHTS_FILE, map_file};
use crate::data::prompt;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::family::read_config;
use crate::model::lora::LoraConfig;
use crate::objective::plan::Plan;
use crate::rollout::score::needs_own_pass;
use clap::Args;
use memory::{Batch, Memory, Model};
use safetensors::tensor::{SafeTensors, TensorInfo};
use schemas::number::grouped;
use schemas::settings::{Algorithm, AnswerKeepBy, Dtype, KeepBy, RlSettings, Settings, ValueTrunk};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// Flags of `train info`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Folder of a student: base, round-N/rl or round-N/sft of the checkpoints, or any other.
    pub folder: PathBuf,
    /// Source tokens of the rows of a batch [default: student.max_source_tokens, the maximum].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1 << 20))]
    pub source_tokens: Option<u32>,
    /// Target tokens of the rows of a batch [default: the maximum, by stage].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1 << 20))]
    pub target_tokens: Option<u32>,
    /// Patches of a picture; vit-large-patch32-384 has 145.
    #[arg(long, default_value_t = 145, value_parser = clap::value_parser!(u32).range(1..1 << 16))]
    pub patches: u32,
    /// Number of processes that train together; the memory shown is that of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1 << 16))]
    pub ranks: u32,
}

/// What a student's files say.
struct Student {
    config: Box<dyn ModelConfig>,
    /// Number formats in its files.
    dtypes: String,
    adapter: Option<(LoraConfig, PathBuf)>,
}

/// Says what a student is, and what each stage takes in memory.
///
/// # Errors
/// If the folder holds no student, or its files are broken.
pub fn info(options: &Options, settings: &Settings) -> Result<String> {
    let device = libtorch::device(settings.student.device)?;
    let mut settings = settings.clone();
    backend::resolve(&mut settings.student, &mut settings.rollout.sampling_dtype, device);
    let folder = &options.folder;
    let student = Student::read(folder)?;
    let mut text = student.describe(folder)?;
    text.push('\n');
    text += &needs(folder, &student, options, &settings, device)?;
    Ok(text.trim_end().to_owned())
}

impl Student {
    fn read(folder: &Path) -> Result<Self> {
        if is_adapter(folder) {
            let lora = peft::read_config(folder)?;
            let trunk = trunk_of(folder, &lora)?;
            return Ok(Self { adapter: Some((lora, trunk.clone())), ..Self::read(&trunk)? });
        }
        if !folder.join("config.json").is_file() {
            return Err(Error::input(
                format!("{}: expected a student, found no config.json", folder.display()),
                "next: train init --help",
            ));
        }
        let file = folder.join(WEIGHTS_FILE);
        if !file.is_file() {
            // Shards or pickles, whose shapes are known when they are read.
            let Loaded { config, .. } = hf::read_text_model(folder)?;
            return Ok(Self { config, dtypes: "float32".to_owned(), adapter: None });
        }
        let mut config = read_config(&folder.join("config.json"))?;
        let map = map_file(&file)?;
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|e| Error::Checkpoint {
            path: file.clone(),
            message: format!("not a safetensors file: {e}"),
        })?;
        let tensors = header.tensors();
        let shape = |info: &&TensorInfo| info.shape.iter().map(|&size| size as i64).collect();
        config.follow_shapes(&tensors.iter().map(|(name, info)| (name.clone(), shape(info))).collect());
        let dtypes: BTreeSet<String> = tensors.values().map(|info| format!("{:?}", info.dtype)).collect();
        let dtypes = dtypes.into_iter().collect::<Vec<_>>().join(", ");
        Ok(Self { config, dtypes, adapter: None })
    }

    /// The folder with its tokenizer: its own, or that of an adapter's trunk.
    fn tokenizer_folder<'a>(&'a self, folder: &'a Path) -> &'a Path {
        let trunk = self.adapter.as_ref().map(|(_, trunk)| trunk.as_path());
        trunk.filter(|_| !folder.join("tokenizer.json").is_file()).unwrap_or(folder)
    }

    /// Tokens of the answers that the answer model learns; `None` without a tokenizer that is the student's.
    fn answer_tokens(&self, folder: &Path) -> Option<u32> {
        let tokenizer = Tokenizer::read(self.tokenizer_folder(folder), &*self.config).ok()?;
        let tokens = tokenizer.encode(&prompt::answer_target(0), u32::MAX).ok()?;
        u32::try_from(tokens.len()).ok()
    }

    fn describe(&self, folder: &Path) -> Result<String> {
        let config = &*self.config;
        let mut text = format!("{}\n", folder.display());
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("model", config.describe());
        let count: i64 = config.shapes().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
        line("parameters", format!("{} ({} in the file)", grouped(count as usize), self.dtypes));
        match &self.adapter {
            None => line("weights", "all of them; no adapter".to_owned()),
            Some((lora, trunk)) => line(
                "weights",
                format!(
                    "LoRA adapter with {} parameters, rank {}, alpha {}, on {} layers ({}) of {}",
                    grouped(matrices(lora, config) as usize),
                    lora.r,
                    lora.lora_alpha,
                    lora.layers(config).len(),
                    lora.target_modules.join(", "),
                    trunk.display()
                ),
            ),
        }
        let tokens = Tokenizer::vocabulary_size(self.tokenizer_folder(folder));
        let tokens = tokens.map_or_else(
            |_| "no tokenizer.json".to_owned(),
            |count| format!("{} tokens", grouped(count as usize)),
        );
        let head = if config.head_layer().is_some() {
            "separate output head"
        } else {
            "output head tied to the embedding"
        };
        line("vocabulary", format!("{tokens}, {} rows, {head}", grouped(config.vocabulary() as usize)));
        line(
            "vision",
            format!("image features of width {} per patch; zeros without a picture", config.image_width()),
        );
        line("made by", made_by(folder)?.unwrap_or_else(|| "not recorded".to_owned()));
        Ok(text)
    }
}

/// Numbers of an adapter.
fn matrices(lora: &LoraConfig, config: &dyn ModelConfig) -> i64 {
    lora.layers(config).iter().map(|(_, inputs, outputs)| lora.r * (inputs + outputs)).sum()
}

/// A table of what each stage takes.
fn needs(
    folder: &Path,
    student: &Student,
    options: &Options,
    settings: &Settings,
    device: Device,
) -> Result<String> {
    let config = &*student.config;
    let asked = LoraConfig::of(&settings.student, config).map_err(|message| Error::BadInput {
        message: format!("student.lora_targets: {message}"),
        hint: None,
    })?;
    let shards = settings.student.shard_optimizer;
    let model = Model {
        config,
        device,
        kind: product_kind(settings.student.dtype, device),
        patches: f64::from(options.patches),
        adapter: asked.as_ref().map(|lora| matrices(lora, config) as f64),
        adapter_dropout: false,
        shards: if shards { f64::from(options.ranks) } else { 1.0 },
    };
    let trained = match &asked {
        None => "all weights are trained".to_owned(),
        Some(lora) => format!("an adapter of rank {} is trained", lora.r),
    };
    let of_ranks = match options.ranks {
        1 => String::new(),
        ranks => format!(
            "; each of {ranks} ranks has its share of the rows{}",
            if shards { " and of the optimizer's state" } else { "" }
        ),
    };
    let mut text = format!(
        "memory in GB with these settings, on {}, {}: {trained}; {} source tokens a row{of_ranks}\n",
        backend::of(device).name(),
        settings.student.dtype,
        options.source_tokens.unwrap_or(settings.student.max_source_tokens),
    );
    let _ = writeln!(
        text,
        "{:<16} {:>8} {:>9} {:>10} {:>10} {:>8} {:>8}",
        "stage", "weights", "gradients", "optimizer", "passes", "process", "total"
    );
    for (name, memory) in stages(&model, student.answer_tokens(folder), options, settings) {
        let Memory { weights, gradients, optimizer, passes, process } = memory;
        let gb = |bytes: f64| format!("{:.2}", bytes / 1e9);
        let _ = writeln!(
            text,
            "{name:<16} {:>8} {:>9} {:>10} {:>10} {:>8} {:>8}",
            gb(weights),
            gb(gradients),
            gb(optimizer),
            gb(passes),
            gb(process),
            gb(memory.total())
        );
    }
    Ok(text)
}

/// What each stage takes of a rank, where answers have `answer_tokens`.
fn stages(
    model: &Model<'_>,
    answer_tokens: Option<u32>,
    options: &Options,
    settings: &Settings,
) -> [(&'static str, Memory); 6] {
    let Settings { student, rollout, rl, sft, answer, .. } = settings;
    let sampling = match rollout.sampling_dtype.unwrap_or(student.dtype) {
        Dtype::Bfloat16 => Kind::BFloat16,
        Dtype::Float32 | Dtype::Auto => Kind::Float,
    };
    let source = f64::from(options.source_tokens.unwrap_or(student.max_source_tokens));
    let target = |most: u32| f64::from(options.target_tokens.map_or(most, |asked| asked.min(most)));
    let portion = |batch: Batch| batch.of_rank(f64::from(options.ranks)).within(student.max_tokens_per_batch);

    let new = target(rollout.max_new_tokens);
    let (together, samples) = (f64::from(student.decode_batch), f64::from(rollout.samples));
    let problems = (together / samples).floor().max(1.0);
    let sampled = model.decoding(problems, problems * samples, source, new, sampling);
    let scored = sampled.max(model.scoring(problems, samples, source, new));
    let first = if needs_own_pass(sampling, model.kind) { scored } else { sampled };
    let decode = model.decoding(together, together, source, new, sampling);

    let minibatch = f64::from(rl.minibatch);
    let minibatch = match rl.algorithm {
        Algorithm::Dpo => Batch::new(2.0 * minibatch, source, new).of_samples(2.0),
        _ if Plan::keeps_problems(rl) => Batch::new(minibatch, source, new).of_samples(samples),
        _ => Batch::new(minibatch, source, new),
    };
    let learned = reinforcement(model, rl, portion(minibatch));
    let compared = model.decoding_in_training(learned, decode, false);

    let corrected = Batch::new(f64::from(sft.batch), source, target(sft.max_target_tokens));
    let tuned = model.fine_tuning(portion(corrected));
    let chosen = match sft.keep {
        KeepBy::ValRougeL => model.decoding_in_training(tuned, decode, true),
        KeepBy::Last | KeepBy::ValLoss => decode,
    };

    let config = model.config;
    let adapter = LoraConfig::new(config, answer.lora_rank, answer.lora_alpha, answer.lora_dropout);
    let adapted = model.with_adapter(matrices(&adapter, config) as f64, answer.lora_dropout > 0.0);
    let said = target(answer_tokens.unwrap_or(u32::MAX).min(answer.max_new_tokens));
    let answers = adapted.fine_tuning(portion(Batch::new(f64::from(answer.batch), source, said)));
    let answered = adapted.decoding_in_training(answers, decode, answer.keep == AnswerKeepBy::ValAccuracy);

    [
        ("rollout, round 1", first),
        ("rollout, later", scored),
        ("rl", learned.max(decode).max(compared)),
        ("sft", tuned.max(decode).max(chosen)),
        ("answer", answers.max(decode).max(answered)),
        ("pretrain", tuned),
    ]
}

/// The passes of stage rl, and those of its value model before them.
fn reinforcement(model: &Model<'_>, rl: &RlSettings, batch: Batch) -> Memory {
    let own_network = rl.value_model == ValueTrunk::Separate;
    let learns_values = rl.learns_values_along();
    let undone = rl.max_kl.is_some_and(|bound| bound > 0.0);
    let passes = model.reinforcement(batch, learns_values.then_some(own_network), undone);
    if rl.learns_values_first() {
        return passes.max(model.value_passes(batch, own_network));
    }
    passes
}
