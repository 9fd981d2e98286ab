//! Import: published problem sets and other models' rationales become tables of a dataset.
//!
//! Each format has a file of its own that turns its source into rows; `publish` merges them into the
//! dataset. Nothing is written before the whole source has been read and checked, and importing the same
//! source again changes nothing.

mod aokvqa;
mod json;
mod jsonl;
mod picture;
mod publish;
mod rationales;
mod scienceqa;

use crate::error::Result;
use std::path::PathBuf;

/// The splits of a dataset, in the order of its problems.
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// What to import.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// ScienceQA as published: problems.json, pid_splits.json, captions and an images folder.
    ///
    /// Problems that pid_splits.json does not name are skipped and counted. With a file instead of a folder, each
    /// problem's own `split` field decides.
    Scienceqa {
        /// Folder with problems.json and pid_splits.json, or one file laid out like problems.json.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Dataset folder to write.
        #[arg(long, value_name = "datasets/NAME", default_value = "datasets/scienceqa")]
        data: PathBuf,
        /// captions.json [default: the one next to problems.json, if it exists].
        #[arg(long, value_name = "FILE")]
        captions: Option<PathBuf>,
        /// Folder with `<split>/<id>/image.png` [default: images next to problems.json].
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// A-OKVQA as published: whichever of aokvqa_v1p0_{train,val,test}.json exist.
    ///
    /// The rationales of a question are joined with spaces; hidden test answers become null.
    Aokvqa {
        /// Folder with the published files, or one of them.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Dataset folder to write.
        #[arg(long, value_name = "datasets/NAME", default_value = "datasets/aokvqa")]
        data: PathBuf,
        /// COCO 2017 pictures: `<split>2017/<12 digits>.jpg` or `<12 digits>.jpg`.
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// JSONL: one problem per line, an object whose fields are the columns of the problems table.
    ///
    /// Required: problem_id, split, question, choices. `image` is a path relative to --images.
    Jsonl {
        /// The file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Dataset folder to write [default: datasets/ and the file's name].
        #[arg(long, value_name = "datasets/NAME")]
        data: Option<PathBuf>,
        /// Folder that `image` paths start from [default: the file's folder].
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        /// Licence of the problems, for dataset.toml.
        #[arg(long, default_value = "unknown")]
        licence: String,
    },
    /// Rationales written by another model, as rollouts to be scored.
    ///
    /// Three layouts: a JSON object from problem id to text; MM-CoT's predictions_ans_*.json (with --split,
    /// whose order it follows); JSONL with problem_id and rationale, where a repeated problem becomes its
    /// next sample.
    Rationales {
        /// The file.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Dataset folder, which must have problems.
        #[arg(long, value_name = "datasets/NAME")]
        data: PathBuf,
        /// ARES round that the rollouts belong to.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        round: u32,
        /// Split that predictions are in the order of; other layouts: import only this split.
        #[arg(long, value_parser = SPLITS)]
        split: Option<String>,
        /// Skip and count rationales of problems that the dataset lacks, instead of refusing the file.
        #[arg(long)]
        skip_unknown: bool,
    },
}

/// Runs an import and prints what it did.
///
/// # Errors
/// Bad input, named with its place; then the dataset is as it was.
pub fn run(command: Command) -> Result<()> {
    let summary = match command {
        Command::Scienceqa { from, data, captions, images } => {
            publish::publish(&data, scienceqa::read(&from, captions.as_deref(), images.as_deref())?)?
                .to_string()
        }
        Command::Aokvqa { from, data, images } => {
            publish::publish(&data, aokvqa::read(&from, images.as_deref())?)?.to_string()
        }
        Command::Jsonl { from, data, images, licence } => {
            let stem = from.file_stem().map_or_else(|| "problems".into(), |stem| stem.to_string_lossy());
            let data = data.unwrap_or_else(|| PathBuf::from("datasets").join(stem.as_ref()));
            publish::publish(&data, jsonl::read(&from, images.as_deref(), &licence)?)?.to_string()
        }
        Command::Rationales { from, data, round, split, skip_unknown } => {
            rationales::import(&from, &data, round, split.as_deref(), skip_unknown)?.to_string()
        }
    };
    schemas::say!("{summary}");
    Ok(())
}
