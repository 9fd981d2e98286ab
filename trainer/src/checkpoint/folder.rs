//! Folders of students: whole checkpoints, or LoRA adapters with a reference to the trunk they were trained on.

use super::hf::{self, Loaded, MADE_BY};
use super::peft::{ADAPTER_CONFIG, Base, base_of, read_adapter, read_config, write_with};
use super::weight_files::{ADAPTER_FILE, WEIGHTS_FILE, metadata_of};
use crate::data::tokenizer::{Tokenizer, VOCABULARY};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::lora::{LoraConfig, merge};
use crate::nn::weights::Weights;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tch::Device;

/// Key of an adapter's metadata for its trunk's folder, relative to its own.
const TRUNK: &str = "ares.trunk";

/// The weights that an adapter changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Trunk {
    /// Its folder.
    pub folder: PathBuf,
    /// Fingerprint of its weights.
    pub fingerprint: String,
}

/// A student as stored in its folder.
#[derive(Debug)]
pub struct Stored {
    /// Shape and constants.
    pub config: Rc<dyn ModelConfig>,
    /// All weights, with the LoRA matrices of an adapter.
    pub weights: Weights,
    /// Fingerprint of the weights.
    pub fingerprint: String,
    /// The adapter's settings and trunk; `None` for a whole checkpoint.
    pub adapter: Option<(LoraConfig, Trunk)>,
}

/// Whether a folder holds a student of either kind; both appear by renaming, so it is complete.
pub fn is_student(folder: &Path) -> bool {
    folder.join(WEIGHTS_FILE).is_file() || is_adapter(folder)
}

/// Whether a folder holds an adapter without its trunk's weights.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).is_file() && !folder.join(WEIGHTS_FILE).is_file()
}

/// Reads a student of either kind.
///
/// # Errors
/// If a file is missing or broken, an adapter's trunk is not found or is not the one it was trained on, or weights do not fit;
/// all that do not are listed.
pub fn read(folder: &Path) -> Result<Stored> {
    if !is_adapter(folder) {
        let Loaded { config, weights } = hf::read_student(folder)?;
        let fingerprint = weights.fingerprint();
        return Ok(Stored { config: config.into(), weights, fingerprint, adapter: None });
    }
    let lora = read_config(folder)?;
    let trunk = trunk_of(folder, &lora)?;
    let Loaded { config, mut weights } = hf::read_student(&trunk)?;
    let fingerprint = weights.fingerprint();
    if let Some(expected) = base_of(folder)?.filter(|expected| *expected != fingerprint) {
        let short = |text: &str| text.get(..12).unwrap_or(text).to_owned();
        return Err(Error::input(
            format!(
                "{}: expected its trunk {} with fingerprint {}, found {}",
                folder.display(),
                trunk.display(),
                short(&expected),
                short(&fingerprint)
            ),
            "restore the checkpoint that the adapter was trained on",
        ));
    }
    read_adapter(folder, &*config, &mut weights, Device::Cpu)?;
    let trunk = Trunk { folder: trunk, fingerprint };
    Ok(Stored {
        fingerprint: weights.fingerprint_on(&trunk.fingerprint),
        config: config.into(),
        weights,
        adapter: Some((lora, trunk)),
    })
}

impl Stored {
    /// Merges an adapter into its trunk's weights, so that the student is a plain one.
    pub fn merge(&mut self) {
        if self.adapter.take().is_some() {
            merge(&mut self.weights);
        }
    }
}

/// The step that produced a student, as text, if its files record it.
///
/// # Errors
/// If a file is broken.
pub fn made_by(folder: &Path) -> Result<Option<String>> {
    metadata_of(&folder.join(if is_adapter(folder) { ADAPTER_FILE } else { WEIGHTS_FILE }), MADE_BY)
}

/// The folder with a student's tokenizer: its own, or that of its trunk if another program wrote the adapter.
pub fn with_tokenizer<'a>(folder: &'a Path, trunk: Option<&'a Trunk>) -> &'a Path {
    match trunk {
        Some(trunk) if !folder.join("tokenizer.json").is_file() => &trunk.folder,
        _ => folder,
    }
}

