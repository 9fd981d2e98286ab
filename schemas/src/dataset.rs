//! The dataset folder: the only place where the paths of tables are named.

use crate::column::Table;
use crate::error::{Error, Result};
use crate::file;
use crate::ids::IdSet;
use crate::problem::Problem;
use crate::provenance::Provenance;
use crate::rounds;
use crate::table::{self, Batches};
use arrow::array::RecordBatch;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A dataset folder, see the crate's documentation for its layout.
#[derive(Debug, Clone)]
pub struct Dataset {
    root: PathBuf,
}

/// A path as it is typed into a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    shlex::try_quote(&text).map_or_else(|_| text.clone(), |quoted| quoted.into_owned())
}

/// Open parts of a table's round, and those that are opened later.
type Parts<T, P> = (Vec<Result<Batches<T, P>>>, Vec<PathBuf>);

/// Whether a file was not there.
fn is_missing<V>(opened: &Result<V>) -> bool {
    matches!(opened, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
}

/// Parts of a table's round that are open at a time.
const OPEN_PARTS: usize = 128;

/// Rows of batches, one by one.
fn flatten<P: Send + 'static>(
    batches: impl Iterator<Item = Result<Vec<P>>> + Send,
) -> impl Iterator<Item = Result<P>> + Send {
    batches.flat_map(|batch| {
        let (rows, failed) = match batch {
            Ok(rows) => (rows, None),
            Err(error) => (Vec::new(), Some(Err(error))),
        };
        failed.into_iter().chain(rows.into_iter().map(Ok))
    })
}

/// `dataset.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetCard {
    /// Name of the dataset.
    pub name: String,
    /// Where the problems come from.
    pub source: String,
    /// Licence of the problems.
    pub licence: String,
    /// Program that wrote the dataset.
    pub created_by: String,
}

impl Dataset {
    /// Names of the folders of a dataset.
    pub const FOLDERS: [&'static str; 11] = [
        "rollouts",
        "scores",
        "rationales",
        "corrections",
        "judgements",
        "answers",
        "metrics",
        "requests",
        "rejects",
        "images",
        "vision",
    ];

