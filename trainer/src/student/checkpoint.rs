//! Checkpoints: folders in Hugging Face layout, read strictly, written beside and renamed.

use super::config::StudentConfig;
use super::lora::{LoraConfig, is_lora, peft_name};
use super::weights::{Weights, bytes_of};
use crate::error::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// File of the weights within a checkpoint.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Files that travel with a checkpoint unchanged.
const COMPANIONS: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// A student read from a folder.
#[derive(Debug)]
pub struct Loaded {
    /// Shape and constants; `tie_word_embeddings` and `image_feature_width` follow the weights.
    pub config: StudentConfig,
    /// Weights with exactly the configuration's names and shapes.
    pub weights: Weights,
}

/// Reads a student with fusion layers.
///
/// # Errors
/// Where a file is missing or broken; where a weight is missing, too much or of another shape, all are listed.
pub fn read_student(folder: &Path) -> Result<Loaded> {
    read(folder, false)
}

/// Reads a plain Hugging Face T5 (or a student); fusion layers may be missing and are then not in the weights.
///
/// # Errors
/// As [`read_student`].
pub fn read_t5(folder: &Path) -> Result<Loaded> {
    read(folder, true)
}

fn read(folder: &Path, may_lack_fusion: bool) -> Result<Loaded> {
    let mut config = StudentConfig::read(&folder.join("config.json"))?;
    let mut tensors = BTreeMap::new();
    for file in weight_files(folder)? {
        tensors.extend(read_safetensors(&file)?);
    }
    let path = folder.join(WEIGHTS_FILE);
    if let Some(dense) = tensors.get("encoder.image_dense.weight")
        && let [_, width] = dense.size()[..]
    {
        config.image_feature_width = width;
    }
    let mut problems = drop_aliases(&mut tensors);
    settle_head(&mut config, &mut tensors);
    let fusion = config.fusion_shapes();
    let lacks_fusion = may_lack_fusion && fusion.iter().all(|(name, _)| !tensors.contains_key(name));
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

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(WEIGHTS_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = fs::read_to_string(&index).map_err(Error::io("read", &index))?;
        let Index { weight_map } = serde_json::from_str(&text)
            .map_err(|e| Error::Checkpoint { path: index.clone(), message: e.to_string() })?;
        let mut names: Vec<String> = weight_map.into_values().collect();
        names.sort();
        names.dedup();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            let message = format!("expected file names in this folder, found `{name}`");
            return Err(Error::Checkpoint { path: index, message });
        }
        return Ok(names.into_iter().map(|name| folder.join(name)).collect());
    }
    let pickled = folder.join("pytorch_model.bin");
    if pickled.is_file() {
        let message = "is a Python pickle, expected model.safetensors beside it; convert it once with: python -c \
             \"import torch, safetensors.torch as s; w = torch.load('pytorch_model.bin', map_location='cpu', \
             weights_only=True); s.save_file({k: v.clone().contiguous() for k, v in w.items()}, \
             'model.safetensors')\"";
        return Err(Error::Checkpoint { path: pickled, message: message.into() });
    }
    let message =
        "expected a checkpoint with model.safetensors (or model.safetensors.index.json), found none";
    Err(Error::Checkpoint { path: folder.to_path_buf(), message: message.into() })
}

/// Reads all tensors of a file as float32 on the CPU.
///
/// # Errors
/// Where the file is missing, is no safetensors file, or holds numbers of another kind.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mapped = map_file(path)?;
    let wrong = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let file = SafeTensors::deserialize(&mapped).map_err(|e| wrong(format!("no safetensors file: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        tensors.insert(
            name.clone(),
            to_tensor(&view).map_err(|found| {
                wrong(format!("tensor `{name}`: expected F32, F16, BF16, F64 or I64, found {found}"))
            })?,
        );
    }
    Ok(tensors)
}

