//! One file for each reader of exports: what a line holds, and what lies beside the lines.

mod hub;
mod kto;
mod llamafactory;
mod preference;
mod prm;
mod sft;
mod verl;

pub(super) use hub::write as write_hub;

use super::card::Config;
use super::left_out::LeftOut;
use super::lines::{Embedded, Written, list, structure, text};
use super::options::{Format, Plan};
use super::pictures::{Copies, Found};
use super::prompt;
use super::source::Feedback;
use crate::error::Result;
use arrow::datatypes::Field;
use schemas::Dataset;
use serde::Serialize;
use std::path::Path;

/// What a format is given to write with.
pub(super) struct Place<'a> {
    /// Folder of the export.
    pub(super) folder: &'a Path,
    /// Its settings.
    pub(super) plan: &'a Plan,
    /// Whether any problem is shown with a picture.
    pub(super) has_pictures: bool,
    /// Pictures copied so far.
    pub(super) copies: Copies,
    /// Rows that have no line.
    pub(super) left: LeftOut,
    /// Program that writes.
    pub(super) created_by: String,
}

impl Place<'_> {
    /// Prompt of a problem.
    fn prompt(&self, feedback: &Feedback, picture: Option<&Found>) -> String {
        prompt::text(&feedback.problem, picture.is_some(), &self.plan.instruction)
    }

    /// Path of a problem's picture, copied into the export: none or one.
    fn copied(&mut self, picture: Option<&Found>) -> Result<Vec<String>> {
        let Some(found) = picture else { return Ok(Vec::new()) };
        self.copies.add(self.folder, found)?;
        Ok(vec![found.name.clone()])
    }
}

/// Writes lines in one format.
pub(super) trait Writer {
    /// Adds what a problem's feedback gives.
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()>;

    /// Completes the files; writes what belongs beside them.
    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>>;
}

/// The writer of a format; none for the Hub's, whose lines are the tables' rows.
pub(super) fn writer(format: Format) -> Option<Box<dyn Writer>> {
    Some(match format {
        Format::Prm => Box::new(prm::Prm::default()),
        Format::Preference => Box::new(preference::Preference::default()),
        Format::Kto => Box::new(kto::Kto::default()),
        Format::Sft => Box::new(sft::Sft::default()),
        Format::Llamafactory => Box::new(llamafactory::LlamaFactory::default()),
        Format::Verl => Box::new(verl::Verl::default()),
        Format::Hub => return None,
    })
}

/// A message of a conversation.
#[derive(Debug, Clone, Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

fn user(content: String) -> Vec<Message> {
    vec![Message { role: "user", content }]
}

fn assistant(content: String) -> Vec<Message> {
    vec![Message { role: "assistant", content }]
}

/// A column of messages.
fn messages(name: &str) -> Field {
    list(name, structure("message", vec![text("role"), text("content")]))
}

/// The column of a line's origin.
fn ares() -> Field {
    let fields =
        vec![text("problem_id"), text("split"), text("table"), list("rows", text("id")), text("teacher")];
    structure("ares", fields)
}

/// The problem's picture, embedded: none or one.
fn embedded(picture: Option<&Found>) -> Result<Vec<Embedded>> {
    picture.map(|found| Ok(Embedded::new(found.bytes()?, &found.name))).into_iter().collect()
}

fn bytes_of(pictures: &[Embedded]) -> usize {
    pictures.iter().map(Embedded::len).sum()
}

/// The card of an export with one configuration.
fn card(place: &Place<'_>, dataset: &Dataset, files: &[Written], about: &str) -> Result<()> {
    let config = Config { name: "default".to_owned(), files: files.to_vec(), features: String::new() };
    super::card::write(place.folder, dataset, place.plan, &[config], about)
}
