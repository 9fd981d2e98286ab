//! The round's tables as a dataset for the Hugging Face Hub: a configuration for each table, pictures embedded in `problems`.

use super::writer::Place;
use crate::error::{Error, Result};
use crate::export::card::{self, Config};
use crate::export::left_out::{LeftOut, Reason, Split};
use crate::export::lines::{
    Embedded, Lines, ParquetLines, Row, Written, list, picture as picture_field, text,
};
use crate::export::options::{Plan, Source};
use crate::export::pictures::Pictures;
use crate::export::source::Sources;
use arrow::datatypes::{DataType, Field};
use schemas::opinions::{CombinedScore, Opinions};
use schemas::table::TableWriter;
use schemas::{
    Answer, Column, Correction, Dataset, Judgement, Problem, Provenance, Rationale, Rollout, Score, Table,
    ids,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

const ABOUT: &str = "Problems, sampled rationales, and a Teacher's feedback on them: a score for each sentence, corrections, comparisons.";
/// Size at which the pictures of a split continue in another file.
const FILE_BYTES: usize = 400 << 20;

/// A row of `problems`: the table's columns, with the picture itself as `image`.
#[derive(Serialize)]
struct Line {
    problem_id: String,
    question: String,
    choices: Vec<String>,
    answer_index: Option<u8>,
    hint: String,
    caption: String,
    lecture: String,
    solution: String,
    image: Option<Embedded>,
    subject: Option<String>,
    topic: Option<String>,
    category: Option<String>,
    skill: Option<String>,
    grade: Option<String>,
    source: String,
}

impl Row for Line {
    fn picture_bytes(&self) -> usize {
        self.image.as_ref().map_or(0, Embedded::len)
    }
}

fn fields() -> Vec<Field> {
    let optional = |name: &str| Field::new(name, DataType::Utf8, true);
    vec![
        text("problem_id"),
        text("question"),
        list("choices", text("choice")),
        Field::new("answer_index", DataType::UInt8, true),
        text("hint"),
        text("caption"),
        text("lecture"),
        text("solution"),
        picture_field("image"),
        optional("subject"),
        optional("topic"),
        optional("category"),
        optional("skill"),
        optional("grade"),
        text("source"),
    ]
}

/// The files of a split's problems.
#[derive(Default)]
struct Shards {
    open: Option<(String, ParquetLines<Line>)>,
    bytes: usize,
    written: Vec<Written>,
}

impl Shards {
    fn push(&mut self, place: &Place<'_>, split: Split, line: Line) -> Result<()> {
        if self.bytes > FILE_BYTES {
            self.finish(split)?;
        }
        if self.open.is_none() {
            let name = format!("problems/{}-{:05}.parquet", split.hub_name(), self.written.len());
            let lines = ParquetLines::create(&place.folder.join(&name), fields(), &place.created_by)?;
            (self.open, self.bytes) = (Some((name, lines)), 0);
        }
        self.bytes += line.picture_bytes();
        self.open.as_mut().map_or(Ok(()), |(_, lines)| lines.push(line))
    }

    fn finish(&mut self, split: Split) -> Result<()> {
        if let Some((name, lines)) = self.open.take() {
            self.written.push(Written { name, split, lines: lines.finish()? });
        }
        Ok(())
    }
}

/// The splits of the problems, by the digest of their id.
struct Splits(Vec<(u128, Split)>);

impl Splits {
    fn of(&self, table: &str, problem_id: &str) -> Result<Split> {
        let digest = ids::digest(problem_id);
        let found = self.0.binary_search_by_key(&digest, |(other, _)| *other).ok();
        found.and_then(|index| self.0.get(index)).map(|(_, split)| *split).ok_or_else(|| {
            let message = format!("problem_id: expected a problem of problems.parquet, found `{problem_id}`");
            Error::bad_input(table, message)
        })
    }
}

/// Writes all tables and the card.
pub(in crate::export) fn write(place: &mut Place<'_>, dataset: &Dataset) -> Result<Vec<Written>> {
    let (splits, problems) = write_problems(place, dataset)?;
    let mut configs = vec![Config {
        name: Problem::NAME.to_owned(),
        files: problems,
        features: features(&Problem::columns().into_iter().filter(|c| c.name != "split").collect::<Vec<_>>()),
    }];
    copy::<Rollout>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    copy::<Score>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    combined(place, dataset, &mut configs)?;
    copy::<Rationale>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    copy::<Correction>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    copy::<Judgement>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    copy::<Answer>(place, dataset, &splits, |row| &row.problem_id, &mut configs)?;
    configs.retain(|config| !config.files.is_empty());
    card::write(place.folder, dataset, place.plan, &configs, ABOUT)?;
    Ok(configs.into_iter().flat_map(|config| config.files).collect())
}

fn write_problems(place: &mut Place<'_>, dataset: &Dataset) -> Result<(Splits, Vec<Written>)> {
    let pictures = Pictures::new(dataset, place.plan.pictures)?;
    let mut splits = Vec::new();
    let mut shards: BTreeMap<Split, Shards> = BTreeMap::new();
    for problem in dataset.problem_rows()? {
        let problem = problem?;
        let split = Split::of(&problem.split);
        splits.push((ids::digest(&problem.problem_id), split));
        if !place.plan.splits.contains(&split) {
            place.left.count(Problem::NAME, Reason::Split(split), 1);
            continue;
        }
        let image = match pictures.of(&problem)? {
            Ok(found) => {
                found.map(|found| Ok::<_, Error>(Embedded::new(found.bytes()?, &found.name))).transpose()?
            }
            Err(reason) => {
                place.left.count("pictures", reason, 1);
                None
            }
        };
        let line = Line {
            problem_id: problem.problem_id,
            question: problem.question,
            choices: problem.choices,
            answer_index: problem.answer_index,
            hint: problem.hint,
            caption: problem.caption,
            lecture: problem.lecture,
            solution: problem.solution,
            image,
            subject: problem.subject,
            topic: problem.topic,
            category: problem.category,
            skill: problem.skill,
            grade: problem.grade,
            source: problem.source,
        };
        shards.entry(split).or_default().push(place, split, line)?;
    }
    splits.sort_unstable();
    let mut written = Vec::new();
    for (split, mut shards) in shards {
        shards.finish(split)?;
        written.append(&mut shards.written);
    }
    Ok((Splits(splits), written))
}

/// Copies a table's rows, a file for each split of their problems.
fn copy<T: Table + Send + 'static>(
    place: &mut Place<'_>,
    dataset: &Dataset,
    splits: &Splits,
    problem_id: fn(&T) -> &str,
    configs: &mut Vec<Config>,
) -> Result<()> {
    let provenance = Provenance { created_by: place.created_by.clone(), config_sha256: String::new() };
    let mut files: BTreeMap<Split, (String, TableWriter<T>)> = BTreeMap::new();
    for row in dataset.stream::<T>(place.plan.round)? {
        let row = row?;
        let split = splits.of(T::NAME, problem_id(&row))?;
        if !place.plan.splits.contains(&split) {
            place.left.count(T::NAME, Reason::Split(split), 1);
            continue;
        }
        let (_, file) = match files.entry(split) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(empty) => {
                let name = format!("{}/{}.parquet", T::NAME, split.hub_name());
                let file = TableWriter::create(&place.folder.join(&name), &provenance)?;
                empty.insert((name, file))
            }
        };
        file.push(row)?;
    }
    let mut written = Vec::new();
    for (split, (name, file)) in files {
        written.push(Written { name, split, lines: file.finish()? as u64 });
    }
    configs.push(Config { name: T::NAME.to_owned(), files: written, features: features(&T::columns()) });
    Ok(())
}

