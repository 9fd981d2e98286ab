//! Parquet: ScienceQA and A-OKVQA as on the Hugging Face Hub, and other layouts through a map of columns.
//!
//! The files are read twice, a few megabytes at a time. First every row is checked and becomes a problem; of
//! its picture only the hash is kept. Then the pictures are written to files (`pictures.rs`).

mod cell;
mod columns;
mod pictures;
mod problem;
pub(super) mod rationales;
mod shards;

pub(super) use shards::is_parquet;

use super::incoming::{Embedded, Incoming, Origin, Picture};
use super::picture;
use crate::error::{Error, Result};
use crate::import::split::SPLITS;
use crate::request::image;
use cell::Held;
use columns::{Field, Table};
use schemas::DatasetCard;
use schemas::number::counted;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Maximum number of broken pictures that a message names.
const NAMED: usize = 5;

/// The columns of the fields, and facts that are not in the files.
pub(super) struct Layout {
    fields: Vec<Field>,
    card: DatasetCard,
    /// The `source` of problems without one.
    source: String,
    /// Whether a split column takes precedence over file names.
    splits_by_column: bool,
}

/// A field with its usual columns.
fn field(name: &'static str, columns: &[&str], is_required: bool) -> Field {
    Field { name, columns: columns.iter().map(|&column| column.to_owned()).collect(), is_required }
}

impl Layout {
    /// derek-thomas/ScienceQA and its copies. They have no ids.
    pub(super) fn scienceqa(card: DatasetCard) -> Self {
        let optional = ["split", "hint", "caption", "lecture", "solution", "image"];
        let also = ["subject", "topic", "category", "skill", "grade"];
        let mut fields = vec![
            field("problem_id", &["problem_id", "pid", "id", "question_id"], false),
            field("question", &["question"], true),
            field("choices", &["choices"], true),
            field("answer_index", &["answer", "answer_index"], true),
        ];
        fields.extend(optional.iter().chain(&also).map(|name| field(name, &[name], false)));
        Self { fields, card, source: "scienceqa".to_owned(), splits_by_column: false }
    }

    /// HuggingFaceM4/A-OKVQA and its copies. `direct_answers`, a list written as text, is not needed.
    pub(super) fn aokvqa(card: DatasetCard) -> Self {
        let fields = vec![
            field("problem_id", &["question_id"], true),
            field("split", &["split"], false),
            field("question", &["question"], true),
            field("choices", &["choices"], true),
            field("answer_index", &["correct_choice_idx"], false),
            field("solution", &["rationales"], false),
            field("image", &["image"], false),
        ];
        Self { fields, card, source: "aokvqa".to_owned(), splits_by_column: false }
    }

    /// Columns named by the user, `field=column`; other fields are in columns of their own names.
    ///
    /// # Errors
    /// If a field is unknown.
    pub(super) fn of_map(map: &[(String, String)], card: DatasetCard, source: String) -> Result<Self> {
        let mut fields: Vec<Field> = problem::FIELDS
            .iter()
            .map(|&name| field(name, &[name], ["question", "choices"].contains(&name)))
            .collect();
        if let Some(answer) = fields.iter_mut().find(|field| field.name == "answer_index") {
            answer.columns.push("answer".to_owned());
        }
        for (number, (name, column)) in map.iter().enumerate() {
            if map.iter().take(number).any(|(earlier, _)| earlier == name) {
                return Err(Error::bad_input(
                    "--map",
                    format!("expected field `{name}` once, found it twice"),
                ));
            }
            let Some(field) = fields.iter_mut().find(|field| field.name == name.as_str()) else {
                let message = format!("unknown field `{name}`; known: {}", problem::FIELDS.join(", "));
                return Err(Error::bad_input("--map", message));
            };
            (field.columns, field.is_required) = (vec![column.clone()], true);
        }
        let splits_by_column = map.iter().any(|(name, _)| name == "split");
        Ok(Self { fields, card, source, splits_by_column })
    }
}

