//! A vision transformer (Dosovitskiy et al., 2021) in Hugging Face's `vit` layout: picture → hidden states of patches.

use super::resize::{Filter, resized};
use crate::checkpoint::weight_files::{Found, read_folder, read_json};
use crate::error::{Error, Result};
use crate::nn::weights::fingerprint;
use schemas::provenance::sha256_hex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The part of `config.json` that shapes the network.
#[derive(Debug, Clone, Deserialize)]
pub struct VitConfig {
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Pictures are resized to this many pixels on each side.
    pub image_size: i64,
    /// Pixels of a patch on each side.
    pub patch_size: i64,
    /// Activation of the feed-forward layers: always `gelu`.
    #[serde(default = "default_activation")]
    pub hidden_act: String,
    /// Colours of a pixel: always 3.
    #[serde(default = "default_channels")]
    pub num_channels: i64,
    /// Always `vit`.
    #[serde(default = "default_model_type")]
    pub model_type: String,
    /// ε of the layer norms.
    #[serde(default = "default_epsilon")]
    pub layer_norm_eps: f64,
    /// Mean of each colour, from `preprocessor_config.json`.
    #[serde(skip, default = "half")]
    pub image_mean: [f64; 3],
    /// Deviation of each colour.
    #[serde(skip, default = "half")]
    pub image_std: [f64; 3],
    /// How pictures are resized: true for bicubic, else bilinear.
    #[serde(skip)]
    pub bicubic: bool,
}

fn default_epsilon() -> f64 {
    1e-12
}
fn default_activation() -> String {
    "gelu".into()
}
fn default_channels() -> i64 {
    3
}
fn default_model_type() -> String {
    "vit".into()
}
fn half() -> [f64; 3] {
    [0.5; 3]
}

/// The network.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    tensors: BTreeMap<String, Tensor>,
    /// Name of its folder; none for the trial network.
    name: Option<String>,
}

impl Vit {
    /// A small network made from a seed: 128 pixels, patches of 32, width 128. Its features are a random but fixed projection
    /// of the patches, enough for trials; use a trained network for real pictures.
    pub fn seeded(seed: i64) -> Self {
        let config = VitConfig {
            hidden_size: 128,
            num_hidden_layers: 1,
            num_attention_heads: 4,
            intermediate_size: 512,
            image_size: 128,
            patch_size: 32,
            hidden_act: default_activation(),
            num_channels: default_channels(),
            model_type: default_model_type(),
            layer_norm_eps: default_epsilon(),
            image_mean: half(),
            image_std: half(),
            bicubic: false,
        };
        tch::manual_seed(seed);
        let options = (Kind::Float, Device::Cpu);
        let tensors = shapes(&config).into_iter().map(|(name, shape)| {
            let tensor = if name.contains("layernorm") && name.ends_with("weight") {
                Tensor::ones(&shape, options)
            } else if name.ends_with("bias") {
                Tensor::zeros(&shape, options)
            } else if name.contains("projection") {
                colours_and_blocks(&shape)
            } else if name.contains("position") {
                Tensor::randn(&shape, options)
            } else if name.contains("dense") && !name.contains("attention") {
                // Wide enough to encode which content is at which position, not only content and position separately.
                Tensor::randn(&shape, options) * (shape[1] as f64).powf(-0.5)
            } else {
                Tensor::randn(&shape, options) * 0.02
            };
            (name, tensor)
        });
        Self { tensors: tensors.collect(), config, name: None }
    }

