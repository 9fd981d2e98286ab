//! The interface of the format writers.

use crate::error::Result;
use crate::export::card::{self, Config};
use crate::export::left_out::LeftOut;
use crate::export::lines::Written;
use crate::export::options::Plan;
use crate::export::pictures::{Copies, Found};
use crate::export::prompt;
use crate::export::source::Feedback;
use schemas::Dataset;
use std::path::Path;

/// What a format writer works with.
pub(in crate::export) struct Place<'a> {
    /// Folder of the export.
    pub(in crate::export) folder: &'a Path,
    /// Its settings.
    pub(in crate::export) plan: &'a Plan,
    /// Whether any problem is shown with a picture.
    pub(in crate::export) has_pictures: bool,
    /// Pictures copied so far.
    pub(in crate::export) copies: Copies,
    /// Rows that were left out.
    pub(in crate::export) left: LeftOut,
    /// Program that wrote the export.
    pub(in crate::export) created_by: String,
}

impl Place<'_> {
    /// Prompt of a problem.
    pub(super) fn prompt(&self, feedback: &Feedback, picture: Option<&Found>) -> String {
        prompt::text(&feedback.problem, picture.is_some(), &self.plan.instruction)
    }

    /// Path of a problem's picture, copied into the export: none or one.
    pub(super) fn copied(&mut self, picture: Option<&Found>) -> Result<Vec<String>> {
        let Some(found) = picture else { return Ok(Vec::new()) };
        self.copies.add(self.folder, found)?;
        Ok(vec![found.name.clone()])
    }
}

/// Writes lines in one format.
pub(in crate::export) trait Writer {
    /// Adds the lines made from a problem's feedback.
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()>;

    /// Finishes the files, and writes those that accompany them.
    fn finish(self: Box<Self>, place: &Place<'_>, dataset: &Dataset) -> Result<Vec<Written>>;
}

/// The card of an export with one configuration.
pub(super) fn write_card(place: &Place<'_>, dataset: &Dataset, files: &[Written], about: &str) -> Result<()> {
    let config = Config { name: "default".to_owned(), files: files.to_vec(), features: String::new() };
    card::write(place.folder, dataset, place.plan, &[config], about)
}