/// Reads and checks files, or the files of folders. `split` is the split of files without one of their own;
/// paths of pictures are relative to `images`, else to the folder of their file.
///
/// # Errors
/// The first row that is wrong; all broken pictures at once.
pub(super) fn read(
    from: &[PathBuf],
    layout: Layout,
    images: Option<&Path>,
    split: Option<&str>,
) -> Result<Incoming> {
    let (shards, left_out) = shards::find(from)?;
    if let Some(first) = left_out.first() {
        schemas::warn!(
            "note: ignored: {} without a split in the name, the first is {}",
            counted(left_out.len(), "file"),
            first.display()
        );
    }
    let place = from.first().map(|path| path.display().to_string()).unwrap_or_default();
    let Some(image_field) = layout.fields.iter().find(|field| field.name == "image").cloned() else {
        return Err(Error::Failed("no field for pictures".to_owned()));
    };
    let files: Vec<PathBuf> = shards.iter().map(|shard| shard.path.clone()).collect();
    let mut incoming = Incoming::new(layout.card.clone());
    let mut rows: Vec<(problem::Checked, Option<Origin>)> = Vec::new();
    let mut broken = Vec::new();
    let (mut without_bytes, mut first_without_bytes) = (0, None);
    for (number, shard) in shards.iter().enumerate() {
        let table = Table::open(&shard.path, &layout.fields)?;
        let images = images.or(shard.path.parent()).unwrap_or(Path::new("."));
        let of_file = split.or(shard.split).filter(|_| !layout.splits_by_column);
        table.rows(None, |index, row| {
            let place = format!("{}, row {index}", shard.path.display());
            let (held, digest) = match row.picture() {
                Ok(held) => {
                    let digest =
                        if let Held::Bytes(bytes) = &held { Sha256::digest(bytes).into() } else { [0; 32] };
                    (held, digest)
                }
                Err(found) => {
                    let expected = "a picture: bytes, a path, or a struct of both";
                    let message = format!("`{}`: expected {expected}, found {found}", table.shown("image"));
                    return Err(Error::bad_input(place, message));
                }
            };
            let mut checked = problem::read(&table, &row, &place, of_file, &layout.source, &digest)?;
            let id = &checked.problem.problem_id;
            let origin = match held {
                Held::Nothing => None,
                Held::Empty => {
                    without_bytes += 1;
                    first_without_bytes.get_or_insert(place.clone());
                    None
                }
                Held::Bytes(bytes) => match image::extension_of(&bytes) {
                    Ok(extension) => {
                        checked.extension = extension.to_owned();
                        Some(Origin::Embedded(Embedded { file: number, row: index, digest }))
                    }
                    Err(why) => {
                        broken.push(format!("problem `{id}` ({place}): {why}"));
                        None
                    }
                },
                Held::Path(path) => {
                    let file = picture::first_file([images.join(&path)]);
                    // The path is untrusted input: only pictures may be copied to the dataset folder, which may be shared.
                    if let Some(found) = file.as_deref().map(picture::unknown).transpose()?.flatten() {
                        broken.push(format!("problem `{id}` ({place}): `{path}` is {found}"));
                    }
                    checked.extension = match &file {
                        Some(file) => picture::extension(file)?,
                        None => picture::own_extension(Path::new(&path)),
                    };
                    Some(file.map_or(Origin::Missing, Origin::File))
                }
            };
            rows.push((checked, origin));
            Ok(())
        })?;
    }
    if !broken.is_empty() {
        let more = if broken.len() > NAMED { ", …" } else { "" };
        let named: Vec<&str> = broken.iter().take(NAMED).map(String::as_str).collect();
        let message = format!(
            "expected {}, found {} broken ones: {}{more}",
            picture::EXPECTED,
            broken.len(),
            named.join(", ")
        );
        return Err(Error::bad_input(place, message));
    }
    if let Some(first) = first_without_bytes {
        schemas::warn!(
            "note: {} with a picture of 0 bytes imported without it; the first: {first}",
            counted(without_bytes, "problem")
        );
    }
    rows.sort_by_key(|(checked, _)| SPLITS.iter().position(|split| *split == checked.problem.split));
    number_repeated(&mut rows);
    for (checked, origin) in rows {
        let mut problem = checked.problem;
        if let Some(origin) = origin {
            problem.image = Some(format!("images/{}.{}", problem.problem_id, checked.extension));
            incoming.pictures.push(Picture { problem: incoming.problems.len(), origin });
        }
        incoming.problems.push(problem);
        incoming.places.push(checked.place);
    }
    incoming.embedded = Some(Box::new(pictures::Files { files, field: image_field }));
    incoming.not_empty(Path::new(&place))
}

/// Rows with the same derived id are numbered: the second one ends in `-2`. They are ordered by answer and
/// solution, so the order of the rows does not matter.
fn number_repeated(rows: &mut [(problem::Checked, Option<Origin>)]) {
    let mut alike: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, (checked, _)) in rows.iter().enumerate().filter(|(_, (checked, _))| checked.is_derived) {
        alike.entry(checked.problem.problem_id.clone()).or_default().push(place);
    }
    for (id, mut places) in alike.into_iter().filter(|(_, places)| places.len() > 1) {
        places.sort_by(|one, other| {
            let key = |place: &usize| {
                let problem = &rows[*place].0.problem;
                (problem.answer_index, &problem.solution, &problem.lecture, &problem.caption)
            };
            key(one).cmp(&key(other))
        });
        for (number, place) in places.into_iter().enumerate().skip(1) {
            rows[place].0.problem.problem_id = format!("{id}-{}", number + 1);
        }
    }
}
