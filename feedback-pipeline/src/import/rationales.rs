//! Rationales of another model, in four layouts, as rollouts without token columns.

use super::entry::Entry;
use super::json::{self, Node, Record};
use super::parquet::rationales::{digest_of, read_parquet};
use crate::PROGRAM;
use crate::error::{Error, Result};
use schemas::dataset::quoted;
use schemas::number::grouped;
use schemas::table::Batches;
use schemas::{Dataset, Problem, Provenance, Rollout, Sentence, provenance, sentences};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which rationales become which rollouts.
pub(super) struct Choice {
    /// ARES round of the rollouts.
    pub(super) round: u32,
    /// The only split that is imported.
    pub(super) split: Option<String>,
    /// Whether rationales of unknown problems are skipped.
    pub(super) skip_unknown: bool,
    /// The model that wrote them.
    pub(super) written_by: Option<String>,
    /// Columns of a Parquet file.
    pub(super) map: Vec<(String, String)>,
}

/// What an import did.
pub(super) struct Summary {
    dataset: PathBuf,
    round: u32,
    rationales: usize,
    sentences: usize,
    empty: usize,
    unknown: usize,
    other_splits: usize,
    changed: bool,
}

/// Reads a file of rationales and writes them as rollouts of a round.
///
/// # Errors
/// If the file is wrong, with the place, or the dataset cannot be read or written.
pub(super) fn import(from: &Path, data: &Path, choice: &Choice) -> Result<Summary> {
    let (round, split, skip_unknown) = (choice.round, choice.split.as_deref(), choice.skip_unknown);
    let dataset = Dataset::open(data)?;
    let problems = dataset.problems()?;
    let (mut entries, digest) = if super::parquet::is_parquet(from) && !from.is_dir() {
        (read_parquet(from, &choice.map)?, digest_of(from)?)
    } else if !choice.map.is_empty() {
        return Err(Error::bad_input(
            "--map",
            format!("expected a Parquet file with it, found {}", from.display()),
        ));
    } else {
        let text = json::read_text(from)?;
        (read(&text, from, &problems, split)?, provenance::sha256_hex(text.as_bytes()))
    };
    let digest = &digest[..16];

    let known: HashMap<&str, &str> =
        problems.iter().map(|p| (p.problem_id.as_str(), p.split.as_str())).collect();
    let unknown: Vec<&str> =
        entries.iter().map(|e| e.problem_id.as_str()).filter(|id| !known.contains_key(id)).collect();
    if !unknown.is_empty() && !skip_unknown {
        let first = unknown.iter().take(3).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
        let more = if unknown.len() > 3 { ", …" } else { "" };
        let message = format!(
            "{} of {} problem ids are not in {}: {first}{more}; --skip-unknown skips them",
            grouped(unknown.len()),
            grouped(entries.len()),
            data.display()
        );
        return Err(Error::bad_input(from.display().to_string(), message));
    }
    let unknown = unknown.len();
    entries.retain(|entry| known.contains_key(entry.problem_id.as_str()));
    let before = entries.len();
    entries.retain(|entry| split.is_none() || known.get(entry.problem_id.as_str()).copied() == split);
    if entries.is_empty() {
        return Err(Error::bad_input(
            from.display().to_string(),
            "expected rationales of the dataset's problems, found none",
        ));
    }

    let _lock = dataset.lock(PROGRAM)?;
    let name = match split {
        Some(split) => format!("import-{digest}-{split}"),
        None => format!("import-{digest}"),
    };
    let import = Import { digest, name: &name, written_by: choice.written_by.as_deref() };
    let changed = write(&dataset, round, &import, &entries, from)?;
    Ok(Summary {
        dataset: data.to_path_buf(),
        round,
        rationales: entries.len(),
        sentences: entries.iter().map(|entry| sentences::split(&entry.rationale).len()).sum(),
        empty: entries.iter().filter(|entry| sentences::split(&entry.rationale).is_empty()).count(),
        unknown,
        other_splits: before - entries.len(),
        changed,
    })
}

/// What identifies an import.
struct Import<'a> {
    /// Hash of the file.
    digest: &'a str,
    /// Name of its part.
    name: &'a str,
    written_by: Option<&'a str>,
}

impl Import<'_> {
    /// The policy of a rationale: `import:` and the model that wrote it, else the file.
    fn policy(&self, entry: &Entry) -> String {
        format!("import:{}", self.written_by.or(entry.model.as_deref()).unwrap_or(self.digest))
    }
}

