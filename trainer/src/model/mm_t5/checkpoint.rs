//! Differences between the tensors of a T5 checkpoint and its `config.json`.

use super::config::StudentConfig;
use std::collections::BTreeMap;
use tch::Tensor;

/// Takes the width of the image features and the kind of head from the tensors, and drops redundant tensors of older
/// checkpoints. Returns the problems found.
pub(super) fn follow(config: &mut StudentConfig, tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    if let Some(dense) = tensors.get("encoder.image_dense.weight")
        && let [_, width] = dense.size()[..]
    {
        config.image_feature_width = width;
    }
    let problems = drop_aliases(tensors);
    choose_head(config, tensors);
    problems
}

/// As [`follow`], from shapes alone.
pub(super) fn follow_shapes(config: &mut StudentConfig, shapes: &BTreeMap<String, Vec<i64>>) {
    if let Some([_, width]) = shapes.get("encoder.image_dense.weight").map(Vec::as_slice) {
        config.image_feature_width = *width;
    }
    config.tie_word_embeddings &= !shapes.contains_key("lm_head.weight");
}

/// Position biases between decoder and encoder, which T5 never uses, though published checkpoints contain them.
const UNUSED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Drops redundant tensors of older checkpoints: unused ones, and copies of the embedding; reports copies that differ from it.
fn drop_aliases(tensors: &mut BTreeMap<String, Tensor>) -> Vec<String> {
    let mut problems = Vec::new();
    tensors.remove(UNUSED);
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

/// The weights show whether the head is the embedding: the config of files re-saved by newer libraries is wrong.
fn choose_head(config: &mut StudentConfig, tensors: &mut BTreeMap<String, Tensor>) {
    let same = match (tensors.get("lm_head.weight"), tensors.get("shared.weight")) {
        (Some(head), Some(shared)) => head.size() == shared.size() && head.equal(shared),
        (None, Some(_)) => true,
        _ => false,
    };
    if config.tie_word_embeddings && same {
        tensors.remove("lm_head.weight");
    } else if tensors.contains_key("lm_head.weight") {
        if config.tie_word_embeddings && config.scale_decoder_outputs.is_none() {
            // The head is separate, so nothing is scaled unless the file requires it.
            config.scale_decoder_outputs = Some(false);
        }
        config.tie_word_embeddings = false;
    }
}