/// Writes the combined scores of several opinions, one file per split; nothing if there is a single opinion.
fn combined(place: &mut Place<'_>, dataset: &Dataset, configs: &mut Vec<Config>) -> Result<()> {
    let plan = Plan { source: Some(Source::Scores), keep_duplicates: true, ..place.plan.clone() };
    let round = plan.round;
    if dataset.parts::<Score>(round)?.is_empty()
        || !Opinions::read(dataset, round, &plan.settings)?.are_several()
    {
        return Ok(());
    }
    // Sentences without a line here are in the other tables.
    let mut left = LeftOut::default();
    let mut sources = Sources::read(dataset, &plan, &mut left)?;
    let provenance = Provenance { created_by: place.created_by.clone(), config_sha256: String::new() };
    let mut files: BTreeMap<Split, (String, TableWriter<CombinedScore>)> = BTreeMap::new();
    for problem in dataset.problem_rows()? {
        let feedback = sources.of(problem?, &plan.splits, &mut left)?;
        for sample in &feedback.samples {
            let (_, file) = match files.entry(feedback.split) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(empty) => {
                    let name = format!("{}/{}.parquet", CombinedScore::NAME, feedback.split.hub_name());
                    let file = TableWriter::create(&place.folder.join(&name), &provenance)?;
                    empty.insert((name, file))
                }
            };
            let sentences = sample.sentences.iter().zip(&sample.scores).zip(&sample.spreads);
            for (((sentence, score), spread), sentence_index) in sentences.zip(0..) {
                file.push(CombinedScore {
                    rollout_id: sample.rollout_id.clone(),
                    problem_id: feedback.problem.problem_id.clone(),
                    round,
                    sentence_index,
                    sentence: sentence.clone(),
                    score: *score,
                    spread: *spread,
                    opinions: sample.opinions.clone(),
                })?;
            }
        }
    }
    let mut written = Vec::new();
    for (split, (name, file)) in files {
        written.push(Written { name, split, lines: file.finish()? as u64 });
    }
    let features = features(&CombinedScore::columns());
    configs.push(Config { name: CombinedScore::NAME.to_owned(), files: written, features });
    Ok(())
}

