//! Decoding on the CPU, token by token. libtorch's products are optimized for many rows and leave most of the memory
//! bandwidth unused for the few rows of a decoding step, so this runs the decoder on its own kernels: each step reads
//! every weight once, from libtorch's own memory, and all samples of a problem share its encoder keys and values.

mod cache;

use super::StudentConfig;
use super::attention::{KeyValue, relative_bucket};
use super::network::MmT5;
use crate::backend::cpu::kernel::Level;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::numbers::{Numbers, Rows};
use crate::error::{Error, Result};
use crate::model::network::{CpuCache, CpuDecoder, Model, Step};
use crate::model::source::Source;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use cache::Cache;
use rayon::prelude::*;
use tch::{Kind, Tensor, no_grad};

/// Outputs of one matrix per task: small enough to balance the load, large enough to be worth the dispatch.
const OUTPUTS_A_TASK: usize = 64;

/// Source tokens the encoder processes at once, padding included: enough for fast products, and few enough that its
/// intermediate states take less memory than the cache that decoding needs next.
const SOURCE_TOKENS_AT_ONCE: i64 = 512;

/// The decoder of a student, for single steps, with the encoder of its sources.
#[derive(Debug)]
pub(super) struct T5CpuDecoder {
    model: MmT5,
    mode: Mode,
    /// Number format of matrices and of the encoder's keys and values.
    kind: Kind,
    shape: Shape,
    steps: Steps,
}

/// The decoder's weights as the kernels read them.
#[derive(Debug)]
struct Steps {
    level: Level,
    pool: rayon::ThreadPool,
    embedding: Matrix,
    /// Bias of each distance back, by head: [heads][distances].
    bias: Vec<Vec<f32>>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Matrix,
    head_scale: Option<f32>,
    value_head: Option<[(Matrix, Vec<f32>); 2]>,
    epsilon: f32,
    heads: usize,
    d_kv: usize,
}

/// Sizes of the cache.
#[derive(Debug, Clone, Copy)]
struct Shape {
    blocks: i64,
    heads: i64,
    d_kv: i64,
}

#[derive(Debug)]
struct Block {
    own_norm: Vec<f32>,
    own: [Matrix; 3],
    own_out: Matrix,
    cross_norm: Vec<f32>,
    cross_query: Matrix,
    cross_out: Matrix,
    feed_norm: Vec<f32>,
    feed_gate: Option<Matrix>,
    feed_inner: Matrix,
    feed_outer: Matrix,
}