/// Who wrote a text about a problem: several models may have written the same.
type Policies = HashMap<(String, String), Vec<String>>;

/// The policies of rationales that earlier imports of the same file wrote, by problem and text.
fn written(dataset: &Dataset, round: u32, digest: &str) -> Result<Policies> {
    #[derive(serde::Deserialize)]
    struct Written {
        problem_id: String,
        policy: String,
        rationale: String,
    }
    let mut written = Policies::new();
    let prefix = format!("part-import-{digest}");
    let is_of_file =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    for path in dataset.parts::<Rollout>(round)?.into_iter().filter(is_of_file) {
        let names = ["problem_id", "policy", "rationale"];
        for rows in Batches::<Rollout, Written>::project(&path, &names)? {
            for row in rows? {
                written.entry((row.problem_id, row.rationale)).or_default().push(row.policy);
            }
        }
    }
    Ok(written)
}

/// Writes the entries as a part of their own; false if that part is there with the same rationales.
fn write(dataset: &Dataset, round: u32, import: &Import<'_>, entries: &[Entry], from: &Path) -> Result<bool> {
    let source = format!("import-{}", &import.digest[..8]);
    let name = import.name;
    // Further rationales of a problem that has some are its next samples.
    let mut next_sample: HashMap<String, u32> = HashMap::new();
    #[derive(serde::Deserialize)]
    struct Taken {
        problem_id: String,
        sample: u32,
    }
    for taken in dataset.project::<Rollout, Taken>(round, &["problem_id", "sample"])? {
        let next = next_sample.entry(taken.problem_id).or_default();
        *next = (*next).max(taken.sample + 1);
    }
    // The same file again, perhaps with another --split.
    let there = written(dataset, round, import.digest)?;
    let policies_of = |entry: &Entry| there.get(&(entry.problem_id.clone(), entry.rationale.clone()));
    for entry in entries {
        let policy = import.policy(entry);
        if let Some(old) = policies_of(entry).filter(|old| old.iter().all(|old| *old != policy)) {
            let old = old.join("`, `");
            let message =
                format!("was imported into round {round} before as rationales of `{old}`, not of `{policy}`");
            return Err(Error::bad_input(from.display().to_string(), message));
        }
    }
    let entries: Vec<&Entry> = entries.iter().filter(|entry| policies_of(entry).is_none()).collect();
    if entries.is_empty() {
        return Ok(false);
    }
    if dataset.part_path::<Rollout>(round, name).is_file() {
        let message =
            format!("was imported into round {round} before, with other problems; use another round");
        return Err(Error::bad_input(from.display().to_string(), message));
    }
    let rows = entries.iter().map(|entry| {
        let next = next_sample.entry(entry.problem_id.clone()).or_default();
        let sample = *next;
        *next += 1;
        let spans = sentences::split(&entry.rationale);
        Rollout {
            // Rollouts that are sampled for the same round have ids of their own.
            rollout_id: format!("{source}-{}", Rollout::id(&entry.problem_id, round, sample)),
            problem_id: entry.problem_id.clone(),
            round,
            sample,
            rationale: entry.rationale.clone(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            ref_logprobs: Vec::new(),
            values: Vec::new(),
            sentences: spans
                .into_iter()
                .map(|span| Sentence { text: entry.rationale[span].to_owned(), token_end: 0 })
                .collect(),
            truncated: false,
            policy: import.policy(entry),
            seed: 0,
        }
    });
    dataset.write_part(round, name, rows, &Provenance::new(PROGRAM, ""))?;
    Ok(true)
}

fn read(text: &str, from: &Path, problems: &[Problem], split: Option<&str>) -> Result<Vec<Entry>> {
    if is_jsonl(text, from) {
        return read_jsonl(text, from);
    }
    let place = from.display().to_string();
    match json::parse(text, &place)? {
        Node::Object(entries)
            if entries.iter().any(|(key, node)| key == "preds" && matches!(node, Node::List(_))) =>
        {
            read_predictions(&Record::new(place, &Node::Object(entries))?, problems, split)
        }
        Node::Object(entries) => {
            let entries = entries.into_iter().map(|(problem_id, node)| match node {
                Node::Text(rationale) => Ok(Entry { problem_id, rationale, model: None }),
                other => Err(json::mismatch(&format!("{place}, problem `{problem_id}`"), "a text", &other)),
            });
            entries.collect()
        }
        other => {
            Err(json::mismatch(&place, "an object from problem id to rationale, or with `preds`", &other))
        }
    }
}

/// By the file's name, or by a first line that is a whole record with lines after it.
fn is_jsonl(text: &str, from: &Path) -> bool {
    if from.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson") {
        return true;
    }
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    matches!(json::parse_line(first, ""), Ok(Node::Object(fields)) if fields.iter().any(|(key, _)| key == "problem_id"))
}

