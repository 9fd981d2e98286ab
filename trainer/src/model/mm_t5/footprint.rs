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
    let Pass { rows, source, target, patches, number, dropout, adapter } = *pass;
    let (d, ff) = (config.d_model as f64, config.d_ff as f64);
    let (heads, inner) = (config.num_heads as f64, inner(config));
    let drop = if dropout && config.dropout_rate > 0.0 { 1.0 } else { 0.0 };
    let all = if adapter { 0.0 } else { 1.0 };
    let (sources, targets) = (rows * source, rows * target);
    // Residual, its normalization where the norm's weight is trained, what enters the products, dropout's mask.
    let sublayer = |tokens: f64| tokens * d * (FLOAT * (1.0 + all + drop) + number);
    // The softmax; with dropout its mask and what is left; a copy for the products.
    let scores = |queries: f64, keys: f64| {
        let copy = if number == FLOAT { 0.0 } else { number };
        rows * heads * queries * keys * (FLOAT * (1.0 + 2.0 * drop) + copy)
    };
    let own =
        |tokens: f64, length: f64| sublayer(tokens) + tokens * inner * 4.0 * number + scores(length, length);
    let cross = sublayer(targets) + (targets + sources) * inner * 2.0 * number + scores(target, source);
    let inside = if config.is_gated() { 4.0 + drop } else { 1.0 + 2.0 * drop };
    let feed = |tokens: f64| sublayer(tokens) + tokens * ff * inside * number;
    let encoder = config.num_layers as f64 * (own(sources, source) + feed(sources));
    let decoder = config.decoder_layers() as f64 * (own(targets, target) + cross + feed(targets));
    let fusion = FLOAT * (10.0 * sources * d + 3.0 * rows * patches * d + 2.0 * sources * patches);
    let biases = FLOAT * heads * (rows * source * source + target * target);
    encoder + decoder + fusion + biases
}

/// The scores of the layer that runs.
pub(super) fn scores_of_layer(config: &StudentConfig, pass: &Pass) -> f64 {
    let longest = pass.source.max(pass.target);
    3.0 * FLOAT * pass.rows * config.num_heads as f64 * longest * longest
}

/// The decoder's own keys and values, which are float32 and in pages, and those of the encoder.
pub(super) fn cache(config: &StudentConfig, decoding: &Decoding) -> f64 {
    let own = FLOAT * decoding.rows * (decoding.target / PAGE).ceil() * PAGE;
    let of_encoder = decoding.number * decoding.problems * decoding.source;
    2.0 * config.decoder_layers() as f64 * inner(config) * (own + of_encoder)
}