/// The folder of an adapter's trunk: the path relative to the adapter, or the one in its settings.
///
/// # Errors
/// If there is no student, or only another adapter.
pub fn trunk_of(folder: &Path, lora: &LoraConfig) -> Result<PathBuf> {
    let beside = metadata_of(&folder.join(ADAPTER_FILE), TRUNK)?.map(|path| plain(&folder.join(path)));
    let named = lora.base_model_name_or_path.as_deref().filter(|name| !name.is_empty()).map(PathBuf::from);
    let tried: Vec<PathBuf> = beside.into_iter().chain(named).collect();
    match tried.iter().find(|folder| folder.join("config.json").is_file()) {
        Some(found) if is_adapter(found) => Err(Error::input(
            format!(
                "{}: expected a trunk of whole weights, found an adapter at {}",
                folder.display(),
                found.display()
            ),
            format!("next: train merge {} --out FOLDER, and use that as its base", found.display()),
        )),
        Some(found) => Ok(found.clone()),
        None => {
            let tried: Vec<String> = tried.iter().map(|folder| folder.display().to_string()).collect();
            Err(Error::input(
                format!(
                    "{}: expected the checkpoint that this adapter was trained on, found none{}",
                    folder.display(),
                    if tried.is_empty() {
                        ": adapter_config.json does not name one".to_owned()
                    } else {
                        format!(" at {}", tried.join(" or "))
                    }
                ),
                "restore it, or set base_model_name_or_path in adapter_config.json",
            ))
        }
    }
}

/// A path without `.`, and without `..` after a folder's name.
fn plain(path: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(parts.pop()),
            (part, _) => parts.push(part),
        }
    }
    parts.into_iter().collect()
}

/// The relative path from one folder to another, both relative or both absolute.
fn relative(from: &Path, to: &Path) -> Option<PathBuf> {
    let (from, to) = (plain(from), plain(to));
    if from.is_absolute() != to.is_absolute() {
        return None;
    }
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if from[common..].contains(&Component::ParentDir) {
        return None; // the parent is unknown
    }
    let up = from[common..].iter().map(|_| Component::ParentDir);
    Some(up.chain(to[common..].iter().copied()).collect())
}

/// Writes a student of either kind; `made_by` is the metadata text on what produced it, and `companions` holds its tokenizer.
///
/// # Errors
/// If the write fails; then the folder does not appear.
pub fn write(
    folder: &Path,
    (config, weights): (&dyn ModelConfig, &Weights),
    adapter: Option<&(LoraConfig, Trunk)>,
    companions: &Path,
    made_by: &str,
) -> Result<()> {
    let Some((lora, trunk)) = adapter else {
        return hf::write_student_made_by(folder, config, weights, companions, Some(made_by));
    };
    let base_model_name_or_path = Some(trunk.folder.display().to_string());
    let lora = LoraConfig { base_model_name_or_path, ..lora.clone() };
    let base = Base { config, folder: companions, fingerprint: &trunk.fingerprint };
    let mut metadata = vec![(MADE_BY, made_by.to_owned())];
    metadata.extend(relative(folder, &trunk.folder).map(|path| (TRUNK, path.display().to_string())));
    metadata.extend(Tokenizer::vocabulary(companions).map(|vocabulary| (VOCABULARY, vocabulary)));
    write_with(folder, &lora, weights, &base, &metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trunk_is_found_from_the_adapter() {
        for (from, to, expected) in [
            ("points/round-1/rl", "points/base", Some("../../base")),
            ("points/base", "points/init", Some("../init")),
            ("/a/points/base", "/b/init", Some("../../../b/init")),
            ("./points/base", "init", Some("../../init")),
            ("points/base", "/init", None),
            ("../points/base", "init", None),
        ] {
            let found = relative(Path::new(from), Path::new(to));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{from} to {to}");
        }
        assert_eq!(plain(Path::new("a/b/../../c")), Path::new("c"));
    }
}
