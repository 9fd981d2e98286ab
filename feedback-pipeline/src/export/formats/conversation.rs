//! Lines of messages and pictures, and the Parquet files that hold them.

use super::writer::{Place, write_card};
use crate::error::Result;
use crate::export::left_out::Split;
use crate::export::lines::{BySplit, Embedded, ParquetLines, Row, Written, list, picture, structure, text};
use crate::export::options::Source;
use crate::export::pictures::Found;
use arrow::datatypes::{DataType, Field};
use schemas::Dataset;
use serde::Serialize;
use std::path::Path;

/// A message of a conversation.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Message {
    pub(super) role: &'static str,
    pub(super) content: String,
}

pub(super) fn user(content: String) -> Vec<Message> {
    vec![Message { role: "user", content }]
}

pub(super) fn assistant(content: String) -> Vec<Message> {
    vec![Message { role: "assistant", content }]
}

/// A column of messages.
pub(super) fn messages(name: &str) -> Field {
    list(name, structure("message", vec![text("role"), text("content")]))
}

/// The column with the origin of a line.
fn ares() -> Field {
    let fields =
        vec![text("problem_id"), text("split"), text("table"), list("rows", text("id")), text("teacher")];
    structure("ares", fields)
}

/// The problem's picture, embedded: none or one.
pub(super) fn embedded(picture: Option<&Found>) -> Result<Vec<Embedded>> {
    picture.map(|found| Ok(Embedded::new(found.bytes()?, &found.name))).into_iter().collect()
}

pub(super) fn bytes_of(pictures: &[Embedded]) -> usize {
    pictures.iter().map(Embedded::len).sum()
}

/// The column of a problem's pictures; omitted if no line has one, because a text model refuses the column.
pub(super) fn images(place: &Place<'_>) -> Option<Field> {
    place.has_pictures.then(|| list("images", picture("image")))
}

/// Files of conversations, such as `train.parquet`: messages, pictures, scores, and the origin of each line.
pub(super) struct Conversations<L>(BySplit<ParquetLines<L>>);

impl<L> Default for Conversations<L> {
    fn default() -> Self {
        Self(BySplit::default())
    }
}

impl<L: Row> Conversations<L> {
    /// Adds a line. `content` are the columns of its format; `scores` are the names of its score columns,
    /// which exist only if the lines come from scores.
    pub(super) fn push(
        &mut self,
        place: &Place<'_>,
        split: Split,
        line: L,
        content: Vec<Field>,
        scores: &[&str],
    ) -> Result<()> {
        let mut fields = content;
        fields.extend(images(place));
        if place.plan.source == Some(Source::Scores) {
            fields.extend(scores.iter().map(|name| Field::new(*name, DataType::Float32, true)));
        }
        fields.push(ares());
        let create = |path: &Path| ParquetLines::create(path, fields, &place.created_by);
        self.0.push(place.folder, "*.parquet", split, line, create)
    }

    /// Finishes the files and their card.
    pub(super) fn finish(self, place: &Place<'_>, dataset: &Dataset, about: &str) -> Result<Vec<Written>> {
        let files = self.0.finish::<L>()?;
        write_card(place, dataset, &files, about)?;
        Ok(files)
    }
}
