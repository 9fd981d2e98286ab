//! The options of an export: flags, checked against the format.

use super::left_out::Split;
use crate::error::{Error, Result};
use clap::{Args, ValueEnum};
use schemas::Settings;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Default minimum difference of two samples' scores for a preference.
const MARGIN: f64 = 0.1;

/// Flags of `export`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Format to write.
    #[arg(long = "as", value_enum, value_name = "FORMAT")]
    format: Format,
    /// Folder to create.
    #[arg(long, value_name = "FOLDER")]
    pub(super) to: PathBuf,
    /// Feedback to export [default: scores for prm and kto, else corrections].
    #[arg(long, value_enum)]
    from: Option<Source>,
    /// Splits to export, separated by commas [default: train; all for hub].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SPLITS")]
    split: Vec<Split>,
    /// Score above which a sentence or rationale is good [default: rl.neutral_score].
    #[arg(long)]
    threshold: Option<f64>,
    /// Minimum difference between the best and the worst sample (preference) [default: 0.1], or between a
    /// score and the threshold (kto) [default: 0].
    #[arg(long)]
    margin: Option<f64>,
    /// How the scores of a rationale's sentences are combined [default: mean].
    #[arg(long, value_enum)]
    aggregate: Option<Aggregate>,
    /// Export no pictures; captions take their place in the prompts.
    #[arg(long)]
    no_images: bool,
    /// Text to append to each prompt, for instance the instruction that the student was sampled with.
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
    /// Also export samples with the same text as another sample of the problem.
    #[arg(long)]
    keep_duplicates: bool,
    /// Replace an earlier export in the folder.
    #[arg(long)]
    pub(super) replace: bool,
}

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// TRL's stepwise supervision, for process reward models: prompt, completions, labels; JSONL.
    Prm,
    /// TRL's preference pairs, for DPO and reward models: prompt, chosen, rejected, images; Parquet.
    Preference,
    /// TRL's unpaired preferences, for KTO: prompt, completion, label, images; Parquet.
    Kto,
    /// TRL's conversations, for supervised fine-tuning: prompt, completion, images; Parquet.
    Sft,
    /// LLaMA-Factory: conversations, preferences and KTO examples in JSONL, with dataset_info.json and pictures.
    Llamafactory,
    /// verl: prompts with pictures and the correct answer as the reward's ground truth; Parquet.
    Verl,
    /// The round's tables as a dataset for the Hugging Face Hub, with a card and embedded pictures.
    Hub,
}

/// The feedback that examples are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Sentence scores of the samples.
    Scores,
    /// Corrected rationales.
    Corrections,
    /// Comparisons of two rationales.
    Judgements,
}

/// How sentence scores are combined into the score of a rationale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// The lowest: a rationale is as good as its worst sentence.
    Min,
}

impl Aggregate {
    /// Score of a rationale with at least one sentence.
    pub(super) fn of(self, scores: &[f32]) -> f64 {
        let scores = scores.iter().map(|score| f64::from(*score));
        match self {
            Self::Mean => scores.clone().sum::<f64>() / (scores.len().max(1) as f64),
            Self::Min => scores.fold(f64::INFINITY, f64::min),
        }
    }
}

/// Name of a choice on the command line.
pub(super) fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The options of one export, complete and consistent.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) format: Format,
    pub(super) round: u32,
    /// `None` for formats that do not use one kind of feedback.
    pub(super) source: Option<Source>,
    pub(super) splits: Vec<Split>,
    pub(super) threshold: f64,
    pub(super) margin: Option<f64>,
    pub(super) aggregate: Aggregate,
    pub(super) pictures: bool,
    pub(super) instruction: String,
    pub(super) keep_duplicates: bool,
    /// Which scores of a sentence count, and how.
    pub(super) settings: Settings,
}