    /// Reads a Hugging Face `vit` folder; weights of a classifier head are ignored.
    ///
    /// # Errors
    /// If a file is missing or broken, or weights are missing or have another shape; all are listed.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let wrong = |message: String| Error::Checkpoint { path: path.clone(), message };
        let mut config: VitConfig = read_json(&path)?;
        config.check().map_err(wrong)?;
        read_preprocessor(&folder.join("preprocessor_config.json"), &mut config)?;
        let Found { path: file, tensors: mut found, mut problems } = read_folder(folder)?;
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes(&config) {
            let tensor = found.remove(&name).or_else(|| found.remove(&format!("vit.{name}")));
            match tensor {
                None => problems.push(format!("{name}: expected shape {shape:?}, found no such weight")),
                Some(tensor) if tensor.size() != shape => {
                    problems.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.size()));
                }
                Some(tensor) => {
                    tensors.insert(name, tensor);
                }
            }
        }
        if problems.is_empty() {
            let name = folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_owned()));
            let name = name.map_or_else(|| "vit".to_owned(), |name| name.to_string_lossy().into_owned());
            Ok(Self { config, tensors, name: Some(name) })
        } else {
            Err(Error::Weights { path: file, problems })
        }
    }

    /// Whether it is the random network for trials.
    pub fn is_trial(&self) -> bool {
        self.name.is_none()
    }

    /// Name of its folder; empty for the trial network.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Width of the features.
    pub fn width(&self) -> i64 {
        self.config.hidden_size
    }

    /// Rows of features of a picture: one for each patch, and the class token's.
    pub fn rows(&self) -> usize {
        1 + (self.config.image_size / self.config.patch_size).pow(2) as usize
    }

    /// sha256 over configuration and weights: everything that features depend on besides the picture.
    pub fn fingerprint(&self) -> String {
        let config = sha256_hex(format!("{:?}", self.config).as_bytes());
        format!("{config} {}", fingerprint(&self.tensors))
    }

    /// Moves the weights.
    #[must_use]
    pub fn to_device(self, device: Device) -> Self {
        let tensors =
            self.tensors.into_iter().map(|(name, tensor)| (name, tensor.to_device(device))).collect();
        Self { config: self.config, tensors, name: self.name }
    }

    /// Reads a picture as the network's input: [3, size, size], normalised.
    ///
    /// # Errors
    /// If the file is missing or not a picture.
    pub fn read_image(&self, path: &Path) -> Result<Tensor> {
        let wrong = |message: String| Error::Features { path: path.to_path_buf(), message };
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let picture = image::load_from_memory(&bytes).map_err(|e| wrong(format!("not a picture: {e}")))?;
        let size = self.config.image_size as u32;
        let filter = if self.config.bicubic { Filter::Bicubic } else { Filter::Bilinear };
        let pixels = resized(&picture.to_rgb8(), size, filter);
        let side = self.config.image_size;
        let tensor = Tensor::from_slice(pixels.as_raw()).view([side, side, 3]).permute([2, 0, 1]);
        let colour = |numbers: [f64; 3]| Tensor::from_slice(&numbers).to_kind(Kind::Float).view([3, 1, 1]);
        Ok((tensor.to_kind(Kind::Float) / 255.0 - colour(self.config.image_mean))
            / colour(self.config.image_std))
    }

    /// Last hidden states, after the final norm: `pixels` [batch, 3, size, size] → [batch, 1 + patches, width]; the
    /// first is the class token's.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let weight = |name: &str| &self.tensors[name];
        let linear = |x: &Tensor, name: &str| {
            x.linear(weight(&format!("{name}.weight")), Some(weight(&format!("{name}.bias"))))
        };
        let d = self.config.hidden_size;
        let norm = |x: &Tensor, name: &str| {
            let (weight, bias) = (weight(&format!("{name}.weight")), weight(&format!("{name}.bias")));
            x.layer_norm([d], Some(weight), Some(bias), self.config.layer_norm_eps, false)
        };
        let batch = pixels.size()[0];
        let patch = "embeddings.patch_embeddings.projection";
        let stride = [self.config.patch_size; 2];
        let bias = Some(weight("embeddings.patch_embeddings.projection.bias"));
        let patches = pixels.conv2d(weight(&format!("{patch}.weight")), bias, stride, [0, 0], [1, 1], 1);
        let patches = patches.flatten(2, 3).transpose(1, 2);
        let class = weight("embeddings.cls_token").expand([batch, 1, d], false);
        let mut x = Tensor::cat(&[class, patches], 1) + weight("embeddings.position_embeddings");
        let heads = self.config.num_attention_heads;
        for layer in 0..self.config.num_hidden_layers {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let normed = norm(&x, &name("layernorm_before"));
            let split = |part: &str| {
                let projected = linear(&normed, &name(&format!("attention.attention.{part}")));
                projected.view([batch, -1, heads, d / heads]).transpose(1, 2)
            };
            // Without the scores of all pairs of patches, which would take most of the memory.
            let mixed = Tensor::scaled_dot_product_attention(
                &split("query"),
                &split("key"),
                &split("value"),
                None::<&Tensor>,
                0.0,
                false,
                None,
                false,
            );
            let mixed = mixed.transpose(1, 2).contiguous();
            x += linear(&mixed.view([batch, -1, d]), &name("attention.output.dense"));
            let inner = linear(&norm(&x, &name("layernorm_after")), &name("intermediate.dense")).gelu("none");
            x += linear(&inner, &name("output.dense"));
        }
        norm(&x, "layernorm")
    }
}

/// Patch projection of a patch's mean colour and, half as strongly, the mean colours of its blocks of 8 pixels: with pure noise
/// over the pixels, the same shape would look different at each position. A patch of one colour has about the same weight as
/// its position.
fn colours_and_blocks(shape: &[i64]) -> Tensor {
    const BLOCK: i64 = 8;
    let options = (Kind::Float, Device::Cpu);
    let (width, colours, side) = (shape[0], shape[1], shape[2]);
    let blocks = side / BLOCK;
    let whole = Tensor::randn([width, colours, 1, 1], options);
    let parts = Tensor::randn([width, colours, blocks, blocks], options) * (blocks as f64 / 2.0);
    let parts = parts.repeat_interleave_self_int(BLOCK, 2, None).repeat_interleave_self_int(BLOCK, 3, None);
    (whole + parts) * (2.0 / (side * side) as f64)
}