/// A tensor of a safetensors view; floats become float32, integers stay.
pub(crate) fn to_tensor(view: &TensorView<'_>) -> Result<Tensor, String> {
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        other => return Err(format!("{other:?}")),
    };
    let tensor = Tensor::from_data_size(view.data(), &shape, kind);
    Ok(if kind == Kind::Int64 { tensor } else { tensor.to_kind(Kind::Float) })
}

/// Maps a file into memory.
///
/// # Errors
/// Where it cannot be opened.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: checkpoints and features are written beside and renamed, never changed in place.
    unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))
}

/// Drops the copies of the embedding that older checkpoints carry; reports those that differ from it.
fn drop_aliases(tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    let mut problems = Vec::new();
    for alias in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
        let Some(copy) = tensors.remove(alias) else { continue };
        match tensors.get("shared.weight") {
            Some(shared) if shared.size() == copy.size() && shared.equal(&copy) => {}
            Some(_) => {
                problems.push(format!("{alias}: expected a copy of shared.weight, found other numbers"))
            }
            None => {
                tensors.insert("shared.weight".into(), copy);
            }
        }
    }
    problems
}

/// Whether the head is the embedding, is told by the weights: files re-saved by newer libraries say it wrongly.
fn settle_head(config: &mut StudentConfig, tensors: &mut BTreeMap<String, Tensor>) {
    let same = match (tensors.get("lm_head.weight"), tensors.get("shared.weight")) {
        (Some(head), Some(shared)) => head.size() == shared.size() && head.equal(shared),
        (None, Some(_)) => true,
        _ => false,
    };
    if config.tie_word_embeddings && same {
        tensors.remove("lm_head.weight");
    } else if tensors.contains_key("lm_head.weight") {
        if config.tie_word_embeddings && config.scale_decoder_outputs.is_none() {
            // The head is its own, so nothing is scaled unless the file says so.
            config.scale_decoder_outputs = Some(false);
        }
        config.tie_word_embeddings = false;
    }
}

fn compare(expected: &BTreeMap<String, Vec<i64>>, found: &BTreeMap<String, Tensor>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in expected {
        match found.get(name) {
            None => problems.push(format!("{name}: expected shape {shape:?}, found no such weight")),
            Some(tensor) if &tensor.size() != shape => {
                problems.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.size()));
            }
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        problems.push(format!("{name}: expected no such weight, found shape {:?}", found[name].size()));
    }
    problems
}

