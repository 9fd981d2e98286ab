//! Shape of a student: the `config.json` of a Hugging Face T5, with the sizes of the fusion layers.

use crate::checkpoint::weight_files::{parse_json, read_text};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Shape and constants of the multimodal T5; names are those of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudentConfig {
    /// Width of the hidden states.
    pub d_model: i64,
    /// Width of one attention head's keys and values.
    pub d_kv: i64,
    /// Inner width of the feed-forward layers.
    pub d_ff: i64,
    /// Encoder blocks.
    pub num_layers: i64,
    /// Decoder blocks; as many as in the encoder if the file does not specify it.
    #[serde(default)]
    pub num_decoder_layers: Option<i64>,
    /// Attention heads.
    pub num_heads: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// `relu` or `gated-gelu`.
    #[serde(default = "default_feed_forward")]
    pub feed_forward_proj: String,
    /// Buckets of the relative position bias.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: i64,
    /// Distance from which on all positions share the last bucket.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: i64,
    /// Added to the mean square in the layer norm.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f64,
    /// Dropout in training.
    #[serde(default = "default_dropout")]
    pub dropout_rate: f64,
    /// Whether the embedding is also the output head.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
    /// Whether the head's input is scaled by d_model^-0.5; if absent, it is scaled if and only if the head is tied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_decoder_outputs: Option<bool>,
    /// Padding token.
    #[serde(default)]
    pub pad_token_id: i64,
    /// End-of-sequence token; a file may have it in a list.
    #[serde(default = "default_eos", deserialize_with = "first_token")]
    pub eos_token_id: i64,
    /// Token that a decoder sequence begins with.
    #[serde(default)]
    pub decoder_start_token_id: i64,
    /// Width of one patch's image features.
    #[serde(default = "default_image_width")]
    pub image_feature_width: i64,
    /// Always `t5`, so that Hugging Face recognizes the file.
    #[serde(default = "default_model_type")]
    pub model_type: String,
    /// Always true.
    #[serde(default = "default_true")]
    pub is_encoder_decoder: bool,
    /// Class that the public code loads this checkpoint with.
    #[serde(default = "architectures")]
    pub architectures: Vec<String>,
}

/// A token, or a list of tokens, as newer versions of transformers write it.
fn first_token<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a token or a list of tokens")]
    enum Tokens {
        One(i64),
        Several(Vec<i64>),
    }
    let tokens = match Tokens::deserialize(deserializer)? {
        Tokens::One(token) => vec![token],
        Tokens::Several(tokens) => tokens,
    };
    match tokens.as_slice() {
        [first, others @ ..] if others.iter().all(|other| other == first) => Ok(*first),
        found => {
            Err(serde::de::Error::custom(format!("expected a single end-of-sequence token, found {found:?}")))
        }
    }
}

fn default_feed_forward() -> String {
    "relu".into()
}
fn default_buckets() -> i64 {
    32
}
fn default_distance() -> i64 {
    128
}
fn default_epsilon() -> f64 {
    1e-6
}
fn default_dropout() -> f64 {
    0.1
}
fn default_true() -> bool {
    true
}
fn default_eos() -> i64 {
    1
}
fn default_image_width() -> i64 {
    1024
}
fn default_model_type() -> String {
    "t5".into()
}
/// Class that the public code loads a student with.
pub(super) fn architectures() -> Vec<String> {
    vec!["T5ForMultimodalGeneration".into()]
}

