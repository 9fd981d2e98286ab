//! The command line: clap types only.

use crate::stage::Stage;
use clap::{Parser, Subcommand};
use schemas::settings::SettingFlags;
use std::path::PathBuf;

/// Trains the student: samples rationales, learns from feedback and answers problems.
#[derive(Debug, Parser)]
#[command(name = "train", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Command; without one, --round is advanced as far as the feedback allows.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Round to advance, from 1.
    #[arg(long, required_unless_present = "show_settings", value_parser = clap::value_parser!(u32).range(1..))]
    pub round: Option<u32>,

    /// Do only this stage.
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,

    /// Print all settings with their origin, and exit.
    #[arg(long, global = true)]
    pub show_settings: bool,

    /// Dataset folder [default: the only one under datasets/].
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,

    /// Settings file [default: ares.toml, if it exists].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Settings as flags.
    #[command(flatten)]
    pub settings: SettingFlags<{ SettingFlags::<0>::TRAINER }>,
}

/// Commands other than advancing a round.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a student: random for a tokenizer, or from a Hugging Face T5 folder.
    Init {
        /// Hugging Face T5 folder; fusion layers for pictures are added if it has none.
        #[arg(long, value_name = "FOLDER", required_unless_present = "tokenizer")]
        from: Option<PathBuf>,
        /// Folder with tokenizer.json.
        #[arg(long, value_name = "FOLDER")]
        tokenizer: Option<PathBuf>,
        /// Shape of a random student: tiny, small, base or large.
        #[arg(long, default_value = "tiny", conflicts_with = "from")]
        shape: String,
        /// Width of a patch's image features [default: that of the dataset's features (see --data), else 1024, that of
        /// vit-large].
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..65536))]
        image_feature_width: Option<i64>,
        /// Dropout of the student, stored in its config.json [default: 0.1, or that of the folder]. Tiny students need
        /// none.
        #[arg(long, value_name = "SHARE")]
        dropout: Option<f64>,
        /// Folder of the new checkpoint.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Train a student on gold solutions, to make a base student.
    Pretrain {
        /// Student to start from.
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// Folder of the new checkpoint.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Fraction of the train problems with a solution to use.
        #[arg(long, default_value_t = 1.0)]
        share: f64,
        /// Passes over them.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        epochs: u32,
        /// Number of option orders in which each problem is shown: the given one, and random ones.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        option_orders: u32,
    },
    /// Compute image features for all pictures of a dataset, or import existing ones.
    Features {
        /// Hugging Face ViT folder [default: a small random network, for trials].
        #[arg(long, value_name = "FOLDER")]
        vit: Option<PathBuf>,
        /// Features in NumPy's format, as MM-CoT publishes them: pictures × patches × width.
        #[arg(long, value_name = "FILE", conflicts_with = "vit", requires = "name_map")]
        from_npy: Option<PathBuf>,
        /// JSON file that maps problem ids to rows of --from-npy.
        #[arg(long, value_name = "FILE", requires = "from_npy")]
        name_map: Option<PathBuf>,
        /// Replace features computed by another network.
        #[arg(long)]
        replace: bool,
    },
    /// Measure speed and memory on random weights, in the number formats of the settings.
    Bench(crate::bench::Options),
    /// Decode and answer with one checkpoint.
    Eval {
        /// Round of the checkpoint; 0 with --checkpoint base.
        #[arg(long, default_value_t = 0)]
        round: u32,
        /// base, rl or sft.
        #[arg(long, value_parser = ["base", "rl", "sft"], default_value = "base")]
        checkpoint: String,
    },
    /// Describe a student, and the memory each stage needs with the current settings.
    Info(crate::info::Options),
    /// Merge a student's LoRA adapter into a whole checkpoint.
    Merge {
        /// Folder of the adapter: base, round-N/rl or round-N/sft of the checkpoints.
        folder: PathBuf,
        /// Folder of the new checkpoint.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Print a shell completion script.
    Completions {
        /// Shell that the script is for.
        shell: schemas::completions::Shell,
    },
}
