//! LoRA: low-rank additions to linear layers, under PEFT's names.

use super::config::ModelConfig;
use crate::nn::lora_pair::{LoraPair, matrix};
use crate::nn::weights::{LORA, LoraScaling, Weights};
use schemas::settings::StudentSettings;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

pub use crate::nn::weights::is_lora;

/// The keyword for all linear layers in a list of layers.
const ALL_LINEAR: &str = "all-linear";

/// PEFT's `adapter_config.json`, the part that matters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Always `LORA`.
    pub peft_type: String,
    /// Rank.
    pub r: i64,
    /// Scale: alpha / rank, or alpha / √rank.
    pub lora_alpha: f64,
    /// Whether the scale is alpha / √rank (Kalajdzievski, 2023).
    #[serde(default)]
    pub use_rslora: bool,
    /// Dropout before A in training.
    pub lora_dropout: f64,
    /// Names of the layers with LoRA, or their last parts.
    pub target_modules: Vec<String>,
    /// Kind of model.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Whether biases are trained: always `none`.
    #[serde(default = "no_bias")]
    pub bias: String,
    /// Whether the adapter is meant for inference when loaded.
    #[serde(default)]
    pub inference_mode: bool,
    /// Folder of the base model.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
}

fn no_bias() -> String {
    "none".into()
}

impl LoraConfig {
    /// LoRA on every linear layer of the student.
    pub fn new(config: &dyn ModelConfig, rank: u32, alpha: f64, dropout: f64) -> Self {
        let names = config.linear_layers();
        Self {
            peft_type: "LORA".into(),
            r: i64::from(rank),
            lora_alpha: alpha,
            use_rslora: false,
            lora_dropout: dropout,
            target_modules: names.into_iter().map(ToOwned::to_owned).collect(),
            task_type: None,
            bias: no_bias(),
            inference_mode: true,
            base_model_name_or_path: None,
        }
    }

    /// The adapter of the settings for a student of this shape; `None` with rank 0. It has no dropout.
    ///
    /// # Errors
    /// As [`LoraConfig::on`].
    pub fn of(settings: &StudentSettings, config: &dyn ModelConfig) -> Result<Option<Self>, String> {
        let StudentSettings { lora_rank, lora_alpha, lora_targets, .. } = settings;
        let lora = (*lora_rank > 0).then(|| Self::on(config, lora_targets, *lora_rank, *lora_alpha, 0.0));
        lora.transpose()
    }

    /// LoRA on the layers that `targets` names: `all-linear`, or names of layers, or their last parts, separated by commas.
    ///
    /// # Errors
    /// If a name is not that of a linear layer; the message lists the available ones.
    pub fn on(
        config: &dyn ModelConfig,
        targets: &str,
        rank: u32,
        alpha: f64,
        dropout: f64,
    ) -> Result<Self, String> {
        let mut lora = Self::new(config, rank, alpha, dropout);
        if targets.trim() == ALL_LINEAR {
            return Ok(lora);
        }
        let known = lora.target_modules.join(", ");
        let mut names: Vec<String> = targets.split(',').map(|name| name.trim().to_owned()).collect();
        names.sort();
        names.dedup();
        for name in &names {
            lora.target_modules = vec![name.clone()];
            if lora.layers(config).is_empty() {
                return Err(format!("expected {ALL_LINEAR}, or some of {known}, found `{name}`"));
            }
        }
        lora.target_modules = names;
        Ok(lora)
    }

    /// Whether an adapter made by `other` has the same matrices and factor; dropout and names of files do not matter.
    pub fn fits(&self, other: &Self, config: &dyn ModelConfig) -> bool {
        self.r == other.r && self.scale() == other.scale() && self.layers(config) == other.layers(config)
    }

