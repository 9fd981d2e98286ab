//! T5 attention: unscaled dot products plus a learned bias by relative position; keys and values may be cached.

use super::config::StudentConfig;
use crate::nn::dropout::dropout;
use crate::nn::layers::{Linear, Linears, RmsNorm};
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use tch::{Device, Kind, Tensor};

/// Keys and values of one attention layer, [rows, heads, length, d_kv] each.
#[derive(Debug)]
pub struct KeyValue {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl KeyValue {
    /// Only the given rows, in the given order.
    pub fn select_rows(&self, rows: &Tensor) -> Self {
        Self { keys: self.keys.index_select(0, rows), values: self.values.index_select(0, rows) }
    }
}

/// One attention sub-layer with its norm and residual.
#[derive(Debug)]
pub struct Attention {
    norm: RmsNorm,
    /// Queries for another sequence's keys.
    q: Linear,
    /// Keys and values of the attended sequence.
    kv: Linears,
    /// All three of one input, for self-attention.
    qkv: Linears,
    o: Linear,
    heads: i64,
    d_kv: i64,
    dropout: f64,
}

impl Attention {
    /// The layer `name` (`SelfAttention` or `EncDecAttention`) under `prefix`, for instance `encoder.block.0.layer.0`.
    pub fn new(weights: &Weights, prefix: &str, name: &str, config: &StudentConfig) -> Self {
        let names = |parts: &[&str]| -> Vec<String> {
            parts.iter().map(|part| format!("{prefix}.{name}.{part}")).collect()
        };
        let linear = |part: &str| Linear::new(weights, &names(&[part])[0]);
        Self {
            norm: RmsNorm::new(weights, &format!("{prefix}.layer_norm"), config.layer_norm_epsilon),
            q: linear("q"),
            kv: Linears::new(weights, &names(&["k", "v"])),
            qkv: Linears::new(weights, &names(&["q", "k", "v"])),
            o: linear("o"),
            heads: config.num_heads,
            d_kv: config.d_kv,
            dropout: config.dropout_rate,
        }
    }

    /// [batch, length, heads · d_kv] → [batch, heads, length, d_kv].
    fn split_heads(&self, x: &Tensor) -> Tensor {
        let (batch, length) = (x.size()[0], x.size()[1]);
        x.view([batch, length, self.heads, self.d_kv]).transpose(1, 2)
    }

    /// Keys and values of `x` [batch, length, d], for another layer's states to attend to.
    pub fn key_value(&self, x: &Tensor, mode: Mode) -> KeyValue {
        let parts = self.kv.forward(x, mode);
        KeyValue { keys: self.split_heads(&parts[0]), values: self.split_heads(&parts[1]) }
    }

    /// Queries, and keys and values, of the normed `x` [batch, length, d].
    fn of_itself(&self, x: &Tensor, mode: Mode) -> (Tensor, KeyValue) {
        let parts = self.qkv.forward(&self.norm.forward(x), mode);
        let parts: Vec<Tensor> = parts.iter().map(|part| self.split_heads(part)).collect();
        let [q, k, v] = [0, 1, 2].map(|part| parts[part].shallow_clone());
        (q, KeyValue { keys: k, values: v })
    }

    /// x + attention of norm(x) to itself; `bias` [1 or batch, heads, length, length] holds positions and masks.
    pub fn attend_self(&self, x: &Tensor, bias: &Tensor, mode: Mode) -> Tensor {
        let (queries, key_value) = self.of_itself(x, mode);
        self.finish(x, &queries, &key_value, bias, mode)
    }

    /// x + attention of norm(x) to given keys and values; `bias` [problems, 1, 1, source] holds the padding mask. `x`
    /// [rows, length, d] may have several rows for each problem, which then share its keys and values.
    pub fn attend_to(&self, x: &Tensor, key_value: &KeyValue, bias: &Tensor, mode: Mode) -> Tensor {
        let size = x.size();
        // Queries do not interact here, so those of all rows of a problem may form one sequence.
        let grouped = x.reshape([key_value.keys.size()[0], -1, size[2]]);
        let queries = self.split_heads(&self.q.forward(&self.norm.forward(&grouped), mode));
        self.finish(&grouped, &queries, key_value, bias, mode).view(size.as_slice())
    }