/// Writes tensors as one safetensors file that appears whole or not at all.
///
/// # Errors
/// Where the disk refuses.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let data: Vec<(String, Vec<usize>, Vec<u8>, Dtype)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let shape = tensor.size().iter().map(|&size| size as usize).collect();
            (name, shape, bytes_of(tensor), Dtype::F32)
        })
        .collect();
    let wrong = |e: safetensors::SafeTensorError| Error::Checkpoint {
        path: path.to_path_buf(),
        message: e.to_string(),
    };
    let views: Vec<(&str, TensorView<'_>)> = data
        .iter()
        .map(|(name, shape, bytes, dtype)| {
            TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(wrong)?;
    Ok(schemas::table::write_bytes(path, &bytes)?)
}

/// Writes a student as a whole checkpoint folder, which appears by renaming; tokenizer and generation settings
/// come from `companions`.
///
/// # Errors
/// Where the disk refuses; then the folder does not appear.
pub fn write_student(
    folder: &Path,
    config: &StudentConfig,
    weights: &Weights,
    companions: &Path,
) -> Result<()> {
    write_folder(folder, |temporary| {
        let json = to_json(config)?;
        schemas::table::write_bytes(&temporary.join("config.json"), json.as_bytes())?;
        let plain = weights.iter().filter(|(name, _)| !name.starts_with("lora."));
        let tensors = plain.map(|(name, tensor)| (name.to_owned(), tensor));
        write_safetensors(&temporary.join(WEIGHTS_FILE), tensors, &[("format", "pt".into())])?;
        copy_companions(companions, temporary)?;
        let generation = temporary.join("generation_config.json");
        if !generation.is_file() {
            let json = serde_json::json!({
                "decoder_start_token_id": config.decoder_start_token_id,
                "eos_token_id": config.eos_token_id,
                "pad_token_id": config.pad_token_id,
            });
            schemas::table::write_bytes(&generation, format!("{json:#}\n").as_bytes())?;
        }
        Ok(())
    })
}

/// Writes the LoRA matrices of `weights` in PEFT's layout, beside the base model's `config.json` and tokenizer.
///
/// # Errors
/// Where the disk refuses; then the folder does not appear.
pub fn write_adapter(
    folder: &Path,
    lora: &LoraConfig,
    config: &StudentConfig,
    weights: &Weights,
    companions: &Path,
) -> Result<()> {
    write_folder(folder, |temporary| {
        schemas::table::write_bytes(&temporary.join("adapter_config.json"), to_json(lora)?.as_bytes())?;
        schemas::table::write_bytes(&temporary.join("config.json"), to_json(config)?.as_bytes())?;
        let matrices = weights.iter().filter(|(name, _)| is_lora(name));
        let tensors = matrices.filter_map(|(name, tensor)| Some((peft_name(name)?, tensor)));
        write_safetensors(&temporary.join("adapter_model.safetensors"), tensors, &[("format", "pt".into())])?;
        copy_companions(companions, temporary)
    })
}

/// Adds the LoRA matrices of a PEFT folder to a student's weights.
///
/// # Errors
/// Where a file is missing or broken, or a matrix does not fit the student; all are listed.
pub fn read_adapter(
    folder: &Path,
    config: &StudentConfig,
    weights: &mut Weights,
    device: Device,
) -> Result<LoraConfig> {
    let config_path = folder.join("adapter_config.json");
    let text = fs::read_to_string(&config_path).map_err(Error::io("read", &config_path))?;
    let lora: LoraConfig = serde_json::from_str(&text)
        .map_err(|e| Error::Checkpoint { path: config_path.clone(), message: e.to_string() })?;
    let path = folder.join("adapter_model.safetensors");
    let mut found = read_safetensors(&path)?;
    // PyTorch's attention never calls this layer, so a pair beside it has no effect there either.
    found.retain(|name, _| !name.contains("mha_layer.out_proj.lora_"));
    let layers = lora.layers(config);
    let name = |layer: &str, side: &str| format!("base_model.model.{layer}.lora_{side}.weight");
    let mut expected = BTreeMap::new();
    for (layer, inputs, outputs) in &layers {
        expected.insert(name(layer, "A"), vec![lora.r, *inputs]);
        expected.insert(name(layer, "B"), vec![*outputs, lora.r]);
    }
    let problems = compare(&expected, &found);
    if !problems.is_empty() {
        return Err(Error::Weights { path, problems });
    }
    for (layer, ..) in &layers {
        if let (Some(a), Some(b)) = (found.remove(&name(layer, "A")), found.remove(&name(layer, "B"))) {
            lora.insert(weights, layer, a.to_device(device), b.to_device(device));
        }
    }
    lora.insert_scale(weights);
    Ok(lora)
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|json| json + "\n")
        .map_err(|e| Error::Checkpoint { path: PathBuf::from("config.json"), message: e.to_string() })
}

fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.is_file() {
            let bytes = fs::read(&source).map_err(Error::io("read", &source))?;
            schemas::table::write_bytes(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// Fills a temporary folder, then renames it to `folder`, which must not exist.
fn write_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".writing-{name}"));
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(Error::io("remove", &temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
    let done =
        fill(&temporary).and_then(|()| fs::rename(&temporary, folder).map_err(Error::io("rename", folder)));
    if done.is_err() {
        let _ = fs::remove_dir_all(&temporary); // the first error matters more
    }
    done?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io("sync", parent))
}