    /// Factor of the pairs.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Returns what is out of range.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=1 << 16).contains(&self.r) {
            return Err(format!("r: expected a rank from 1 to 65536, found {}", self.r));
        }
        if !self.lora_alpha.is_finite() {
            return Err(format!("lora_alpha: expected a finite number, found {}", self.lora_alpha));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(format!(
                "lora_dropout: expected at least 0 and below 1, found {}",
                self.lora_dropout
            ));
        }
        Ok(())
    }

    /// The linear layers with LoRA: name, inputs, outputs.
    pub fn layers(&self, config: &dyn ModelConfig) -> Vec<(String, i64, i64)> {
        let is_target = |layer: &str| {
            let names = |target: &String| {
                layer.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            self.target_modules.iter().any(names)
        };
        config
            .shapes()
            .into_iter()
            .filter_map(|(name, shape)| {
                let layer = name.strip_suffix(".weight")?;
                let [outputs, inputs] = shape[..] else { return None };
                (config.is_product(layer) && is_target(layer) && !config.is_uncalled(layer))
                    .then(|| (layer.to_owned(), inputs, outputs))
            })
            .collect()
    }

    /// Adds pairs to a student's weights: A uniform within ±1/√in (as PEFT's Kaiming start), B zero.
    pub fn add_to(&self, weights: &mut Weights, config: &dyn ModelConfig, seed: i64, device: Device) {
        tch::manual_seed(seed);
        for (layer, inputs, outputs) in self.layers(config) {
            let bound = (inputs as f64).powf(-0.5);
            let a = Tensor::rand([self.r, inputs], (Kind::Float, Device::Cpu)) * (2.0 * bound) - bound;
            let b = Tensor::zeros([outputs, self.r], (Kind::Float, device));
            self.insert(weights, &layer, a.to_device(device), b);
        }
        self.scale_all(weights);
    }

    /// Adds one given pair.
    pub fn insert(&self, weights: &mut Weights, layer: &str, a: Tensor, b: Tensor) {
        weights.insert(matrix(layer, "A"), a);
        weights.insert(matrix(layer, "B"), b);
    }

    /// Sets the factor of the pairs; needed once after adding them.
    pub fn scale_all(&self, weights: &mut Weights) {
        weights.set_scaling(Some(LoraScaling { factor: self.scale(), dropout: self.lora_dropout }));
    }
}

/// PEFT's name of a LoRA matrix: `base_model.model.<layer>.lora_A.weight`.
pub fn peft_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix(LORA)?;
    let (layer, side) = rest.rsplit_once('.')?;
    matches!(side, "A" | "B").then(|| format!("base_model.model.{layer}.lora_{side}.weight"))
}

/// Merges LoRA pairs into their layers' weights, in place, and drops them: the same student without an adapter. Weights that
/// share this memory change too.
pub fn merge(weights: &mut Weights) {
    let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let layer = name.strip_suffix(".weight").unwrap_or(&name);
        if let Some(pair) = LoraPair::find(weights, layer) {
            no_grad(|| drop(weights.get(&name).detach().g_add_(&pair.change())));
        }
    }
    let matrices: Vec<String> =
        weights.iter().map(|(name, _)| name).filter(|name| is_lora(name)).map(ToOwned::to_owned).collect();
    matrices.iter().for_each(|name| drop(weights.remove(name)));
    weights.set_scaling(None);
    weights.copies().release();
}

/// Weights for decoding in `kind`, with LoRA merged: matrices used in products are cast, all others shared. `None` if `weights`
/// already have this form.
pub fn decoding_weights(config: &dyn ModelConfig, weights: &Weights, kind: Kind) -> Option<Weights> {
    if kind == Kind::Float && weights.scaling().is_none() {
        return None;
    }
    let ready = no_grad(|| {
        let plain = weights.iter().filter(|(name, _)| !is_lora(name));
        plain
            .map(|(name, tensor)| {
                let layer = name.strip_suffix(".weight").unwrap_or(name);
                let added = match LoraPair::find(weights, layer) {
                    Some(pair) => tensor.detach() + pair.change(),
                    None => tensor.detach(),
                };
                let cast =
                    if tensor.dim() == 2 && config.is_product(layer) { added.to_kind(kind) } else { added };
                (name.to_owned(), cast)
            })
            .collect()
    });
    Some(Weights::new(ready))
}
