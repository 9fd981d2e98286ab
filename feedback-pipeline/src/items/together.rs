//! Groups rollouts by problem, wherever their rows are: those of several imports are not adjacent.

use super::item::{Content, Item, Rows};
use super::problems::Problems;
use crate::error::{Error, Result};
use schemas::{Dataset, IdSet, Rollout, ids};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

/// Bytes of rollouts that are kept in memory; more go to a file that the operating system removes.
const IN_MEMORY: usize = 8 << 20;

/// Whether the rollouts of each problem follow each other in a round's tables.
///
/// # Errors
/// If a table cannot be read.
pub fn are_together(dataset: &Dataset, round: u32) -> Result<bool> {
    #[derive(Deserialize)]
    struct Row {
        problem_id: String,
    }
    let (mut seen, mut last) = (IdSet::default(), String::new());
    for row in dataset.stream_columns::<Rollout, Row>(round, &["problem_id"])? {
        let Row { problem_id } = row?;
        if problem_id != last && !seen.insert(&problem_id) {
            return Ok(false);
        }
        last = problem_id;
    }
    Ok(true)
}

/// Rollouts by problem, in the order of each problem's first.
///
/// # Errors
/// If an item cannot be read, or the disk is full.
pub fn together<'a>(
    items: impl Iterator<Item = Result<Item>>,
    round: u32,
    problems: &'a Problems,
) -> Result<Rows<'a, Item>> {
    let mut file = tempfile::spooled_tempfile(IN_MEMORY);
    let mut firsts: HashMap<u128, usize> = HashMap::new();
    let mut places = Vec::new();
    let mut offset = 0_u64;
    for item in items {
        let item = item?;
        let Content::Scores { sample, sentences } = item.content else { continue };
        let problem_id = item.problem.problem_id.clone();
        let row = Row { subject_id: item.subject_id, problem_id, sample, sentences };
        let json = serde_json::to_vec(&row).map_err(|e| Error::Failed(e.to_string()))?;
        file.write_all(&json).map_err(not_kept)?;
        let first = *firsts.entry(ids::digest(&row.problem_id)).or_insert(places.len());
        places.push((first, offset, json.len()));
        offset += json.len() as u64;
    }
    places.sort_by_key(|(first, offset, _)| (*first, *offset));
    let mut file = BufReader::new(file);
    Ok(Box::new(places.into_iter().map(move |(_, offset, length)| {
        let mut json = vec![0; length];
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut json)).map_err(not_kept)?;
        let row: Row = serde_json::from_slice(&json).map_err(|e| Error::Failed(e.to_string()))?;
        Ok(Item {
            problem: problems.get("rollouts", &row.subject_id, &row.problem_id)?,
            subject_id: row.subject_id,
            round,
            content: Content::Scores { sample: row.sample, sentences: row.sentences },
        })
    })))
}

#[derive(Serialize, Deserialize)]
struct Row {
    subject_id: String,
    problem_id: String,
    sample: u32,
    sentences: Vec<String>,
}

fn not_kept(source: std::io::Error) -> Error {
    Error::io("write temporary rows of", std::path::Path::new("rollouts"))(source)
}