fn read_jsonl(text: &str, from: &Path) -> Result<Vec<Entry>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let entries = lines.map(|(index, line)| {
        let place = format!("{}, line {}", from.display(), index + 1);
        let node = json::parse_line(line, &place)?;
        let record = Record::new(place, &node)?;
        Ok(Entry {
            problem_id: record.text("problem_id")?,
            rationale: record.text("rationale")?,
            model: record.optional_text("model")?,
        })
    });
    entries.collect()
}

/// MM-CoT's layout: texts in the order of a split, with the targets in `labels`.
fn read_predictions(record: &Record<'_>, problems: &[Problem], split: Option<&str>) -> Result<Vec<Entry>> {
    let Some(split) = split else {
        let message = "predictions have no problem ids: pass the split whose order they follow with --split train, val or test";
        return Err(Error::bad_input(record.place(), message));
    };
    let predictions = record.texts("preds")?.unwrap_or_default();
    let of_split: Vec<&Problem> = problems.iter().filter(|problem| problem.split == split).collect();
    if predictions.len() != of_split.len() {
        let expected = format!("{} texts, the problems of split `{split}`", grouped(of_split.len()));
        return Err(record.wrong("preds", &expected, grouped(predictions.len())));
    }
    if !predictions.is_empty()
        && predictions.iter().all(|text| text.trim_start().starts_with("The answer is ("))
    {
        return Err(record.wrong("preds", "rationales", "answers; use the file of the rationale stage"));
    }
    if let Some(labels) = record.texts("labels")? {
        check_labels(record, &labels, &of_split)?;
    }
    let entries = of_split.into_iter().zip(predictions);
    Ok(entries
        .map(|(problem, rationale)| Entry { problem_id: problem.problem_id.clone(), rationale, model: None })
        .collect())
}

/// The targets must be the problems' own solutions: that shows that the order is the same.
fn check_labels(record: &Record<'_>, labels: &[String], problems: &[&Problem]) -> Result<()> {
    if labels.len() != problems.len() {
        return Err(record.wrong(
            "labels",
            &format!("{} texts, as many as `preds`", problems.len()),
            labels.len(),
        ));
    }
    // Decoded targets lost newlines, spaces and rare characters, and begin with the lecture in some runs.
    let words = |text: &str| -> HashSet<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 3);
        words.map(str::to_lowercase).collect()
    };
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (label, problem) in labels.iter().zip(problems).filter(|(_, problem)| !problem.solution.is_empty()) {
        let (label, mut gold) = (words(label), words(&problem.solution));
        gold.extend(words(&problem.lecture));
        checked += 1;
        let shared = label.iter().filter(|word| gold.contains(*word)).count();
        if shared * 2 < label.len() {
            wrong.push(problem.problem_id.as_str());
        }
    }
    match wrong.first() {
        Some(first) if wrong.len() * 4 > checked => Err(record.wrong(
            "labels",
            "the dataset's solutions in the same order",
            format_args!(
                "different texts for {} of {} problems, first `{first}`",
                grouped(wrong.len()),
                grouped(checked)
            ),
        )),
        _ => Ok(()),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (data, round) = (self.dataset.display(), self.round);
        if self.changed {
            writeln!(
                f,
                "{data}, round {round}: {} rationales imported as rollouts",
                grouped(self.rationales)
            )?;
        } else {
            writeln!(f, "{data}, round {round}: nothing changed, these rationales already exist")?;
        }
        writeln!(f, "  sentences: {}; empty rationales: {}", grouped(self.sentences), grouped(self.empty))?;
        if self.unknown > 0 {
            writeln!(
                f,
                "  rationales skipped, since the dataset lacks their problems: {}",
                grouped(self.unknown)
            )?;
        }
        if self.other_splits > 0 {
            writeln!(
                f,
                "  rationales skipped, since their problems are in other splits: {}",
                grouped(self.other_splits)
            )?;
        }
        let data = quoted(&self.dataset);
        write!(f, "next: collect-feedback --round {round} --stage scores --data {data}")
    }
}