impl T5CpuDecoder {
    /// The decoder of these weights (LoRA must have been merged), with matrices in `kind`, run by `threads` threads; `model`
    /// encodes in `mode`.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub(super) fn new(
        (model, mode): (MmT5, Mode),
        weights: &Weights,
        config: &StudentConfig,
        kind: Kind,
        threads: usize,
    ) -> Result<Self> {
        let matrix = |name: String| Matrix::new(&weights.get(&format!("{name}.weight")), kind);
        let vector = |name: String| float_numbers(&weights.get(&format!("{name}.weight")));
        let block = |index: i64| {
            let prefix = format!("decoder.block.{index}.layer");
            let own = |part: &str| matrix(format!("{prefix}.0.SelfAttention.{part}"));
            let feed = |part: &str| matrix(format!("{prefix}.2.DenseReluDense.{part}"));
            let gated = config.is_gated();
            Block {
                own_norm: vector(format!("{prefix}.0.layer_norm")),
                own: [own("q"), own("k"), own("v")],
                own_out: own("o"),
                cross_norm: vector(format!("{prefix}.1.layer_norm")),
                cross_query: matrix(format!("{prefix}.1.EncDecAttention.q")),
                cross_out: matrix(format!("{prefix}.1.EncDecAttention.o")),
                feed_norm: vector(format!("{prefix}.2.layer_norm")),
                feed_gate: gated.then(|| feed("wi_0")),
                feed_inner: feed(if gated { "wi_1" } else { "wi" }),
                feed_outer: feed("wo"),
            }
        };
        let table = vector("decoder.block.0.layer.0.SelfAttention.relative_attention_bias".to_owned());
        let (heads, buckets) = (config.num_heads, config.relative_attention_num_buckets);
        let distances = config.relative_attention_max_distance;
        let bias = (0..heads).map(|head| {
            let at = |back: i64| relative_bucket(-back, false, buckets, distances);
            (0..=distances).map(|back| table[(at(back) * heads + head) as usize]).collect()
        });
        let head = if weights.find("lm_head.weight").is_some() { "lm_head" } else { "shared" };
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("decode {i}"));
        let steps = Steps {
            level: Level::detect(),
            pool: pool.build().map_err(|e| Error::Threads(e.to_string()))?,
            embedding: Matrix::new(&weights.get("shared.weight"), Kind::Float),
            bias: bias.collect(),
            blocks: (0..config.decoder_layers()).map(block).collect(),
            norm: vector("decoder.final_layer_norm".to_owned()),
            head: matrix(head.to_owned()),
            head_scale: config.head_scale().map(|scale| scale as f32),
            value_head: None,
            epsilon: config.layer_norm_epsilon as f32,
            heads: config.num_heads as usize,
            d_kv: config.d_kv as usize,
        };
        let shape = Shape { blocks: config.decoder_layers(), heads, d_kv: config.d_kv };
        Ok(Self { model, mode, kind, shape, steps })
    }

    /// Encoder keys and values of all problems, by block of the decoder: [problems, heads, source, d_kv].
    fn encoder_keys(&self, source: &Source) -> Vec<KeyValue> {
        let (problems, length) = (source.ids.size()[0], source.ids.size()[1]);
        let Shape { blocks, heads, d_kv } = self.shape;
        let empty = || Tensor::empty([problems, heads, length, d_kv], (self.kind, source.ids.device()));
        let all: Vec<KeyValue> = (0..blocks).map(|_| KeyValue { keys: empty(), values: empty() }).collect();
        let at_once = (SOURCE_TOKENS_AT_ONCE / length).max(1);
        for start in (0..problems).step_by(at_once as usize) {
            let count = at_once.min(problems - start);
            let part = source.narrow(start, count);
            let encoded = self.model.encode(&part, self.mode);
            // Positions after a problem's own tokens are never read.
            let place = |all: &Tensor| all.narrow(0, start, count).narrow(2, 0, part.ids.size()[1]);
            for (all, part) in all.iter().zip(self.model.decoder.encoder_keys(&encoded, self.mode)) {
                place(&all.keys).copy_(&part.keys);
                place(&all.values).copy_(&part.values);
            }
        }
        all
    }
}

impl Steps {
    fn step_here(&self, ids: &[i64], cache: &mut Cache) -> Step {
        let d = self.embedding.width;
        let mut x = vec![0f32; ids.len() * d];
        for (x, &id) in x.chunks_exact_mut(d).zip(ids) {
            self.embedding.numbers().part(id as usize * d, d).copy_to(x);
        }
        let rows = ids.len();
        for (index, block) in self.blocks.iter().enumerate() {
            let normed = self.normed(&x, &block.own_norm);
            let [q, k, v] = &block.own;
            let projected = self.products(&normed, rows, &[q, k, v]);
            let mixed = self.attend_own(&projected, cache, index);
            self.add_products(&mut x, &mixed, &block.own_out);

            let normed = self.normed(&x, &block.cross_norm);
            let queries = self.products(&normed, rows, &[&block.cross_query]);
            let mixed = self.attend_cross(&queries[0], cache, index);
            self.add_products(&mut x, &mixed, &block.cross_out);

            let normed = self.normed(&x, &block.feed_norm);
            let hidden = self.feed(&normed, rows, block);
            self.add_products(&mut x, &hidden, &block.feed_outer);
        }
        cache.position += 1;
        let mut hidden = self.normed(&x, &self.norm);
        let values = self.values(&hidden, rows);
        if let Some(scale) = self.head_scale {
            hidden.iter_mut().for_each(|number| *number *= scale);
        }
        Step { logits: self.products(&hidden, rows, &[&self.head]).swap_remove(0), values }
    }

    /// The value head's two layers with a ReLU between: one number per row, none without a head.
    fn values(&self, hidden: &[f32], rows: usize) -> Vec<f32> {
        let Some([(inner, inner_bias), (outer, outer_bias)]) = &self.value_head else { return Vec::new() };
        let mut between = self.products(hidden, rows, &[inner]).swap_remove(0);
        for row in between.chunks_exact_mut(inner_bias.len()) {
            row.iter_mut().zip(inner_bias).for_each(|(number, bias)| *number = (*number + bias).max(0.0));
        }
        let mut values = self.products(&between, rows, &[outer]).swap_remove(0);
        values.iter_mut().zip(outer_bias.iter().cycle()).for_each(|(value, bias)| *value += bias);
        values
    }

    fn normed(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut normed = vec![0f32; x.len()];
        let d = weight.len();
        for (x, normed) in x.chunks_exact(d).zip(normed.chunks_exact_mut(d)) {
            self.level.rms_norm(x, weight, self.epsilon, normed);
        }
        normed
    }

