//! What a pass and decoding keep in memory, counted tensor by tensor as this folder makes them. Numbers are bytes.

use super::config::StudentConfig;
use crate::model::footprint::{Decoding, Pass};

const FLOAT: f64 = 4.0;

/// Positions in a page of the decoder's cache.
const PAGE: f64 = 32.0;

fn inner(config: &StudentConfig) -> f64 {
    (config.num_heads * config.d_kv) as f64
}

/// What a pass with gradients keeps by layer.
pub(super) fn kept_by_pass(config: &StudentConfig, pass: &Pass) -> f64 {
    let Pass { rows, sources, source, target, patches, number, dropout, adapter, adapter_dropout } = *pass;
    let (d, ff) = (config.d_model as f64, config.d_ff as f64);
    let (heads, inner) = (config.num_heads as f64, inner(config));
    let drop = if dropout && config.dropout_rate > 0.0 { 1.0 } else { 0.0 };
    let all = if adapter { 0.0 } else { 1.0 };
    let (encoded, decoded) = (sources * source, rows * target);
    // Residual, its normalization where the norm's weight is trained, what enters the products, dropout's mask.
    let sublayer = |tokens: f64| tokens * d * (FLOAT * (1.0 + all + drop) + number);
    // Each layer of an adapter with dropout keeps a mask and what is left of its input, in place of the input.
    let adapted = |tokens: f64, inputs: f64, layers: f64| {
        if adapter_dropout { FLOAT * tokens * inputs * (2.0 * layers - 1.0) } else { 0.0 }
    };
    // The softmax; with dropout its mask and what is left; a copy for the products.
    let scores = |texts: f64, queries: f64, keys: f64| {
        let copy = if number == FLOAT { 0.0 } else { number };
        texts * heads * queries * keys * (FLOAT * (1.0 + 2.0 * drop) + copy)
    };
    let own = |texts: f64, length: f64| {
        let tokens = texts * length;
        let added = adapted(tokens, d, 3.0) + adapted(tokens, inner, 1.0);
        sublayer(tokens) + tokens * inner * 4.0 * number + scores(texts, length, length) + added
    };
    // Each row has its own copy of its source's keys and values.
    let cross = sublayer(decoded)
        + rows * (target + source) * inner * 2.0 * number
        + scores(rows, target, source)
        + adapted(decoded, d, 1.0)
        + adapted(encoded, d, 2.0)
        + adapted(decoded, inner, 1.0);
    let (inside, inner_layers) = if config.is_gated() { (4.0 + drop, 2.0) } else { (1.0 + 2.0 * drop, 1.0) };
    let feed = |tokens: f64| {
        let added = adapted(tokens, d, inner_layers) + adapted(tokens, ff, 1.0);
        sublayer(tokens) + tokens * ff * inside * number + added
    };
    let encoder = config.num_layers as f64 * (own(sources, source) + feed(encoded));
    let decoder = config.decoder_layers() as f64 * (own(rows, target) + cross + feed(decoded));
    let pictures = sources * patches * config.image_feature_width as f64;
    let fusion = 10.0 * encoded * d + 3.0 * sources * patches * d + 2.0 * encoded * patches + pictures;
    let biases = heads * (sources * source * source + target * target);
    encoder + decoder + FLOAT * (fusion + biases)
}

/// The scores of the layer that runs.
pub(super) fn scores_of_layer(config: &StudentConfig, pass: &Pass) -> f64 {
    let Pass { rows, sources, source, target, .. } = *pass;
    let most = (sources * source * source).max(rows * target * source.max(target));
    3.0 * FLOAT * config.num_heads as f64 * most
}

/// The decoder's own keys and values, which are float32 and in pages, and those of the encoder.
pub(super) fn cache(config: &StudentConfig, decoding: &Decoding) -> f64 {
    let own = FLOAT * decoding.rows * (decoding.target / PAGE).ceil() * PAGE;
    let of_encoder = decoding.number * decoding.problems * decoding.source;
    2.0 * config.decoder_layers() as f64 * inner(config) * (own + of_encoder)
}