impl VitConfig {
    fn check(&self) -> Result<(), String> {
        for (name, expected, found) in
            [("model_type", "vit", &self.model_type), ("hidden_act", "gelu", &self.hidden_act)]
        {
            if found != expected {
                return Err(format!("{name}: expected `{expected}`, found `{found}`"));
            }
        }
        for (name, found, most) in [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1024),
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("image_size", self.image_size, 1 << 14),
            ("patch_size", self.patch_size, 1 << 14),
        ] {
            if !(1..=most).contains(&found) {
                return Err(format!("{name}: expected a number from 1 to {most}, found {found}"));
            }
        }
        if self.num_channels != 3 {
            return Err(format!("num_channels: expected 3, found {}", self.num_channels));
        }
        for (name, whole, part, of) in [
            ("num_attention_heads", self.hidden_size, self.num_attention_heads, "hidden_size"),
            ("patch_size", self.image_size, self.patch_size, "image_size"),
        ] {
            if whole % part != 0 {
                return Err(format!("{name}: expected a divisor of {of} {whole}, found {part}"));
            }
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps <= 0.1) {
            let found = self.layer_norm_eps;
            return Err(format!("layer_norm_eps: expected a number above 0, at most 0.1, found {found}"));
        }
        Ok(())
    }
}

/// The part of `preprocessor_config.json` that describes the network's input.
#[derive(Deserialize)]
struct Preprocessor {
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    do_normalize: Option<bool>,
    do_rescale: Option<bool>,
    do_resize: Option<bool>,
    rescale_factor: Option<f64>,
    /// Pillow's number for the filter.
    resample: Option<i64>,
    size: Option<serde_json::Value>,
}

fn read_preprocessor(path: &Path, config: &mut VitConfig) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let wrong = |message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let file: Preprocessor = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    for (name, found) in [("do_resize", file.do_resize), ("do_rescale", file.do_rescale)] {
        if found == Some(false) {
            return Err(wrong(format!("{name}: expected true, found false")));
        }
    }
    if let Some(found) = file.rescale_factor.filter(|found| (found * 255.0 - 1.0).abs() > 1e-6) {
        return Err(wrong(format!("rescale_factor: expected 1/255, found {found}")));
    }
    let expected = config.image_size;
    let sides = match &file.size {
        Some(size @ serde_json::Value::Object(_)) => vec![&size["height"], &size["width"]],
        Some(size) => vec![size],
        None => Vec::new(),
    };
    if let Some(found) = sides.iter().find(|side| side.as_i64() != Some(expected)) {
        return Err(wrong(format!("size: expected {expected}, the model's image_size, found {found}")));
    }
    config.bicubic = match file.resample {
        None | Some(2) => false,
        Some(3) => true,
        Some(found) => {
            return Err(wrong(format!("resample: expected 2 (bilinear) or 3 (bicubic), found {found}")));
        }
    };
    let is_normal = file.do_normalize != Some(false);
    config.image_mean = if is_normal { file.image_mean.unwrap_or_else(half) } else { [0.0; 3] };
    config.image_std = if is_normal { file.image_std.unwrap_or_else(half) } else { [1.0; 3] };
    if config.image_std.iter().any(|&deviation| deviation <= 0.0) {
        return Err(wrong(format!("image_std: expected numbers above 0, found {:?}", config.image_std)));
    }
    Ok(())
}

fn shapes(config: &VitConfig) -> Vec<(String, Vec<i64>)> {
    let (d, ff, patch) = (config.hidden_size, config.intermediate_size, config.patch_size);
    let positions = 1 + (config.image_size / patch).pow(2);
    let mut shapes: Vec<(String, Vec<i64>)> = vec![
        ("embeddings.cls_token".into(), vec![1, 1, d]),
        ("embeddings.position_embeddings".into(), vec![1, positions, d]),
        ("embeddings.patch_embeddings.projection.weight".into(), vec![d, 3, patch, patch]),
        ("embeddings.patch_embeddings.projection.bias".into(), vec![d]),
        ("layernorm.weight".into(), vec![d]),
        ("layernorm.bias".into(), vec![d]),
    ];
    for layer in 0..config.num_hidden_layers {
        for (part, outputs, inputs) in [
            ("attention.attention.query", d, d),
            ("attention.attention.key", d, d),
            ("attention.attention.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", ff, d),
            ("output.dense", d, ff),
        ] {
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), vec![outputs, inputs]));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![outputs]));
        }
        for part in ["layernorm_before", "layernorm_after"] {
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), vec![d]));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![d]));
        }
    }
    shapes
}