    /// `x` [rows, width] times each matrix: [rows, outputs] each.
    fn products(&self, x: &[f32], rows: usize, matrices: &[&Matrix]) -> Vec<Vec<f32>> {
        let mut chunked: Vec<Vec<f32>> =
            matrices.iter().map(|matrix| vec![0f32; rows * matrix.rows()]).collect();
        let tasks: Vec<(&Matrix, usize, &mut [f32])> = matrices
            .iter()
            .zip(&mut chunked)
            .flat_map(|(&matrix, out)| {
                let chunks = out.chunks_mut(OUTPUTS_A_TASK * rows).enumerate();
                chunks.map(move |(chunk, out)| (matrix, chunk * OUTPUTS_A_TASK, out))
            })
            .collect();
        tasks.into_par_iter().for_each(|(matrix, first, out)| self.chunk(x, rows, matrix, first, out));
        chunked.iter().map(|out| in_rows(out, rows)).collect()
    }

    /// Outputs `first`… of one matrix, as many as fit in `out`: [rows, outputs of the chunk].
    fn chunk(&self, x: &[f32], rows: usize, matrix: &Matrix, first: usize, out: &mut [f32]) {
        let width = matrix.width;
        let weights = matrix.numbers().part(first * width, out.len() / rows * width);
        self.level.products(Rows { numbers: x, stride: width, count: rows }, weights, width, out);
    }

    fn add_products(&self, x: &mut [f32], input: &[f32], matrix: &Matrix) {
        let rows = input.len() / matrix.width;
        let out = self.products(input, rows, &[matrix]);
        x.iter_mut().zip(&out[0]).for_each(|(x, out)| *x += out);
    }

    /// gelu(x·Wi₀) ⊙ (x·Wi₁), or relu(x·Wi): [rows, d_ff].
    fn feed(&self, x: &[f32], rows: usize, block: &Block) -> Vec<f32> {
        let mut hidden = vec![0f32; rows * block.feed_inner.rows()];
        hidden.par_chunks_mut(OUTPUTS_A_TASK * rows).enumerate().for_each(|(chunk, out)| {
            let first = chunk * OUTPUTS_A_TASK;
            match &block.feed_gate {
                Some(gate) => {
                    let mut inner = vec![0f32; out.len()];
                    self.chunk(x, rows, gate, first, out);
                    self.chunk(x, rows, &block.feed_inner, first, &mut inner);
                    self.level.gelu_gate(out, &inner);
                }
                None => {
                    self.chunk(x, rows, &block.feed_inner, first, out);
                    out.iter_mut().for_each(|number| *number = number.max(0.0));
                }
            }
        });
        in_rows(&hidden, rows)
    }

    /// Adds this position's keys and values to the cache, then attends to all of them: [rows, heads · d_kv].
    fn attend_own(&self, projected: &[Vec<f32>], cache: &mut Cache, block: usize) -> Vec<f32> {
        let (d_kv, position) = (self.d_kv, cache.position);
        let (queries, keys, values) = (&projected[0], &projected[1], &projected[2]);
        cache.put(block, keys, values);
        let cache = &*cache;
        let mut mixed = vec![0f32; queries.len()];
        // Groups are rows × heads, in the same order in queries and cache.
        let groups = mixed.par_chunks_mut(d_kv).zip(queries.par_chunks(d_kv)).enumerate();
        groups.with_min_len(8).for_each(|(index, (out, query))| {
            let mut scores = vec![0f32; position + 1];
            let mut rest = scores.as_mut_slice();
            for (keys, _) in cache.seen(block, index) {
                let (here, later) = rest.split_at_mut(keys.len() / d_kv);
                let query = Rows { numbers: query, stride: d_kv, count: 1 };
                self.level.products(query, Numbers::Float32(keys), d_kv, here);
                rest = later;
            }
            let bias = &self.bias[index % self.heads];
            for (key, score) in scores.iter_mut().enumerate() {
                *score += bias[(position - key).min(bias.len() - 1)];
            }
            self.level.softmax(&mut scores);
            let mut part = vec![0f32; d_kv];
            let mut rest = scores.as_slice();
            for (_, values) in cache.seen(block, index) {
                let (here, later) = rest.split_at(values.len() / d_kv);
                let weights = Rows { numbers: here, stride: here.len(), count: 1 };
                self.level.mix(weights, Numbers::Float32(values), d_kv, &mut part);
                out.iter_mut().zip(&part).for_each(|(out, part)| *out += part);
                rest = later;
            }
        });
        mixed
    }

