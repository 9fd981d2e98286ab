//! LoRA adapters in PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

use super::hf::{config_json, copy_companions, to_json, write_folder, write_safetensors};
use super::weight_files::{
    ADAPTER_FILE, check_numbers, compare, metadata_of, read_json, read_pickle, read_safetensors,
};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::lora::{LoraConfig, is_lora, peft_name};
use crate::nn::weights::Weights;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Tensor};

/// Unsupported settings of PEFT that change what an adapter computes.
const UNKNOWN: [&str; 16] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
    "monteclora_config",
];

/// PEFT's initializations that leave the base model's weights unchanged. All others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) also
/// change those, and the adapter's files do not contain them.
const KEEPS_BASE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Key of the weight file's metadata for the fingerprint of its base student.
const BASE: &str = "ares.policy";

/// Key for a hash of its training settings.
const TRAINING_HASH: &str = "ares.settings";

/// File of an adapter's settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The base student of an adapter.
#[derive(Debug)]
pub struct Base<'a> {
    /// Its shape.
    pub config: &'a dyn ModelConfig,
    /// Folder of its tokenizer.
    pub folder: &'a Path,
    /// Fingerprint of its weights.
    pub fingerprint: &'a str,
}

/// Writes the LoRA matrices of `weights` in PEFT's layout, together with the base model's `config.json` and tokenizer.
/// `training_hash` identifies its training settings.
///
/// # Errors
/// If the write fails; then the folder does not appear.
pub fn write_adapter(
    folder: &Path,
    lora: &LoraConfig,
    weights: &Weights,
    base: &Base<'_>,
    training_hash: &str,
) -> Result<()> {
    write_with(folder, lora, weights, base, &[(TRAINING_HASH, training_hash.to_owned())])
}

/// As [`write_adapter`], with further metadata.
pub(super) fn write_with(
    folder: &Path,
    lora: &LoraConfig,
    weights: &Weights,
    base: &Base<'_>,
    more: &[(&str, String)],
) -> Result<()> {
    write_folder(folder, |temporary| {
        schemas::file::write_bytes(&temporary.join(ADAPTER_CONFIG), to_json(lora)?.as_bytes())?;
        schemas::file::write_bytes(&temporary.join("config.json"), config_json(base.config)?.as_bytes())?;
        let matrices = weights.iter().filter(|(name, _)| is_lora(name));
        let tensors = matrices.filter_map(|(name, tensor)| Some((peft_name(name)?, tensor)));
        let mut metadata = vec![("format", "pt".to_owned()), (BASE, base.fingerprint.to_owned())];
        metadata.extend_from_slice(more);
        write_safetensors(&temporary.join(ADAPTER_FILE), tensors, &metadata)?;
        copy_companions(base.folder, temporary)
    })
}

/// Fingerprint of the student that the adapter in a folder was trained on, if recorded.
///
/// # Errors
/// If the file is broken.
pub fn base_of(folder: &Path) -> Result<Option<String>> {
    metadata_of(&folder.join(ADAPTER_FILE), BASE)
}

/// Hash of the settings that the adapter in a folder was trained with, if this program wrote it.
///
/// # Errors
/// If the file is broken.
pub fn training_hash_of(folder: &Path) -> Result<Option<String>> {
    metadata_of(&folder.join(ADAPTER_FILE), TRAINING_HASH)
}

/// An adapter's settings, checked.
///
/// # Errors
/// If the file is missing or broken, or this kind of adapter is not supported.
pub fn read_config(folder: &Path) -> Result<LoraConfig> {
    let path = folder.join(ADAPTER_CONFIG);
    let wrong = |message: String| Error::Checkpoint { path: path.clone(), message };
    check_config(&read_json(&path)?).map_err(wrong)?;
    let lora: LoraConfig = read_json(&path)?;
    lora.check().map_err(wrong)?;
    Ok(lora)
}