    /// One decoding step: `x` [rows, 1, d] at `position`; its key and value are appended to `cache`, which must have capacity.
    pub fn step(&self, x: &Tensor, cache: &mut KeyValue, position: i64, bias: &Tensor, mode: Mode) -> Tensor {
        let (queries, new) = self.of_itself(x, mode);
        cache.keys.narrow(2, position, 1).copy_(&new.keys);
        cache.values.narrow(2, position, 1).copy_(&new.values);
        let seen = KeyValue {
            keys: cache.keys.narrow(2, 0, position + 1),
            values: cache.values.narrow(2, 0, position + 1),
        };
        self.finish(x, &queries, &seen, bias, mode)
    }

    /// x + the attention output of `queries` [batch, heads, length, d_kv].
    fn finish(
        &self,
        x: &Tensor,
        queries: &Tensor,
        key_value: &KeyValue,
        bias: &Tensor,
        mode: Mode,
    ) -> Tensor {
        let scores = queries.matmul(&key_value.keys.transpose(2, 3)).to_kind(Kind::Float) + bias;
        let weights = dropout(&scores.softmax(-1, Kind::Float), self.dropout, mode.train);
        let mixed = mode.cast(&weights).matmul(&key_value.values).transpose(1, 2).contiguous();
        let (batch, length) = (x.size()[0], x.size()[1]);
        let out = self.o.forward(&mixed.view([batch, length, self.heads * self.d_kv]), mode);
        x + dropout(&out.to_kind(Kind::Float), self.dropout, mode.train)
    }
}

/// The learned bias by relative position that the first block of a stack holds for all its blocks.
#[derive(Debug)]
pub struct RelativeBias {
    weight: Tensor,
    bidirectional: bool,
    max_distance: i64,
}

impl RelativeBias {
    /// The bias of the `encoder` or `decoder` stack.
    pub fn new(weights: &Weights, stack: &str, config: &StudentConfig) -> Self {
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        Self {
            weight: weights.get(&name),
            bidirectional: stack == "encoder",
            max_distance: config.relative_attention_max_distance,
        }
    }

    /// Bias of queries at `first_query..first_query + queries` to keys at `0..keys`: [1, heads, queries, keys].
    pub fn forward(&self, first_query: i64, queries: i64, keys: i64) -> Tensor {
        let count = self.weight.size()[0];
        // One bucket per distance, then each query takes its window of distances: no work per pair on the host.
        let first_distance = -(first_query + queries - 1);
        let buckets: Vec<i64> = (first_distance..keys - first_query)
            .map(|relative| relative_bucket(relative, self.bidirectional, count, self.max_distance))
            .collect();
        let device = self.weight.device();
        let by_distance = self.weight.index_select(0, &Tensor::from_slice(&buckets).to_device(device));
        let options = (Kind::Int64, device);
        let rows = Tensor::arange(queries, options).unsqueeze(1);
        let columns = Tensor::arange(keys, options).unsqueeze(0);
        let windows = (columns - rows + (queries - 1)).view(-1);
        by_distance.index_select(0, &windows).view([queries, keys, -1]).permute([2, 0, 1]).unsqueeze(0)
    }
}

/// Bucket of a relative position (key − query), as T5 sorts them: half of the buckets hold one distance each, the
/// others grow logarithmically up to `max_distance`. Float32 arithmetic, as in the public code.
pub fn relative_bucket(relative: i64, bidirectional: bool, buckets: i64, max_distance: i64) -> i64 {
    let (mut bucket, mut buckets) = (0, buckets);
    let distance = if bidirectional {
        buckets /= 2;
        if relative > 0 {
            bucket = buckets;
        }
        relative.abs()
    } else {
        (-relative).max(0)
    };
    let exact = buckets / 2;
    if distance < exact {
        return bucket + distance;
    }
    let span = (max_distance as f64 / exact as f64).ln() as f32;
    let fraction = (distance as f32 / exact as f32).ln() / span;
    let large = exact + (fraction * (buckets - exact) as f32) as i64;
    bucket + large.min(buckets - 1)
}

/// Additive mask of padding: 0 if `mask` [batch, length] is 1, the lowest float32 elsewhere; [batch, 1, 1, length].
pub fn padding_bias(mask: &Tensor) -> Tensor {
    let mask = mask.to_kind(Kind::Float);
    ((mask - 1.0) * f64::from(f32::MAX)).unsqueeze(1).unsqueeze(1)
}

/// Additive mask of the future: [1, 1, length, length].
pub fn causal_bias(length: i64, device: Device) -> Tensor {
    let full = Tensor::full([length, length], f64::from(f32::MIN), (Kind::Float, device));
    full.triu(1).unsqueeze(0).unsqueeze(0)
}
