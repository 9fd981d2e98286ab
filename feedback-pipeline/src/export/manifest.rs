//! `manifest.json`: what an export was made from and how, so that each line can be traced to its rows.

use super::folder::MANIFEST;
use super::left_out::LeftOut;
use super::lines::Written;
use super::options::{Format, Plan, Source, name};
use super::pictures::Copies;
use crate::PROGRAM;
use crate::error::{Error, Result};
use schemas::provenance::{SCHEMA_VERSION, hex};
use schemas::{
    Answer, Correction, Dataset, Judgement, Provenance, Rationale, Reject, Rollout, Score, Table, table,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file that was read.
#[derive(Debug, Clone, PartialEq)]
struct Input {
    table: &'static str,
    path: PathBuf,
    rows: u64,
    sha256: String,
}

/// A snapshot of the files that an export reads.
#[derive(Debug, PartialEq)]
pub(super) struct Inputs(Vec<Input>);

impl Inputs {
    /// Lists and hashes the files of a plan's tables.
    pub(super) fn of(dataset: &Dataset, plan: &Plan) -> Result<Self> {
        let mut inputs = vec![Input {
            table: schemas::Problem::NAME,
            rows: table::count_rows::<schemas::Problem>(&dataset.problems_path())?,
            sha256: sha256(&dataset.problems_path())?,
            path: dataset.problems_path(),
        }];
        let round = plan.round;
        match (plan.format, plan.source) {
            (Format::Hub, _) => {
                add::<Rollout>(dataset, round, &mut inputs)?;
                add::<Score>(dataset, round, &mut inputs)?;
                add::<Rationale>(dataset, round, &mut inputs)?;
                add::<Correction>(dataset, round, &mut inputs)?;
                add::<Judgement>(dataset, round, &mut inputs)?;
                add::<Answer>(dataset, round, &mut inputs)?;
            }
            (_, Some(Source::Scores)) => {
                add::<Rollout>(dataset, round, &mut inputs)?;
                add::<Score>(dataset, round, &mut inputs)?;
                add::<Reject>(dataset, round, &mut inputs)?;
            }
            (_, Some(Source::Corrections)) => {
                add::<Rationale>(dataset, round, &mut inputs)?;
                add::<Correction>(dataset, round, &mut inputs)?;
                add::<Reject>(dataset, round, &mut inputs)?;
            }
            (_, Some(Source::Judgements)) => {
                add::<Judgement>(dataset, round, &mut inputs)?;
                add::<Reject>(dataset, round, &mut inputs)?;
            }
            (_, None) => {}
        }
        Ok(Self(inputs))
    }

    fn to_json(&self, root: &Path) -> Value {
        let one = |input: &Input| {
            let path = input.path.strip_prefix(root).unwrap_or(&input.path);
            json!({
                "table": input.table,
                "file": path.to_string_lossy(),
                "rows": input.rows,
                "sha256": input.sha256,
            })
        };
        self.0.iter().map(one).collect()
    }
}

fn add<T: Table>(dataset: &Dataset, round: u32, inputs: &mut Vec<Input>) -> Result<()> {
    for path in dataset.parts::<T>(round)? {
        let (rows, sha256) = (table::count_rows::<T>(&path)?, sha256(&path)?);
        inputs.push(Input { table: T::NAME, path, rows, sha256 });
    }
    Ok(())
}

/// The program that wrote the export, as in the metadata of the tables.
pub(super) fn created_by() -> String {
    Provenance::new(PROGRAM, "").created_by
}

/// Writes the manifest into the folder of a complete export.
pub(super) fn write(
    folder: &Path,
    dataset: &Dataset,
    plan: &Plan,
    inputs: &Inputs,
    files: &[Written],
    copies: &Copies,
    left: &LeftOut,
) -> Result<()> {
    let mut written = Vec::new();
    for file in files {
        let path = folder.join(&file.name);
        let bytes = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        written.push(json!({
            "file": file.name,
            "split": file.split.as_str(),
            "lines": file.lines,
            "bytes": bytes,
            "sha256": sha256(&path)?,
        }));
    }
    let left_out = left
        .rows()
        .map(|(rows, reason, count)| json!({ "rows": rows, "reason": reason.label(), "count": count }));
    let rows_of_a_line = match plan.format {
        Format::Hub => "lines are rows of the tables; their id columns are unchanged",
        Format::Verl => "extra_info.problem_id names the row of problems",
        _ => {
            "column ares: problem_id, and the ids in `rows` of the table `table` (rollouts: rollout_id, there and in scores; corrections: rationale_id; judgements: against)"
        }
    };
    let manifest = json!({
        "ares_export": 1,
        "format": name(&plan.format),
        "created_by": created_by(),
        "schema_version": format!("{}.{}", SCHEMA_VERSION.0, SCHEMA_VERSION.1),
        "dataset": dataset.name(),
        "settings": plan.to_json(),
        "files": written,
        "images": { "files": copies.files, "bytes": copies.bytes },
        "rows_of_a_line": rows_of_a_line,
        "left_out": left_out.collect::<Vec<_>>(),
        "sources": inputs.to_json(dataset.root()),
    });
    let path = folder.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::io("write", &path)(e.into()))?;
    std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))
}

/// sha256 of a file, in hexadecimal digits.
fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut block).map_err(Error::io("read", path))?;
        match block.get(..read) {
            Some(bytes) if read > 0 => digest.update(bytes),
            _ => return Ok(hex(&digest.finalize())),
        }
    }
}
