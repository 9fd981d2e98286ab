//! Import: published problem sets and other models' rationales become tables of a dataset.
//!
//! Each format has its own file, which turns its source into rows; `publish` merges them into the dataset.
//! Nothing is written before the whole source has been read and checked, and importing the same source again
//! changes nothing.

mod aokvqa;
mod entry;
mod ids;
mod incoming;
mod json;
mod jsonl;
mod literal;
mod parquet;
mod picture;
mod publish;
mod rationales;
mod scienceqa;
mod solution;
mod split;

use crate::error::Result;
use schemas::DatasetCard;
use split::SPLITS;
use std::path::{Path, PathBuf};

/// What to import.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// ScienceQA as published (problems.json, pid_splits.json, captions and an images folder), or as Parquet.
    ///
    /// Problems that pid_splits.json does not name are skipped and counted. Without that file, or with a file
    /// instead of a folder, each problem's own `split` field decides. The Parquet files of the Hugging Face
    /// Hub (data/{train,validation,test}-*.parquet) have no ids: they are derived from the contents of a row.
    Scienceqa {
        /// Folder with problems.json and pid_splits.json, or with Parquet files; or one file of either form.
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
    /// A-OKVQA as published (whichever of aokvqa_v1p0_{train,val,test}.json exist), or as Parquet.
    ///
    /// The rationales of a question are joined with spaces; hidden test answers become null. The Parquet files are those of
    /// the Hugging Face Hub, data/{train,validation,test}-*.parquet.
    Aokvqa {
        /// Folder with the published files or with Parquet files, or one of them.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Dataset folder to write.
        #[arg(long, value_name = "datasets/NAME", default_value = "datasets/aokvqa")]
        data: PathBuf,
        /// COCO pictures: `<split>2017/<12 digits>.jpg` or `<12 digits>.jpg`, or the longer names of 2014.
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// JSONL: one problem per line, an object whose fields are the columns of the problems table.
    ///
    /// Required: problem_id, split, question, choices, and answer_index except in split test. `image` is a path relative to
    /// --images.
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
    /// Multiple-choice problems in Parquet files of any layout, with their pictures.
    ///
    /// Fields: problem_id, split, question, choices, answer_index, hint, caption, lecture, solution, image,
    /// subject, topic, category, skill, grade, source. Each is read from the column of its name, or from the
    /// one that --map names: `a.b` is field b of a struct a, `A+B+C` a list of three columns. The answer may
    /// be an index, a letter or the text of an option; the picture bytes, a path, or a struct of both.
    /// Without problem_id, ids are derived from the contents of a row.
    Parquet {
        /// Parquet files, or a folder with train-*.parquet, validation-*.parquet, test-*.parquet.
        #[arg(long, value_name = "FILES", num_args = 1.., required = true)]
        from: Vec<PathBuf>,
        /// Columns of the fields, for instance question=query,choices=options.
        #[arg(long, value_name = "FIELD=COLUMN", value_delimiter = ',', value_parser = field_and_column)]
        map: Vec<(String, String)>,
        /// Dataset folder to write.
        #[arg(long, value_name = "datasets/NAME")]
        data: PathBuf,
        /// Folder that paths of pictures start from [default: the folder of each file].
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        /// Split of all problems [default: by the names of the files, else by a column `split`].
        #[arg(long, value_parser = SPLITS)]
        split: Option<String>,
        /// Licence of the problems, for dataset.toml.
        #[arg(long, default_value = "unknown")]
        licence: String,
    },
    /// Rationales written by another model, as rollouts to be scored.
    ///
    /// Four layouts: a JSON object from problem id to text; MM-CoT's predictions_ans_*.json (with --split, whose order it
    /// follows); JSONL or Parquet with problem_id and rationale, where a repeated problem becomes its next sample. In Parquet
    /// a rationale may be a list of samples.
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
        /// Split whose order the predictions follow; for other layouts, import only this split.
        #[arg(long, value_parser = SPLITS)]
        split: Option<String>,
        /// Skip and count rationales of unknown problems, instead of refusing the file.
        #[arg(long)]
        skip_unknown: bool,
        /// Name of the model that wrote them, kept as `import:NAME` in the column `policy`.
        #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        written_by: Option<String>,
        /// Columns of problem_id, rationale and model in a Parquet file, for instance rationale=response.
        #[arg(long, value_name = "FIELD=COLUMN", value_delimiter = ',', value_parser = field_and_column)]
        map: Vec<(String, String)>,
    },
}

/// A pair of `--map`.
fn field_and_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if !field.trim().is_empty() && !column.trim().is_empty() => {
            Ok((field.trim().to_owned(), column.trim().to_owned()))
        }
        _ => Err(format!("expected FIELD=COLUMN, found `{text}`")),
    }
}

/// Runs an import and prints what it did.
///
/// # Errors
/// Bad input, named with its location; the dataset is then unchanged.
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
        Command::Parquet { from, map, data, images, split, licence } => {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let source = from.first().map(|path| name(path)).unwrap_or_default();
            let card = DatasetCard { source, licence, name: String::new(), created_by: String::new() };
            let layout = parquet::Layout::of_map(&map, card, name(&data))?;
            publish::publish(&data, parquet::read(&from, layout, images.as_deref(), split.as_deref())?)?
                .to_string()
        }
        Command::Rationales { from, data, round, split, skip_unknown, written_by, map } => {
            let choice = rationales::Choice { round, split, skip_unknown, written_by, map };
            rationales::import(&from, &data, &choice)?.to_string()
        }
    };
    schemas::say!("{summary}");
    Ok(())
}