    /// A dataset folder that has problems.
    ///
    /// # Errors
    /// If the folder or its `problems.parquet` is missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let dataset = Self::at(root);
        if !dataset.problems_path().is_file() {
            return Err(Error::NotADataset { path: dataset.root, missing: "problems.parquet".into() });
        }
        Ok(dataset)
    }

    /// A dataset folder that may not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The dataset that a command works on: `given`, else the only one under `datasets/`.
    ///
    /// # Errors
    /// If it is no dataset, or nothing was given and there is not exactly one.
    pub fn choose(given: Option<PathBuf>) -> Result<Self> {
        if let Some(root) = given {
            return Self::open(root);
        }
        let mut found: Vec<PathBuf> = fs::read_dir("datasets")
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        found.retain(|path| path.join("problems.parquet").is_file());
        found.sort();
        match found.as_slice() {
            [only] => Self::open(only),
            [] => Err(Error::NotADataset {
                path: "datasets".into(),
                missing: "a dataset, or --data FOLDER,".into(),
            }),
            several => {
                let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
                let message =
                    format!("expected one dataset under datasets/, found {}; say which", names.join(", "));
                Err(Error::Settings { origin: "--data".into(), message })
            }
        }
    }

    /// ` --data FOLDER`, for a command suggested to the user; empty if the command finds the dataset by itself.
    pub fn flag(&self) -> String {
        match Self::choose(None) {
            Ok(only) if only.root == self.root => String::new(),
            _ => format!(" --data {}", quoted(&self.root)),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder's own name, which also names its checkpoints.
    pub fn name(&self) -> String {
        let path = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        path.file_name().map_or_else(|| "dataset".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// `problems.parquet`.
    pub fn problems_path(&self) -> PathBuf {
        self.root.join("problems.parquet")
    }

    /// `feedback.sqlite`, every paid reply.
    pub fn feedback_path(&self) -> PathBuf {
        self.root.join("feedback.sqlite")
    }

    /// `images`, one picture a problem.
    pub fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    /// `vision/<encoder>.safetensors`, image features.
    pub fn vision_path(&self, encoder: &str) -> PathBuf {
        self.root.join("vision").join(format!("{encoder}.safetensors"))
    }

    /// `dataset.toml`.
    pub fn card_path(&self) -> PathBuf {
        self.root.join("dataset.toml")
    }

    /// Reads `dataset.toml`.
    ///
    /// # Errors
    /// If it is missing or no valid card.
    pub fn card(&self) -> Result<DatasetCard> {
        let path = self.card_path();
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        toml::from_str(&text)
            .map_err(|e| Error::Settings { origin: path.display().to_string(), message: e.to_string() })
    }

    /// Writes `dataset.toml`.
    ///
    /// # Errors
    /// If the write fails.
    pub fn write_card(&self, card: &DatasetCard) -> Result<()> {
        let path = self.card_path();
        let text = toml::to_string(card)
            .map_err(|e| Error::Settings { origin: path.display().to_string(), message: e.to_string() })?;
        file::write_bytes(&path, text.as_bytes())
    }

    /// All problems, in the file's order.
    ///
    /// # Errors
    /// As [`Dataset::problem_rows`].
    pub fn problems(&self) -> Result<Vec<Problem>> {
        self.problem_rows()?.collect()
    }

    /// The problems one by one, in the file's order.
    ///
    /// # Errors
    /// As [`table::read`]; also where a problem_id appears twice or an answer index has no option.
    pub fn problem_rows(&self) -> Result<impl Iterator<Item = Result<Problem>> + use<>> {
        let path = self.problems_path();
        let mut seen = IdSet::default();
        let mut row = 0;
        let mut check = move |problem: Problem| {
            if !seen.insert(&problem.problem_id) {
                let value = problem.problem_id;
                return Err(Error::Duplicate { path: path.clone(), column: "problem_id", value });
            }
            if let Some(index) = problem.answer_index
                && usize::from(index) >= problem.choices.len()
            {
                return Err(Error::Value {
                    path: path.clone(),
                    column: "answer_index".into(),
                    row,
                    expected: format!("an index below {}, the number of choices", problem.choices.len()),
                    found: index.to_string(),
                });
            }
            row += 1;
            Ok(problem)
        };
        let batches = Batches::<Problem, Problem>::open(&self.problems_path())?;
        Ok(batches.flat_map(move |batch| match batch {
            Ok(rows) => rows.into_iter().map(&mut check).collect(),
            Err(error) => vec![Err(error)],
        }))
    }

    /// Folder of a table's round, for instance `scores/round-1`.
    pub fn round_dir<T: Table>(&self, round: u32) -> PathBuf {
        rounds::folder(&self.root.join(T::NAME), round)
    }

    /// The files of a table's round, sorted by name; empty if the round has none.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn parts<T: Table>(&self, round: u32) -> Result<Vec<PathBuf>> {
        let is_part = |name: &str| !name.starts_with('.') && name.ends_with(".parquet");
        rounds::files(&self.root.join(T::NAME), round, is_part)
    }

    /// The rounds for which a table has files, ascending.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn rounds<T: Table>(&self) -> Result<Vec<u32>> {
        let folder = self.root.join(T::NAME);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &folder)(error)),
        };
        let mut found = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &folder))?.file_name();
            if let Some(round) = rounds::parse(&name.to_string_lossy()) {
                found.insert(round);
            }
        }
        let mut rounds = Vec::new();
        for round in found {
            if !self.parts::<T>(round)?.is_empty() {
                rounds.push(round);
            }
        }
        Ok(rounds)
    }

    /// All rows of a table's round, part by part.
    ///
    /// # Errors
    /// As [`table::read`], and where a row is of another round than its folder.
    pub fn read<T: Table>(&self, round: u32) -> Result<Vec<T>> {
        self.stream::<T>(round)?.collect()
    }

    /// As [`Dataset::read`], one batch of rows in memory at a time.
    ///
    /// # Errors
    /// If the folder cannot be read; each row may be an error of [`Dataset::read`].
    pub fn stream<T: Table>(&self, round: u32) -> Result<impl Iterator<Item = Result<T>> + Send + use<T>> {
        let names = T::columns().iter().map(|column| column.name).collect();
        Ok(flatten(self.batches::<T, T>(round, names)?))
    }

    /// Some columns of a table's round, into a row type with fields of those names.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn project<T: Table, P: DeserializeOwned + Send>(
        &self,
        round: u32,
        names: &[&'static str],
    ) -> Result<Vec<P>> {
        let mut rows = Vec::new();
        for batch in self.batches::<T, P>(round, names.to_vec())? {
            rows.extend(batch?);
        }
        Ok(rows)
    }

    /// As [`Dataset::project`], one batch of rows in memory at a time.
    ///
    /// # Errors
    /// As [`Dataset::stream`].
    pub fn stream_columns<T: Table, P: DeserializeOwned + Send + 'static>(
        &self,
        round: u32,
        names: &[&'static str],
    ) -> Result<impl Iterator<Item = Result<P>> + Send + use<T, P>> {
        Ok(flatten(self.batches::<T, P>(round, names.to_vec())?))
    }

    /// Some columns of a table's round as Arrow batches, for queries over whole columns. The cells are checked as those
    /// of [`Dataset::read`] are; a column that an older file lacks is null.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn columns<T: Table>(&self, round: u32, names: &[&'static str]) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for part in self.open_round::<T, IgnoredAny>(round, names.to_vec())? {
            for batch in part?.columns() {
                batches.push(batch?);
            }
        }
        Ok(batches)
    }

    /// Batches of rows of a table's round.
    fn batches<T: Table, P: DeserializeOwned + Send>(
        &self,
        round: u32,
        names: Vec<&'static str>,
    ) -> Result<impl Iterator<Item = Result<Vec<P>>> + Send + use<T, P>> {
        Ok(self.open_round::<T, P>(round, names)?.flat_map(|opened| {
            let (batches, failed) = match opened {
                Ok(batches) => (Some(batches), None),
                Err(error) => (None, Some(Err(error))),
            };
            failed.into_iter().chain(batches.into_iter().flatten())
        }))
    }

    /// Readers of the parts of a table's round. Rows of another round are refused: a part that was copied there.
    fn open_round<T: Table, P: DeserializeOwned + Send>(
        &self,
        round: u32,
        mut names: Vec<&'static str>,
    ) -> Result<impl Iterator<Item = Result<Batches<T, P>>> + Send + use<T, P>> {
        names.push("round");
        let (opened, rest) = self.open_parts::<T, P>(round, &names)?;
        let later = rest.into_iter().map(move |part| {
            let opened = Batches::<T, P>::project(&part, &names);
            match rounds::moved(&part) {
                Some(moved) if is_missing(&opened) => Batches::project(&moved, &names),
                _ => opened,
            }
        });
        Ok(opened.into_iter().chain(later).map(move |opened| Ok(opened?.of_round(round))))
    }

    /// The parts of a table's round, open: whoever reads continues with them where others take their place. Those
    /// beyond the first [`OPEN_PARTS`] are opened later, and missed where they were replaced.
    fn open_parts<T: Table, P: DeserializeOwned>(
        &self,
        round: u32,
        names: &[&'static str],
    ) -> Result<Parts<T, P>> {
        let mut parts = self.parts::<T>(round)?;
        loop {
            let rest = parts.split_off(parts.len().min(OPEN_PARTS));
            let opened: Vec<_> = parts.iter().map(|part| Batches::<T, P>::project(part, names)).collect();
            if !opened.iter().any(is_missing) {
                return Ok((opened, rest));
            }
            let now = self.parts::<T>(round)?;
            if now.starts_with(&parts) {
                return Ok((opened, rest)); // a link that leads nowhere
            }
            parts = now;
        }
    }

    /// Removes a part of a table's round, if it exists.
    ///
    /// # Errors
    /// If the write fails.
    pub fn remove_part<T: Table>(&self, round: u32, name: &str) -> Result<()> {
        let path = self.part_path::<T>(round, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Number of rows of a table's round.
    ///
    /// # Errors
    /// As [`table::read`].
    pub fn count<T: Table>(&self, round: u32) -> Result<u64> {
        let mut parts = self.parts::<T>(round)?;
        loop {
            let counted: Result<u64> = parts.iter().map(|part| table::count_rows::<T>(part)).sum();
            if !is_missing(&counted) {
                return counted;
            }
            // Others took their place meanwhile.
            let now = self.parts::<T>(round)?;
            if now == parts {
                return counted;
            }
            parts = now;
        }
    }

    /// Writes one named part of a table's round, for instance `part-sft.parquet`, in place of any older one.
    ///
    /// # Errors
    /// If a cell breaks its column's declaration, or the write fails.
    pub fn write_part<T: Table>(
        &self,
        round: u32,
        name: &str,
        rows: impl IntoIterator<Item = T>,
        provenance: &Provenance,
    ) -> Result<usize> {
        table::write(&self.part_path::<T>(round, name), rows, provenance)
    }

    /// Path of one named part of a table's round.
    pub fn part_path<T: Table>(&self, round: u32, name: &str) -> PathBuf {
        rounds::child(&self.root.join(T::NAME), round, &format!("part-{name}.parquet"))
    }
}
