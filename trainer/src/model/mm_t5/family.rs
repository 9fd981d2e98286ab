//! The multimodal T5 as a `ModelConfig`, and its `Family`.

use super::config::StudentConfig;
use super::cpu_decoder::T5CpuDecoder;
use super::initial::initial;
use super::network::MmT5;
use super::{checkpoint, footprint};
use crate::error::Result;
use crate::model::config::{Family, ModelConfig, Shapes, SpecialTokens};
use crate::model::footprint::{Decoding, Pass};
use crate::model::network::{CpuDecoder, Model};
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// T5 checkpoints, with fusion layers or without.
pub const MM_T5: Family = Family { model_type: "t5", read, named };

fn read(path: &Path, text: &str) -> Result<Box<dyn ModelConfig>> {
    Ok(Box::new(StudentConfig::parse(path, text)?))
}

fn named(shape: &str, vocabulary: i64, image_width: i64) -> Option<Box<dyn ModelConfig>> {
    Some(Box::new(StudentConfig::named(shape, vocabulary, image_width)?))
}

impl ModelConfig for StudentConfig {
    fn to_shared(&self) -> Rc<dyn ModelConfig> {
        Rc::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn special_tokens(&self) -> SpecialTokens {
        SpecialTokens { pad: self.pad_token_id, eos: self.eos_token_id, start: self.decoder_start_token_id }
    }

    fn vocabulary(&self) -> i64 {
        self.vocab_size
    }

    fn width(&self) -> i64 {
        self.d_model
    }

    fn image_width(&self) -> i64 {
        self.image_feature_width
    }

    fn shapes(&self) -> Shapes {
        Self::shapes(self)
    }

    fn initial(&self, name: &str, shape: &[i64]) -> Tensor {
        initial(self, name, shape)
    }

    fn linear_layers(&self) -> Vec<&'static str> {
        let mut names = vec!["q", "k", "v", "o", "wo", "image_dense", "gate_dense"];
        names.extend(if self.is_gated() { &["wi_0", "wi_1"][..] } else { &["wi"][..] });
        names.extend(self.head_layer());
        names
    }

    fn is_product(&self, layer: &str) -> bool {
        layer != "shared" && !layer.contains("relative_attention_bias")
    }

    fn is_uncalled(&self, layer: &str) -> bool {
        layer == "encoder.mha_layer.out_proj"
    }

    fn copied_by<'a>(&self, name: &'a str) -> &'a str {
        match name {
            "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight" => "shared.weight",
            "lm_head.weight" if self.tie_word_embeddings => "shared.weight",
            _ => name,
        }
    }

    fn build(&self, weights: &Weights) -> Box<dyn Model> {
        Box::new(MmT5::new(weights, self))
    }

    fn cpu_decoder(
        &self,
        encoder: &Weights,
        decoder: &Weights,
        kind: Kind,
        mode: Mode,
        threads: usize,
    ) -> Result<Option<Box<dyn CpuDecoder>>> {
        let encoder = MmT5::new(encoder, self);
        Ok(Some(Box::new(T5CpuDecoder::new((encoder, mode), decoder, self, kind, threads)?)))
    }

    fn follow(&mut self, tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
        checkpoint::follow(self, tensors)
    }

    fn follow_shapes(&mut self, shapes: &BTreeMap<String, Vec<i64>>) {
        checkpoint::follow_shapes(self, shapes);
    }

    fn picture_shapes(&self) -> Shapes {
        self.fusion_shapes()
    }

    fn see_pictures(&mut self, image_width: i64) {
        self.image_feature_width = image_width;
        self.architectures = super::config::architectures();
    }

    fn dropout(&self) -> f64 {
        self.dropout_rate
    }

    fn set_dropout(&mut self, dropout: f64) {
        self.dropout_rate = dropout;
    }

    fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    fn describe(&self) -> String {
        format!(
            "multimodal T5, {}: {} encoder and {} decoder blocks, width {}, {} heads of {}, feed-forward {}",
            self.feed_forward_proj,
            self.num_layers,
            self.decoder_layers(),
            self.d_model,
            self.num_heads,
            self.d_kv,
            self.d_ff
        )
    }

    fn head_layer(&self) -> Option<&'static str> {
        (!self.tie_word_embeddings).then_some("lm_head")
    }

    fn kept_by_pass(&self, pass: &Pass) -> f64 {
        footprint::kept_by_pass(self, pass)
    }

    fn scores_of_layer(&self, pass: &Pass) -> f64 {
        footprint::scores_of_layer(self, pass)
    }

    fn cache(&self, decoding: &Decoding) -> f64 {
        footprint::cache(self, decoding)
    }

    fn running(&self) -> f64 {
        (4 * self.d_model + 4 * self.d_ff) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file was read to tell whose it is, and may be another by now.
    #[test]
    fn a_config_is_read_from_the_text_alone() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let path = Path::new("not/there/config.json");
        let read = |text: &str| (MM_T5.read)(path, text);
        let found = read(&config.to_json().expect("json")).expect("read");
        assert_eq!(found.as_any().downcast_ref(), Some(&config));
        let refused = read(r#"{"d_model": "wide"}"#).expect_err("no number").to_string();
        assert!(refused.starts_with("not/there/config.json: d_model: invalid type"), "{refused}");
    }
}