impl Plan {
    /// Checks the flags; those without an effect on the format or source are refused.
    pub(super) fn new(options: &Options, round: u32, settings: &Settings) -> Result<Self> {
        let format = options.format;
        let sources: &[Source] = match format {
            Format::Prm => &[Source::Scores],
            Format::Kto => &[Source::Scores, Source::Corrections, Source::Judgements],
            Format::Preference | Format::Sft | Format::Llamafactory => {
                &[Source::Corrections, Source::Scores, Source::Judgements]
            }
            Format::Verl | Format::Hub => &[],
        };
        let source = options.from.or_else(|| sources.first().copied());
        if let Some(from) = options.from
            && !sources.contains(&from)
        {
            let expected = match sources {
                [] => "no --from".to_owned(),
                sources => sources.iter().map(name).collect::<Vec<_>>().join(" or "),
            };
            return Err(refused("--from", &expected, format, &name(&from)));
        }
        let by_score = source == Some(Source::Scores);
        let has_use = [
            ("--threshold", options.threshold.is_some(), by_score && format != Format::Preference),
            ("--margin", options.margin.is_some(), by_score && !matches!(format, Format::Prm | Format::Sft)),
            ("--aggregate", options.aggregate.is_some(), by_score && format != Format::Prm),
            ("--keep-duplicates", options.keep_duplicates, by_score),
            ("--instruction", options.instruction.is_some(), format != Format::Hub),
        ];
        for (flag, is_given, has_use) in has_use {
            if is_given && !has_use {
                let from = source.map_or_else(String::new, |source| format!(" --from {}", name(&source)));
                let message =
                    format!("expected none with --as {}{from}, where it has no effect", name(&format));
                return Err(Error::bad_input(flag, message));
            }
        }
        for (flag, value) in [("--threshold", options.threshold), ("--margin", options.margin)] {
            if let Some(value) = value
                && !(0.0..=1.0).contains(&value)
            {
                return Err(Error::bad_input(flag, format!("expected a number from 0 to 1, found {value}")));
            }
        }
        let mut splits = match (options.split.as_slice(), format) {
            ([], Format::Hub) => Split::ALL.to_vec(),
            ([], _) => vec![Split::Train],
            (splits, _) => splits.to_vec(),
        };
        splits.sort_unstable();
        splits.dedup();
        Ok(Self {
            format,
            round,
            source,
            splits,
            threshold: options.threshold.unwrap_or(settings.rl.neutral_score),
            margin: options.margin,
            aggregate: options.aggregate.unwrap_or(Aggregate::Mean),
            pictures: !options.no_images,
            instruction: options.instruction.clone().unwrap_or_default().trim().to_owned(),
            keep_duplicates: options.keep_duplicates,
            settings: settings.clone(),
        })
    }

    /// Minimum difference between the samples of a pair.
    pub(super) fn pair_margin(&self) -> f64 {
        self.margin.unwrap_or(MARGIN)
    }

    /// Minimum distance of a score from the threshold.
    pub(super) fn label_margin(&self) -> f64 {
        self.margin.unwrap_or(0.0)
    }

    /// The settings that have an effect, for the manifest.
    pub(super) fn to_json(&self) -> Value {
        let mut settings = json!({
            "round": self.round,
            "splits": self.splits.iter().map(|split| split.as_str()).collect::<Vec<_>>(),
            "images": self.pictures,
        });
        let mut set = |key: &str, value: Value| {
            settings[key] = value;
        };
        if let Some(source) = self.source {
            set("from", json!(name(&source)));
        }
        if self.format != Format::Hub {
            set("instruction", json!(self.instruction));
        }
        if self.source == Some(Source::Scores) {
            set("keep_duplicates", json!(self.keep_duplicates));
            if self.format != Format::Preference {
                set("threshold", json!(self.threshold));
            }
            if self.format != Format::Prm {
                set("aggregate", json!(name(&self.aggregate)));
            }
            if matches!(self.format, Format::Preference | Format::Llamafactory) {
                set("margin_of_pairs", json!(self.pair_margin()));
            }
            if matches!(self.format, Format::Kto | Format::Llamafactory) {
                set("margin_of_labels", json!(self.label_margin()));
            }
        }
        settings
    }
}

fn refused(flag: &str, expected: &str, format: Format, found: &str) -> Error {
    Error::bad_input(flag, format!("expected {expected} with --as {}, found {found}", name(&format)))
}