/// Columns as the card declares them.
fn features(columns: &[Column]) -> String {
    let mut text = String::new();
    for column in columns {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  - name: {}", column.name);
        let _ = match (&column.data_type, column.name) {
            (_, "image") => writeln!(text, "    dtype: image"),
            (DataType::List(item), _) => match item.data_type() {
                DataType::Struct(fields) => {
                    let _ = writeln!(text, "    list:");
                    fields.iter().try_for_each(|field| {
                        writeln!(
                            text,
                            "    - name: {}\n      dtype: {}",
                            field.name(),
                            dtype(field.data_type())
                        )
                    })
                }
                item => writeln!(text, "    sequence: {}", dtype(item)),
            },
            (other, _) => writeln!(text, "    dtype: {}", dtype(other)),
        };
    }
    text
}

fn dtype(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Timestamp(..) => "timestamp[ms, tz=UTC]".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_declares_every_column() {
        let card = features(&Rollout::columns());
        for expected in [
            "  - name: rollout_id\n    dtype: string\n",
            "  - name: token_ids\n    sequence: int32\n",
            "  - name: sentences\n    list:\n    - name: text\n      dtype: string\n    - name: token_end\n      dtype: uint32\n",
            "  - name: truncated\n    dtype: bool\n",
        ] {
            assert!(card.contains(expected), "{card}");
        }
        assert!(features(&Score::columns()).contains("dtype: timestamp[ms, tz=UTC]\n"));
        let names: Vec<String> = fields().iter().map(|field| field.name().clone()).collect();
        let columns =
            Problem::columns().into_iter().map(|column| column.name).filter(|name| *name != "split");
        assert_eq!(names, columns.collect::<Vec<_>>());
    }
}
