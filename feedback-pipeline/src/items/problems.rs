//! Problems by id, in memory that does not grow with their texts.

use crate::error::{Error, Result};
use schemas::settings::Provider;
use schemas::{Dataset, Problem, ids};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of problems that are kept in memory; more go to a file that the operating system removes.
const IN_MEMORY: usize = 2 << 20;

/// The problems of a dataset by their id; texts that no request needs are dropped.
pub struct Problems {
    path: PathBuf,
    /// First half of an id's digest, and the offset of its problem; sorted.
    at: Vec<(u64, u64)>,
    kept: Mutex<Kept>,
}

struct Kept {
    file: tempfile::SpooledTempFile,
    /// Items of one problem follow each other.
    last: Option<Arc<Problem>>,
}

impl Kept {
    /// The problem at an offset: its length, then its JSON.
    fn read(&mut self, offset: u64) -> std::io::Result<Problem> {
        self.file.seek(SeekFrom::Start(offset))?;
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let mut json = vec![0; u32::from_le_bytes(length) as usize];
        self.file.read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

impl Problems {
    /// Reads `problems.parquet`. Only the embedded Teacher needs solutions and lectures.
    pub fn load(dataset: &Dataset, provider: Provider) -> Result<Self> {
        let slim = provider != Provider::Reference;
        let path = dataset.problems_path();
        let mut file = tempfile::spooled_tempfile(IN_MEMORY);
        let (mut at, mut offset) = (Vec::new(), 0);
        for problem in dataset.problem_rows()? {
            let mut problem = problem?;
            if slim {
                problem.caption = String::new();
                problem.solution = String::new();
                problem.lecture = String::new();
            }
            let json = serde_json::to_vec(&problem).map_err(|e| not_kept(&path, e.into()))?;
            let length = (json.len() as u32).to_le_bytes();
            file.write_all(&length).and_then(|()| file.write_all(&json)).map_err(|e| not_kept(&path, e))?;
            at.push((half(&problem.problem_id), offset));
            offset += (length.len() + json.len()) as u64;
        }
        at.sort_unstable();
        Ok(Self { path, at, kept: Mutex::new(Kept { file, last: None }) })
    }

    /// The problem of a row of a table; the row is named if there is none.
    pub(super) fn get(&self, table: &str, subject_id: &str, problem_id: &str) -> Result<Arc<Problem>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = kept.last.as_ref().filter(|last| last.problem_id == problem_id) {
            return Ok(Arc::clone(last));
        }
        let half = half(problem_id);
        let first = self.at.partition_point(|(other, _)| *other < half);
        for (_, offset) in self.at.iter().skip(first).take_while(|(other, _)| *other == half) {
            let problem = kept.read(*offset).map_err(|e| not_kept(&self.path, e))?;
            if problem.problem_id == problem_id {
                let problem = Arc::new(problem);
                kept.last = Some(Arc::clone(&problem));
                return Ok(problem);
            }
        }
        Err(Error::bad_input(
            format!("{table}, row `{subject_id}`"),
            format!("problem_id: expected a problem of problems.parquet, found `{problem_id}`"),
        ))
    }
}

fn half(id: &str) -> u64 {
    (ids::digest(id) >> 64) as u64
}

fn not_kept(path: &std::path::Path, source: std::io::Error) -> Error {
    Error::io("write temporary rows of", path)(source)
}
