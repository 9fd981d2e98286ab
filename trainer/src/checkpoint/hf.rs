//! Checkpoints: folders in Hugging Face layout, read strictly, written atomically.

use super::weight_files::{Found, compare, read_folder};
use crate::data::tokenizer::{Tokenizer, VOCABULARY};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::family::read_config;
use crate::nn::weights::{Weights, each_bytes, is_lora};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use schemas::file;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::Tensor;

pub(crate) use super::weight_files::TensorFile;
pub use super::weight_files::{ADAPTER_FILE, WEIGHTS_FILE, read_pickle, read_safetensors};

/// Key of a weight file's metadata for the step that produced it: `round 1, rl`.
pub(crate) const MADE_BY: &str = "ares.made_by";

/// Files that travel with a checkpoint unchanged.
const COMPANIONS: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// A student read from a folder.
#[derive(Debug)]
pub struct Loaded {
    /// Shape and constants, taken from the weights where the file disagrees.
    pub config: Box<dyn ModelConfig>,
    /// Weights with exactly the configuration's names and shapes.
    pub weights: Weights,
}

/// Reads a student.
///
/// # Errors
/// If a file is missing or broken; if weights are missing, unexpected or of another shape, all are listed.
pub fn read_student(folder: &Path) -> Result<Loaded> {
    read(folder, false)
}

/// Reads a text-only checkpoint (or a student); the weights for pictures may be missing.
///
/// # Errors
/// As [`read_student`].
pub fn read_text_model(folder: &Path) -> Result<Loaded> {
    read(folder, true)
}

fn read(folder: &Path, may_lack_pictures: bool) -> Result<Loaded> {
    let mut config = read_config(&folder.join("config.json"))?;
    let Found { path, mut tensors, mut problems } = read_folder(folder)?;
    problems.extend(config.follow(&mut tensors));
    let fusion = config.picture_shapes();
    let lacks_fusion = may_lack_pictures && fusion.iter().all(|(name, _)| !tensors.contains_key(name));
    let expected: BTreeMap<String, Vec<i64>> = config
        .shapes()
        .into_iter()
        .filter(|(name, _)| !(lacks_fusion && fusion.iter().any(|(fused, _)| fused == name)))
        .collect();
    problems.extend(compare(&expected, &tensors));
    if !problems.is_empty() {
        return Err(Error::Weights { path, problems });
    }
    Ok(Loaded { config, weights: Weights::new(tensors) })
}

/// Writes tensors as one safetensors file that appears atomically. One tensor at a time is copied, so a step checkpoint
/// needs no additional memory.
///
/// # Errors
/// If the write fails.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let tensors: BTreeMap<String, &Tensor> = tensors.into_iter().collect();
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let missing = || std::io::Error::other("no such tensor");
    write_tensors(path, &shapes, metadata, |name| {
        tensors.get(name).map(|tensor| tensor.shallow_clone()).ok_or_else(missing)
    })
}

/// As [`write_safetensors`], for tensors of these shapes, which `tensor` supplies by name, in the order of names.
///
/// # Errors
/// If the write fails, or a tensor cannot be supplied.
pub(crate) fn write_tensors(
    path: &Path,
    shapes: &BTreeMap<String, Vec<i64>>,
    metadata: &[(&str, String)],
    mut tensor: impl FnMut(&str) -> std::io::Result<Tensor>,
) -> Result<()> {
    let wrong = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let mut end = 0;
    let entries = shapes.iter().map(|(name, shape)| {
        let start = end;
        let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        end += shape.iter().product::<usize>() * size_of::<f32>();
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    });
    let metadata: BTreeMap<&str, &str> = metadata.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let header = Metadata::new(None, entries.collect()).map_err(|e| wrong(e.to_string()))?;
    let header = serde_json::to_value(&header).map_err(|e| wrong(e.to_string()))?;
    // In a fixed order, so that the same weights always give the same bytes.
    let mut header: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(header).map_err(|e| wrong(e.to_string()))?;
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut header = serde_json::to_string(&header).map_err(|e| wrong(e.to_string()))?;
    // Numbers begin at a multiple of eight bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    file::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        shapes.keys().try_for_each(|name| each_bytes(&tensor(name)?, |bytes| file.write_all(bytes)))
    })?;
    Ok(())
}

/// Writes a student as a whole checkpoint folder, which appears by renaming; tokenizer and generation settings
/// come from `companions`.
///
/// # Errors
/// If the write fails; then the folder does not appear.
pub fn write_student(
    folder: &Path,
    config: &dyn ModelConfig,
    weights: &Weights,
    companions: &Path,
) -> Result<()> {
    write_student_made_by(folder, config, weights, companions, None)
}

/// As [`write_student`], recording the step that produced it.
///
/// # Errors
/// If the write fails; then the folder does not appear.
pub fn write_student_made_by(
    folder: &Path,
    config: &dyn ModelConfig,
    weights: &Weights,
    companions: &Path,
    made_by: Option<&str>,
) -> Result<()> {
    write_folder(folder, |temporary| {
        let json = config_json(config)?;
        file::write_bytes(&temporary.join("config.json"), json.as_bytes())?;
        let plain = weights.iter().filter(|(name, _)| !is_lora(name));
        let tensors = plain.map(|(name, tensor)| (name.to_owned(), tensor));
        let mut metadata = vec![("format", "pt".to_owned())];
        metadata.extend(Tokenizer::vocabulary(companions).map(|vocabulary| (VOCABULARY, vocabulary)));
        metadata.extend(made_by.map(|made_by| (MADE_BY, made_by.to_owned())));
        write_safetensors(&temporary.join(WEIGHTS_FILE), tensors, &metadata)?;
        copy_companions(companions, temporary)?;
        let generation = temporary.join("generation_config.json");
        if !generation.is_file() {
            let tokens = config.special_tokens();
            let json = serde_json::json!({
                "decoder_start_token_id": tokens.start,
                "eos_token_id": tokens.eos,
                "pad_token_id": tokens.pad,
            });
            file::write_bytes(&generation, format!("{json:#}\n").as_bytes())?;
        }
        Ok(())
    })
}

/// The text of a model's `config.json`.
pub(super) fn config_json(config: &dyn ModelConfig) -> Result<String> {
    finished_json(config.to_json())
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    finished_json(serde_json::to_string_pretty(value))
}

fn finished_json(json: serde_json::Result<String>) -> Result<String> {
    json.map(|json| json + "\n")
        .map_err(|e| Error::Checkpoint { path: PathBuf::from("config.json"), message: e.to_string() })
}

pub(super) fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.is_file() {
            let bytes = fs::read(&source).map_err(Error::io("read", &source))?;
            file::write_bytes(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// Refuses an existing folder without a checkpoint, since training will write its checkpoint there.
///
/// # Errors
/// If it exists.
pub fn refuse_taken(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    Err(Error::input(
        format!("{}: expected a checkpoint or nothing, found a folder or file without one", folder.display()),
        "remove it, or choose another folder",
    ))
}

/// Fills a temporary folder, then renames it to `folder`, which must not exist.
pub(super) fn write_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = file::beside(folder)?;
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
    let done = fill(&temporary).and_then(|()| Ok(file::put(&temporary, folder)?));
    if done.is_err() {
        let _ = fs::remove_dir_all(&temporary); // the first error matters more
    }
    done
}