    /// Attends to the encoder's keys and values, which all samples of a problem share: [rows, heads · d_kv].
    fn attend_cross(&self, queries: &[f32], cache: &Cache, block: usize) -> Vec<f32> {
        let (d_kv, heads, samples) = (self.d_kv, self.heads, cache.samples);
        let (keys, values) = &cache.cross[block];
        let mut grouped = vec![0f32; queries.len()];
        grouped.par_chunks_mut(samples * d_kv).enumerate().with_min_len(4).for_each(|(index, out)| {
            let (problem, head) = (index / heads, index % heads);
            let length = cache.lengths[problem];
            let first = index * cache.source * d_kv;
            let mut scores = vec![0f32; samples * length];
            let start = problem * samples * heads * d_kv + head * d_kv;
            let queries = Rows { numbers: &queries[start..], stride: heads * d_kv, count: samples };
            self.level.products(queries, keys.numbers().part(first, length * d_kv), d_kv, &mut scores);
            scores.chunks_exact_mut(length).for_each(|scores| self.level.softmax(scores));
            let weights = Rows { numbers: &scores, stride: length, count: samples };
            self.level.mix(weights, values.numbers().part(first, length * d_kv), d_kv, out);
        });
        // [problems, heads, samples, d_kv] → [problems, samples, heads, d_kv]
        let mut mixed = vec![0f32; queries.len()];
        for (index, group) in grouped.chunks_exact(samples * d_kv).enumerate() {
            let (problem, head) = (index / heads, index % heads);
            for (sample, part) in group.chunks_exact(d_kv).enumerate() {
                let start = ((problem * samples + sample) * heads + head) * d_kv;
                mixed[start..start + d_kv].copy_from_slice(part);
            }
        }
        mixed
    }
}

impl CpuDecoder for T5CpuDecoder {
    fn add_value_head(&mut self, weights: &Weights) {
        let layer = |name: &str| {
            let matrix = Matrix::new(&weights.get(&format!("{name}.weight")), Kind::Float);
            (matrix, float_numbers(&weights.get(&format!("{name}.bias"))))
        };
        self.steps.value_head = Some([layer("v_head.0"), layer("v_head.2")]);
    }

    fn vocabulary(&self) -> usize {
        self.steps.head.rows()
    }

    fn pool(&self) -> &rayon::ThreadPool {
        &self.steps.pool
    }

    fn start<'a>(&'a self, source: &Source, samples: usize) -> Box<dyn CpuCache + 'a> {
        let real = source.mask.sum_dim_intlist(1, false, Kind::Int64).contiguous();
        let mut lengths = vec![0i64; real.numel()];
        real.copy_data(&mut lengths, real.numel());
        let lengths = lengths.into_iter().map(|length| length as usize).collect();
        let keys = no_grad(|| self.encoder_keys(source));
        Box::new(Grid { decoder: self, cache: Cache::new(keys, lengths, samples, self.kind) })
    }
}

/// Rows that are decoded step by step.
struct Grid<'a> {
    decoder: &'a T5CpuDecoder,
    cache: Cache,
}

impl CpuCache for Grid<'_> {
    fn samples(&self) -> usize {
        self.cache.samples
    }

    fn step(&mut self, ids: &[i64]) -> Step {
        self.cache.make_room();
        let (steps, cache) = (&self.decoder.steps, &mut self.cache);
        steps.pool.install(|| steps.step_here(ids, cache))
    }

    fn select(&mut self, problems: &[usize], places: &[usize], samples: usize) {
        self.cache.select(problems, places, samples);
    }
}

/// Numbers of a tensor as float32.
fn float_numbers(tensor: &Tensor) -> Vec<f32> {
    let matrix = Matrix::new(tensor, Kind::Float);
    let mut numbers = vec![0.0; matrix.numbers().len()];
    matrix.numbers().copy_to(&mut numbers);
    numbers
}

/// Chunks of [rows, outputs of the chunk] → [rows, outputs].
fn in_rows(chunked: &[f32], rows: usize) -> Vec<f32> {
    let outputs = chunked.len() / rows;
    let mut out = vec![0f32; chunked.len()];
    let mut first = 0;
    for chunk in chunked.chunks(OUTPUTS_A_TASK * rows) {
        let length = chunk.len() / rows;
        for (row, part) in chunk.chunks_exact(length).enumerate() {
            out[row * outputs + first..row * outputs + first + length].copy_from_slice(part);
        }
        first += length;
    }
    out
}
