//! The Teacher of the settings and the Teacher that answered a round, for commands suggested to the user.

use crate::dataset::quoted;
use crate::error::Result;
use crate::settings::{Provider, Settings, TeacherSettings};
use crate::{Dataset, Request};
use serde::Deserialize;
use std::path::Path;

impl TeacherSettings {
    /// The model: the setting, or the provider's default. It names the Teacher in the tables.
    pub fn model_name(&self) -> String {
        if !self.model.is_empty() && self.provider != Provider::Reference {
            return self.model.clone();
        }
        match self.provider {
            Provider::Anthropic => "claude-haiku-5-5",
            Provider::OpenAi => "gpt-6-luna",
            Provider::Reference => "reference-v2",
        }
        .to_owned()
    }
}

#[derive(Deserialize)]
struct AskedOf {
    kind: String,
    provider: String,
    model: String,
}

/// The flags that continue with the Teacher that last answered in a round or the previous one, for instance
/// ` --teacher anthropic --model claude-haiku-5-5`; empty if the settings select that Teacher, or if there
/// are no answers yet. Teachers of `[[teachers]]` need no flags.
///
/// # Errors
/// If the ledger cannot be read.
pub fn flags_to_go_on(dataset: &Dataset, round: u32, settings: &Settings) -> Result<String> {
    let further: Vec<String> = settings.teachers.iter().map(|one| one.teacher.model_name()).collect();
    let settings = &settings.teacher;
    for round in [round, round.saturating_sub(1)] {
        let rows = dataset.project::<Request, AskedOf>(round, &["kind", "provider", "model"])?;
        let Some(last) = rows.into_iter().rfind(|row| row.kind != "audit" && !further.contains(&row.model))
        else {
            continue;
        };
        let is_set = last.provider == settings.provider.as_str()
            && (last.model == settings.model || last.provider == Provider::Reference.as_str());
        return Ok(match is_set {
            true => String::new(),
            false if last.provider == Provider::Reference.as_str() => " --teacher reference".to_owned(),
            false => format!(" --teacher {} --model {}", last.provider, quoted(Path::new(&last.model))),
        });
    }
    Ok(String::new())
}