impl StudentConfig {
    /// A shape by name: `tiny` (for trials), `small` (T5 v1.1 small), `base` and `large` (Flan-Alpaca).
    pub fn named(shape: &str, vocab_size: i64, image_feature_width: i64) -> Option<Self> {
        let (d_model, d_kv, d_ff, layers, heads) = match shape {
            "tiny" => (128, 32, 384, 2, 4),
            "small" => (512, 64, 1024, 8, 6),
            "base" => (768, 64, 2048, 12, 12),
            "large" => (1024, 64, 2816, 24, 16),
            _ => return None,
        };
        Some(Self {
            d_model,
            d_kv,
            d_ff,
            num_layers: layers,
            num_decoder_layers: Some(layers),
            num_heads: heads,
            vocab_size,
            feed_forward_proj: "gated-gelu".into(),
            relative_attention_num_buckets: default_buckets(),
            relative_attention_max_distance: default_distance(),
            layer_norm_epsilon: default_epsilon(),
            dropout_rate: default_dropout(),
            tie_word_embeddings: false,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: 1,
            decoder_start_token_id: 0,
            image_feature_width,
            model_type: default_model_type(),
            is_encoder_decoder: true,
            architectures: architectures(),
        })
    }

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// If the file is missing, is not a T5 config, or a size is out of range.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &read_text(path)?)
    }

    /// Checks the text of the `config.json` at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let config: Self = parse_json(path, text)?;
        config.check().map_err(|message| Error::Checkpoint { path: path.to_path_buf(), message })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.model_type != "t5" {
            return Err(format!("model_type: expected `t5`, found `{}`", self.model_type));
        }
        if !matches!(self.feed_forward_proj.as_str(), "relu" | "gated-gelu") {
            let found = &self.feed_forward_proj;
            return Err(format!("feed_forward_proj: expected `relu` or `gated-gelu`, found `{found}`"));
        }
        let sizes = [
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 16),
            ("d_ff", self.d_ff, 1 << 20),
            ("num_layers", self.num_layers, 1024),
            ("num_decoder_layers", self.decoder_layers(), 1024),
            ("num_heads", self.num_heads, 1024),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("image_feature_width", self.image_feature_width, 1 << 16),
            ("relative_attention_max_distance", self.relative_attention_max_distance, 1 << 20),
        ];
        for (name, found, most) in sizes {
            if !(1..=most).contains(&found) {
                return Err(format!("{name}: expected a number from 1 to {most}, found {found}"));
            }
        }
        let (buckets, distance) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if !(4..=1 << 16).contains(&buckets) {
            return Err(format!(
                "relative_attention_num_buckets: expected a number from 4 to 65536, found {buckets}"
            ));
        }
        // The decoder's first half of buckets holds one distance each; the others must cover larger distances.
        if distance <= buckets / 2 {
            return Err(format!(
                "relative_attention_max_distance: expected more than {}, half of the buckets, found {distance}",
                buckets / 2
            ));
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return Err(format!(
                "dropout_rate: expected at least 0 and below 1, found {}",
                self.dropout_rate
            ));
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon <= 0.1) {
            let found = self.layer_norm_epsilon;
            return Err(format!("layer_norm_epsilon: expected a number above 0, at most 0.1, found {found}"));
        }
        for (name, id) in [
            ("pad_token_id", self.pad_token_id),
            ("eos_token_id", self.eos_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
        ] {
            if !(0..self.vocab_size).contains(&id) {
                return Err(format!("{name}: expected a token below {}, found {id}", self.vocab_size));
            }
        }
        Ok(())
    }

    /// Decoder blocks.
    pub fn decoder_layers(&self) -> i64 {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Whether the feed-forward layers are gated.
    pub fn is_gated(&self) -> bool {
        self.feed_forward_proj == "gated-gelu"
    }

    /// Factor on the head's input.
    pub fn head_scale(&self) -> Option<f64> {
        self.scale_decoder_outputs
            .unwrap_or(self.tie_word_embeddings)
            .then(|| (self.d_model as f64).powf(-0.5))
    }

    /// Name and shape of every weight, in the names of Hugging Face and MM-CoT, sorted.
    pub fn shapes(&self) -> Vec<(String, Vec<i64>)> {
        let (d, inner, ff) = (self.d_model, self.num_heads * self.d_kv, self.d_ff);
        let mut shapes = vec![("shared.weight".to_owned(), vec![self.vocab_size, d])];
        let mut attention = |prefix: &str, layer: &str, relative: bool| {
            for name in ["q", "k", "v"] {
                shapes.push((format!("{prefix}.{layer}.{name}.weight"), vec![inner, d]));
            }
            shapes.push((format!("{prefix}.{layer}.o.weight"), vec![d, inner]));
            shapes.push((format!("{prefix}.layer_norm.weight"), vec![d]));
            if relative {
                let shape = vec![self.relative_attention_num_buckets, self.num_heads];
                shapes.push((format!("{prefix}.{layer}.relative_attention_bias.weight"), shape));
            }
        };
        for block in 0..self.num_layers {
            attention(&format!("encoder.block.{block}.layer.0"), "SelfAttention", block == 0);
        }
        for block in 0..self.decoder_layers() {
            attention(&format!("decoder.block.{block}.layer.0"), "SelfAttention", block == 0);
            attention(&format!("decoder.block.{block}.layer.1"), "EncDecAttention", false);
        }
        let encoder = (0..self.num_layers).map(|block| format!("encoder.block.{block}.layer.1"));
        let decoder = (0..self.decoder_layers()).map(|block| format!("decoder.block.{block}.layer.2"));
        for prefix in encoder.chain(decoder) {
            for name in if self.is_gated() { &["wi_0", "wi_1"][..] } else { &["wi"][..] } {
                shapes.push((format!("{prefix}.DenseReluDense.{name}.weight"), vec![ff, d]));
            }
            shapes.push((format!("{prefix}.DenseReluDense.wo.weight"), vec![d, ff]));
            shapes.push((format!("{prefix}.layer_norm.weight"), vec![d]));
        }
        shapes.push(("encoder.final_layer_norm.weight".into(), vec![d]));
        shapes.push(("decoder.final_layer_norm.weight".into(), vec![d]));
        shapes.extend(self.fusion_shapes());
        if !self.tie_word_embeddings {
            shapes.push(("lm_head.weight".into(), vec![self.vocab_size, d]));
        }
        shapes.sort();
        shapes
    }

    /// Name and shape of the fusion layers' weights.
    pub fn fusion_shapes(&self) -> Vec<(String, Vec<i64>)> {
        let (d, p) = (self.d_model, self.image_feature_width);
        [
            ("encoder.image_dense.weight", vec![d, p]),
            ("encoder.image_dense.bias", vec![d]),
            ("encoder.mha_layer.in_proj_weight", vec![3 * d, d]),
            ("encoder.mha_layer.in_proj_bias", vec![3 * d]),
            ("encoder.mha_layer.out_proj.weight", vec![d, d]),
            ("encoder.mha_layer.out_proj.bias", vec![d]),
            ("encoder.gate_dense.weight", vec![d, 2 * d]),
            ("encoder.gate_dense.bias", vec![d]),
        ]
        .map(|(name, shape)| (name.to_owned(), shape))
        .to_vec()
    }
}