/// Adds the LoRA matrices of a PEFT folder to a student's weights.
///
/// # Errors
/// If a file is missing or broken, the kind of adapter is not supported, or a matrix does not fit the student; all are listed.
pub fn read_adapter(
    folder: &Path,
    config: &dyn ModelConfig,
    weights: &mut Weights,
    device: Device,
) -> Result<LoraConfig> {
    let lora = read_config(folder)?;
    let (path, pickled) = (folder.join(ADAPTER_FILE), folder.join("adapter_model.bin"));
    let is_pickle = !path.is_file() && pickled.is_file();
    let path = if is_pickle { pickled } else { path };
    let mut found = if is_pickle { read_pickle(&path)? } else { read_safetensors(&path)? };
    let mut problems = check_numbers(&mut found);
    problems.extend(drop_copies(&mut found, config, weights));
    // Matrices of a layer that is never called have no effect in the program that wrote them either.
    found.retain(|name, _| {
        let layer = name.strip_prefix("base_model.model.").and_then(|name| name.split_once(".lora_"));
        layer.is_none_or(|(layer, _)| !config.is_uncalled(layer))
    });
    let layers = lora.layers(config);
    let name = |layer: &str, side: &str| format!("base_model.model.{layer}.lora_{side}.weight");
    let mut expected = BTreeMap::new();
    for (layer, inputs, outputs) in &layers {
        expected.insert(name(layer, "A"), vec![lora.r, *inputs]);
        expected.insert(name(layer, "B"), vec![*outputs, lora.r]);
    }
    problems.extend(compare(&expected, &found));
    if !problems.is_empty() {
        return Err(Error::Weights { path, problems });
    }
    for (layer, ..) in &layers {
        if let (Some(a), Some(b)) = (found.remove(&name(layer, "A")), found.remove(&name(layer, "B"))) {
            lora.insert(weights, layer, a.to_device(device), b.to_device(device));
        }
    }
    lora.scale_all(weights);
    Ok(lora)
}

fn check_config(config: &Value) -> Result<(), String> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    if let Some(kind) = text("peft_type").filter(|kind| *kind != "LORA") {
        return Err(format!("peft_type: expected `LORA`, found `{kind}`"));
    }
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        return Err(format!("bias: expected `none`, found `{bias}`"));
    }
    for key in UNKNOWN {
        let found = &config[key];
        let unset = match found {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !unset {
            return Err(format!(
                "{key}: expected it unset, since such adapters are not supported, found {found}"
            ));
        }
    }
    let init = &config["init_lora_weights"];
    let keeps_base = match init {
        Value::Null | Value::Bool(_) => true,
        Value::String(name) => KEEPS_BASE.contains(&name.as_str()),
        _ => false,
    };
    if !keeps_base {
        return Err(format!(
            "init_lora_weights: expected true, false or one of {}, found {init}, which changes the base model's weights; \
             save it with save_pretrained(…, path_initial_model_for_weight_conversion=…) to make it a plain LoRA",
            KEEPS_BASE.join(", ")
        ));
    }
    match &config["target_modules"] {
        Value::Array(_) => Ok(()),
        found => Err(format!("target_modules: expected a list of layer names, found {found}")),
    }
}

/// Drops the base model's own weights, which PEFT stores together with adapters of the head; reports those that differ.
fn drop_copies(
    found: &mut BTreeMap<String, Tensor>,
    config: &dyn ModelConfig,
    weights: &Weights,
) -> Vec<String> {
    let mut problems = Vec::new();
    found.retain(|name, tensor| {
        let Some(layer) = name.strip_prefix("base_model.model.") else { return true };
        let layer = layer.replace(".base_layer.", ".");
        let base = weights.find(config.copied_by(&layer));
        let Some(base) = base else { return true };
        if base.size() != tensor.size() || !base.equal(&tensor.to_device(base.device())) {
            problems.push(format!("{name}: expected a copy of the student's {layer}, found other numbers"));
        }
        false
    });
    problems
}
