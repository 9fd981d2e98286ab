//! The decoder: a plain T5 decoder on the fused states; whole sequences for training, single steps for sampling.

use super::attention::{Attention, KeyValue, RelativeBias, causal_bias, padding_bias};
use super::config::StudentConfig;
use super::feed_forward::FeedForward;
use crate::nn::dropout::dropout;
use crate::nn::layers::RmsNorm;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Kind, Tensor};

/// The decoder without its head.
#[derive(Debug)]
pub struct Decoder {
    embedding: Tensor,
    bias: RelativeBias,
    blocks: Vec<(Attention, Attention, FeedForward)>,
    norm: RmsNorm,
    dropout: f64,
    heads: i64,
    d_kv: i64,
}

/// The cache of step-by-step decoding.
#[derive(Debug)]
pub struct KeysAndValues {
    own: Vec<KeyValue>,
    cross: Vec<KeyValue>,
    cross_bias: Tensor,
    /// Bias by distance back for all allocated positions: [1, heads, 1, capacity], the nearest last.
    bias: Tensor,
    position: i64,
}

impl KeysAndValues {
    /// Steps done so far.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Keeps only the given rows; finished ones leave the batch.
    pub fn select_rows(&mut self, rows: &Tensor) {
        for key_value in self.own.iter_mut().chain(&mut self.cross) {
            *key_value = key_value.select_rows(rows);
        }
        self.cross_bias = self.cross_bias.index_select(0, rows);
    }
}

impl Decoder {
    /// The decoder of these weights.
    pub fn new(weights: &Weights, config: &StudentConfig) -> Self {
        let block = |index: i64| {
            let prefix = format!("decoder.block.{index}.layer");
            (
                Attention::new(weights, &format!("{prefix}.0"), "SelfAttention", config),
                Attention::new(weights, &format!("{prefix}.1"), "EncDecAttention", config),
                FeedForward::new(weights, &format!("{prefix}.2"), config),
            )
        };
        Self {
            embedding: weights.get("shared.weight"),
            bias: RelativeBias::new(weights, "decoder", config),
            blocks: (0..config.decoder_layers()).map(block).collect(),
            norm: RmsNorm::new(weights, "decoder.final_layer_norm", config.layer_norm_epsilon),
            dropout: config.dropout_rate,
            heads: config.num_heads,
            d_kv: config.d_kv,
        }
    }

    /// Hidden states of whole sequences: `ids` [batch, target], `encoded` [batch, source, d], `source_mask` [batch,
    /// source] → [batch, target, d]. Position t sees tokens 0…t. Padding is at the end, so the causal mask already
    /// hides it from every real token. With `source_of`, row r of `ids` belongs to row `source_of[r]` of the sources.
    pub fn forward(
        &self,
        ids: &Tensor,
        encoded: &Tensor,
        source_mask: &Tensor,
        source_of: Option<&[usize]>,
        mode: Mode,
    ) -> Tensor {
        let length = ids.size()[1];
        let bias = self.bias.forward(0, length, length) + causal_bias(length, ids.device());
        // Stacked from single rows, whose gradients are added in a fixed order; those of an index operation are not on a GPU.
        let of_rows = |tensor: &Tensor| match source_of {
            None => tensor.shallow_clone(),
            Some(rows) => {
                let sources = tensor.unbind(0);
                Tensor::stack(&rows.iter().map(|&row| &sources[row]).collect::<Vec<_>>(), 0)
            }
        };
        let cross_bias = of_rows(&padding_bias(source_mask));
        let embedded = Tensor::embedding(&self.embedding, ids, -1, false, false);
        let hidden =
            self.blocks.iter().fold(dropout(&embedded, self.dropout, mode.train), |x, (own, cross, feed)| {
                let x = own.attend_self(&x, &bias, mode);
                let KeyValue { keys, values } = cross.key_value(encoded, mode);
                let key_value = KeyValue { keys: of_rows(&keys), values: of_rows(&values) };
                let x = cross.attend_to(&x, &key_value, &cross_bias, mode);
                feed.forward(&x, mode)
            });
        dropout(&self.norm.forward(&hidden), self.dropout, mode.train)
    }

    /// Keys and values of `encoded` [problems, source, d], block by block: [problems, heads, source, d_kv].
    pub fn encoder_keys(&self, encoded: &Tensor, mode: Mode) -> impl Iterator<Item = KeyValue> {
        self.blocks.iter().map(move |(_, cross, _)| cross.key_value(encoded, mode))
    }

    /// A cache for `samples` rows per problem, `encoded` [problems, source, d]: rows of a problem are adjacent.
    pub fn start(&self, encoded: &Tensor, source_mask: &Tensor, samples: i64, mode: Mode) -> KeysAndValues {
        let repeat = |tensor: &Tensor| match samples {
            1 => tensor.contiguous(),
            _ => tensor.repeat_interleave_self_int(samples, 0, None),
        };
        let rows = encoded.size()[0] * samples;
        let empty = || Tensor::zeros([rows, self.heads, 32, self.d_kv], (mode.kind, encoded.device()));
        let cross = self
            .encoder_keys(encoded, mode)
            .map(|kv| KeyValue { keys: repeat(&kv.keys), values: repeat(&kv.values) });
        KeysAndValues {
            cross: cross.collect(),
            own: self.blocks.iter().map(|_| KeyValue { keys: empty(), values: empty() }).collect(),
            cross_bias: repeat(&padding_bias(source_mask)),
            bias: self.bias.forward(31, 1, 32),
            position: 0,
        }
    }

    /// One step for all rows: `ids` of shape `[rows]` at the cache's position → hidden states `[rows, d]`.
    pub fn step(&self, ids: &Tensor, cache: &mut KeysAndValues, mode: Mode) -> Tensor {
        let position = cache.position;
        for key_value in &mut cache.own {
            let room = key_value.keys.size()[2];
            if position >= room {
                // Growing by half limits copying without reserving the maximum length for all.
                let grow = |tensor: &Tensor| tensor.constant_pad_nd([0, 0, 0, (room / 2).max(32)]);
                *key_value = KeyValue { keys: grow(&key_value.keys), values: grow(&key_value.values) };
            }
        }
        let room = cache.own.first().map_or(0, |key_value| key_value.keys.size()[2]);
        if cache.bias.size()[3] < room {
            cache.bias = self.bias.forward(room - 1, 1, room);
        }
        let bias = cache.bias.narrow(3, cache.bias.size()[3] - 1 - position, position + 1);
        let mut x = Tensor::embedding(&self.embedding, &ids.unsqueeze(1), -1, false, false);
        for ((own, cross, feed), (own_cache, cross_cache)) in
            self.blocks.iter().zip(cache.own.iter_mut().zip(&cache.cross))
        {
            x = own.step(&x, own_cache, position, &bias, mode);
            x = cross.attend_to(&x, cross_cache, &cache.cross_bias, mode);
            x = feed.forward(&x, mode);
        }
        cache.position += 1;
        self.norm.forward(&x).squeeze_dim(1).to_kind(Kind::Float)
    }
}
