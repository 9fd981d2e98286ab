//! Rationales in a Parquet file.

use super::columns::{Field, Table};
use crate::error::{Error, Result};
use crate::import::entry::Entry;
use crate::import::json::{Node, Record};
use schemas::provenance;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Fields of a rationale in a Parquet file.
const FIELDS: [&str; 3] = ["problem_id", "rationale", "model"];

/// Reads a file: one row per rationale, or per problem with a list of its samples.
///
/// # Errors
/// If the file lacks columns, or a cell is not a text.
pub(in crate::import) fn read_parquet(from: &Path, map: &[(String, String)]) -> Result<Vec<Entry>> {
    let mut fields =
        FIELDS.map(|name| Field { name, columns: vec![name.to_owned()], is_required: name != "model" });
    for (name, column) in map {
        let Some(field) = fields.iter_mut().find(|field| field.name == name.as_str()) else {
            let message = format!("unknown field `{name}`; known: {}", FIELDS.join(", "));
            return Err(Error::bad_input("--map", message));
        };
        (field.columns, field.is_required) = (vec![column.clone()], true);
    }
    let table = Table::open(from, &fields)?;
    let mut entries = Vec::new();
    table.rows(None, |index, row| {
        let place = format!("{}, row {index}", from.display());
        let node = |name: &'static str| {
            let node = row.node(name).map_err(|found| {
                Error::bad_input(
                    place.as_str(),
                    format!("`{}`: expected text, found {found}", table.shown(name)),
                )
            })?;
            Ok::<_, Error>((table.shown(name).to_owned(), node))
        };
        let (id, id_node) = node("problem_id")?;
        let id_node =
            if let Node::Number(number) = &id_node { Node::Text(number.to_string()) } else { id_node };
        let (rationale, texts) = node("rationale")?;
        let record = Node::Object(vec![(id.clone(), id_node), (rationale.clone(), texts), node("model")?]);
        let record = Record::new(place.clone(), &record)?;
        let (problem_id, model) = (record.text(&id)?, record.optional_text(table.shown("model"))?);
        let samples = match record.get(&rationale) {
            Some(Node::List(_)) => record.texts(&rationale)?.unwrap_or_default(),
            _ => vec![record.text(&rationale)?],
        };
        let entry = |rationale| Entry { problem_id: problem_id.clone(), rationale, model: model.clone() };
        entries.extend(samples.into_iter().map(entry));
        Ok(())
    })?;
    Ok(entries)
}

/// sha256 of a file, in hexadecimal form.
///
/// # Errors
/// If it cannot be read.
pub(in crate::import) fn digest_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(provenance::hex(&hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}
