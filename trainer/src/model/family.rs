//! The kinds of models, by the `model_type` of their `config.json`.

use super::config::{Family, ModelConfig};
use super::mm_t5::MM_T5;
use crate::checkpoint::weight_files::{parse_json, read_text};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

/// Kinds added by other crates.
static ADDED: RwLock<Vec<Family>> = RwLock::new(Vec::new());

/// The kinds built into this crate.
const BUILT_IN: [Family; 1] = [MM_T5];

/// Adds a kind of model, for a program built on this crate: call it before [`crate::run`].
pub fn register(family: Family) {
    ADDED.write().unwrap_or_else(PoisonError::into_inner).push(family);
}

fn all() -> Vec<Family> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    BUILT_IN.into_iter().chain(added.iter().copied()).collect()
}

/// Reads and checks a `config.json`.
///
/// # Errors
/// If the file is missing or broken, or of an unknown kind of model.
pub fn read_config(path: &Path) -> Result<Box<dyn ModelConfig>> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default)]
        model_type: Option<String>,
    }
    let text = read_text(path)?;
    let Kind { model_type } = parse_json(path, &text)?;
    let families = all();
    // Older checkpoints have no `model_type`.
    let found = model_type.as_deref().unwrap_or(MM_T5.model_type);
    match families.iter().find(|family| family.model_type == found) {
        Some(family) => (family.read)(path, &text),
        None => {
            let known: Vec<String> =
                families.iter().map(|family| format!("`{}`", family.model_type)).collect();
            let message = format!("model_type: expected {}, found `{found}`", known.join(" or "));
            Err(Error::Checkpoint { path: path.to_path_buf(), message })
        }
    }
}

/// A shape by name, for a vocabulary of this many rows and image features of this width.
pub fn named(shape: &str, vocabulary: i64, image_width: i64) -> Option<Box<dyn ModelConfig>> {
    all().iter().find_map(|family| (family.named)(shape, vocabulary, image_width))
}
