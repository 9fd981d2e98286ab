//! LoRA: low-rank additions to linear layers, under PEFT's names.

use super::config::StudentConfig;
use super::dropout::dropout;
use super::mode::Mode;
use super::weights::Weights;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

/// Marks LoRA weights among a student's weights: `lora.<layer>.A` and `lora.<layer>.B`.
const PREFIX: &str = "lora.";
/// Holds the factor and dropout of all pairs: [scale, dropout].
const SCALE: &str = "lora.scale";

/// The two matrices of one linear layer: Δy = scale · dropout(x)·Aᵀ·Bᵀ, A [r, in], B [out, r].
#[derive(Debug)]
pub struct LoraPair {
    a: Tensor,
    b: Tensor,
    scale: f64,
    dropout: f64,
}

impl LoraPair {
    /// The pair of `layer`, if these weights contain one.
    pub fn find(weights: &Weights, layer: &str) -> Option<Self> {
        let a = weights.find(&format!("{PREFIX}{layer}.A"))?;
        let b = weights.find(&format!("{PREFIX}{layer}.B"))?;
        let scale = weights.find(SCALE)?;
        Some(Self {
            a: a.shallow_clone(),
            b: b.shallow_clone(),
            scale: scale.double_value(&[0]),
            dropout: scale.double_value(&[1]),
        })
    }

    /// The addition for `x` [.., in] → [.., out].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let none = None::<&Tensor>;
        let low = dropout(x, self.dropout, mode.train).linear(&mode.cast(&self.a), none);
        low.linear(&mode.cast(&self.b), none) * self.scale
    }
}

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
    ///
    /// The fusion attention's `out_proj` is left out: PyTorch's attention reads its weight without calling the
    /// layer, so a LoRA there never gets a gradient.
    pub fn new(config: &StudentConfig, rank: u32, alpha: f64, dropout: f64) -> Self {
        let mut names = vec!["q", "k", "v", "o", "wo", "image_dense", "gate_dense"];
        names.extend(if config.is_gated() { &["wi_0", "wi_1"][..] } else { &["wi"][..] });
        if !config.tie_word_embeddings {
            names.push("lm_head");
        }
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

    /// Factor of the pairs.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Says what is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
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
    pub fn layers(&self, config: &StudentConfig) -> Vec<(String, i64, i64)> {
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
                (is_target(layer) && layer != "encoder.mha_layer.out_proj")
                    .then(|| (layer.to_owned(), inputs, outputs))
            })
            .collect()
    }

    /// Adds pairs to a student's weights: A uniform within ±1/√in (as PEFT's Kaiming start), B zero.
    pub fn add_to(&self, weights: &mut Weights, config: &StudentConfig, seed: i64, device: Device) {
        tch::manual_seed(seed);
        for (layer, inputs, outputs) in self.layers(config) {
            let bound = (inputs as f64).powf(-0.5);
            let a = Tensor::rand([self.r, inputs], (Kind::Float, Device::Cpu)) * (2.0 * bound) - bound;
            let b = Tensor::zeros([outputs, self.r], (Kind::Float, device));
            self.insert(weights, &layer, a.to_device(device), b);
        }
        self.insert_scale(weights);
    }

    /// Adds one given pair.
    pub fn insert(&self, weights: &mut Weights, layer: &str, a: Tensor, b: Tensor) {
        weights.insert(format!("{PREFIX}{layer}.A"), a);
        weights.insert(format!("{PREFIX}{layer}.B"), b);
    }

    /// Adds the common factor; needed once after the pairs.
    pub fn insert_scale(&self, weights: &mut Weights) {
        weights.insert(SCALE, Tensor::from_slice(&[self.scale(), self.lora_dropout]));
    }
}

/// True for the name of a LoRA matrix among a student's weights.
pub fn is_lora(name: &str) -> bool {
    name.starts_with(PREFIX) && name != SCALE
}

/// PEFT's name of a LoRA matrix: `base_model.model.<layer>.lora_A.weight`.
pub fn peft_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let (layer, side) = rest.rsplit_once('.')?;
    matches!(side, "A" | "B").then(|| format!("base_model.model.{layer}.lora_{side}.weight"))
}

/// Weights for decoding in `kind`, with LoRA pairs added to their layers: matrices that enter products are cast, all
/// others shared. `None` if `weights` already are so.
pub fn decoding_weights(weights: &Weights, kind: Kind) -> Option<Weights> {
    let has_lora = weights.iter().any(|(name, _)| is_lora(name));
    if kind == Kind::Float && !has_lora {
        return None;
    }
    let enters_products = |name: &str, tensor: &Tensor| {
        tensor.dim() == 2 && name != "shared.weight" && !name.contains("relative_attention_bias")
    };
    let ready = no_grad(|| {
        let plain = weights.iter().filter(|(name, _)| !name.starts_with("lora."));
        plain
            .map(|(name, tensor)| {
                let layer = name.strip_suffix(".weight").unwrap_or(name);
                let added = match LoraPair::find(weights, layer) {
                    Some(pair) => {
                        let eye = Tensor::eye(tensor.size()[1], (Kind::Float, tensor.device()));
                        tensor.detach() + pair.forward(&eye, Mode::EVAL).transpose(0, 1)
                    }
                    None => tensor.detach(),
                };
                let cast = if enters_products(name, tensor) { added.to_kind(kind) } else { added };
                (name.to_owned(), cast)
            })
            .collect()
    });
    Some(Weights::new(ready))
}
