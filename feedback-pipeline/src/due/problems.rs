//! Problems by their id, in memory that does not grow with their texts.

use crate::error::{Error, Result};
use schemas::settings::Provider;
use schemas::{Dataset, Problem, ids};
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of problems that are kept in memory; more go to a file that the operating system removes.
const IN_MEMORY: usize = 2 << 20;

/// The problems of a dataset by their id; texts that no request needs are dropped.
pub struct Problems {
    path: PathBuf,
    at: HashMap<u128, (u64, u32)>,
    kept: Mutex<Kept>,
}

struct Kept {
    file: tempfile::SpooledTempFile,
    /// Items of one problem follow each other.
    last: Option<(u128, Arc<Problem>)>,
}

impl Problems {
    /// Reads `problems.parquet`. Only the embedded Teacher needs solutions and lectures.
    pub fn load(dataset: &Dataset, provider: Provider) -> Result<Self> {
        let slim = provider != Provider::Reference;
        let path = dataset.problems_path();
        let mut file = tempfile::spooled_tempfile(IN_MEMORY);
        let (mut at, mut offset) = (HashMap::new(), 0);
        for problem in dataset.problem_rows()? {
            let mut problem = problem?;
            if slim {
                problem.caption = String::new();
                problem.solution = String::new();
                problem.lecture = String::new();
            }
            let json = serde_json::to_vec(&problem).map_err(|e| not_kept(&path, e.into()))?;
            file.write_all(&json).map_err(|e| not_kept(&path, e))?;
            at.insert(ids::digest(&problem.problem_id), (offset, json.len() as u32));
            offset += json.len() as u64;
        }
        Ok(Self { path, at, kept: Mutex::new(Kept { file, last: None }) })
    }

    /// The problem of a row of a table; the row is named where there is none.
    pub(super) fn get(&self, table: &str, subject_id: &str, problem_id: &str) -> Result<Arc<Problem>> {
        let digest = ids::digest(problem_id);
        let (offset, length) = self.at.get(&digest).copied().ok_or_else(|| {
            Error::bad_input(
                format!("{table}, row `{subject_id}`"),
                format!("problem_id: expected a problem of problems.parquet, found `{problem_id}`"),
            )
        })?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, problem)) = &kept.last
            && *last == digest
        {
            return Ok(Arc::clone(problem));
        }
        let mut json = vec![0; length as usize];
        kept.file.seek(SeekFrom::Start(offset)).map_err(|e| not_kept(&self.path, e))?;
        kept.file.read_exact(&mut json).map_err(|e| not_kept(&self.path, e))?;
        let problem: Problem = serde_json::from_slice(&json).map_err(|e| not_kept(&self.path, e.into()))?;
        let problem = Arc::new(problem);
        kept.last = Some((digest, Arc::clone(&problem)));
        Ok(problem)
    }
}

fn not_kept(path: &std::path::Path, source: std::io::Error) -> Error {
    Error::io("keep, in the folder for temporary files, rows of", path)(source)
}
