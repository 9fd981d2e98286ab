//! What a stage takes in memory: weights, gradients, moments, and what a pass keeps for its way back, counted tensor by
//! tensor as `student/` and `objective/` make them. Numbers are bytes.

use crate::backend::{forced_tokens, head_positions};
use crate::student::StudentConfig;
use tch::{Device, Kind};

const FLOAT: f64 = 4.0;

/// A process with libtorch, before it holds weights.
const PROCESS: f64 = 190e6;

/// Tensors as large as the logits of some positions that a pass takes for its head: the logits, their exponentials, the
/// gradients of both, and as many gaps; measured.
const LOGITS: f64 = 8.0;

/// Parts of the positions that leave such gaps of their own.
const PARTS_WITH_GAPS: f64 = 2.0;

/// Positions in a page of the decoder's cache.
const PAGE: f64 = 32.0;

/// What the C library's heap needs for the tensors of a pass, as a multiple of them: it leaves gaps between them. More where
/// two networks take turns. Measured.
const ONE_NETWORK: f64 = 1.25;
const TWO_NETWORKS: f64 = 1.6;

/// What the parts of a stage take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Float32 weights, and copies of them in the number format of matrix products.
    pub weights: f64,
    /// Gradients of what is trained.
    pub gradients: f64,
    /// Two moments of what is trained, and a copy of it where a step may be undone.
    pub optimizer: f64,
    /// What a pass keeps, or the cache of decoding.
    pub passes: f64,
    /// The process itself.
    pub process: f64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.passes + self.process
    }

    /// The larger of two, as a whole.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if other.total() > self.total() { other } else { self }
    }
}

/// Rows of tokens in one pass.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Rows.
    pub rows: f64,
    /// Source tokens of each.
    pub source: f64,
    /// Target tokens of each.
    pub target: f64,
}

impl Batch {
    /// As many of these rows as `student.max_tokens_per_batch` lets through at once.
    #[must_use]
    pub fn within(self, budget: Option<u64>) -> Self {
        let most = budget.map_or(self.rows, |budget| budget as f64 / (self.source + self.target));
        Self { rows: self.rows.min(most.floor().max(1.0)), ..self }
    }
}

/// How a student is trained or run.
#[derive(Debug, Clone)]
pub struct Model<'a> {
    /// Its shape.
    pub config: &'a StudentConfig,
    /// Where it runs.
    pub device: Device,
    /// Number format of matrix products.
    pub kind: Kind,
    /// Patches of a picture.
    pub patches: f64,
    /// Numbers of the adapter that is trained instead of the weights.
    pub adapter: Option<f64>,
}

impl Model<'_> {
    /// Numbers of the student without an adapter.
    pub fn parameters(&self) -> f64 {
        count(self.config.shapes())
    }

    /// Numbers of the matrices that products read, the embedding left out unless it is the head.
    fn matrices(&self) -> f64 {
        let named = self.config.shapes().into_iter().filter(|(name, shape)| {
            let is_embedding = name == "shared.weight" && !self.config.tie_word_embeddings;
            shape.len() == 2 && !is_embedding && !name.contains("relative_attention_bias")
        });
        count(named.collect())
    }

    fn value_head(&self) -> f64 {
        count(self.config.value_head_shapes())
    }

    /// Bytes of a number in products.
    fn product(&self) -> f64 {
        if self.kind == Kind::Float { FLOAT } else { 2.0 }
    }

    /// Copies of the weights for products in another format.
    fn copies(&self) -> f64 {
        if self.kind == Kind::Float { 0.0 } else { 2.0 * self.matrices() }
    }

    /// Trained numbers of the policy.
    fn trained(&self) -> f64 {
        self.adapter.unwrap_or_else(|| self.parameters())
    }

    /// Supervised training: pretraining and fine-tuning.
    pub fn fine_tuning(&self, batch: Batch) -> Memory {
        let trained = self.trained();
        Memory {
            weights: FLOAT * (self.parameters() + self.adapter.unwrap_or(0.0)) + self.copies(),
            gradients: FLOAT * trained,
            optimizer: 2.0 * FLOAT * trained,
            passes: self.pass(batch, true, ONE_NETWORK),
            process: PROCESS,
        }
    }

    /// The answer model: an adapter of `matrices` numbers on merged weights.
    pub fn answering(&self, batch: Batch, matrices: f64) -> Memory {
        Self { adapter: Some(matrices), ..self.clone() }.fine_tuning(batch)
    }

    /// Passes of reinforcement learning. `value` says whether a value model learns with the policy, and whether it has a
    /// network of its own; `undone` whether a step may be undone.
    pub fn reinforcement(&self, batch: Batch, value: Option<bool>, undone: bool) -> Memory {
        let own_network = value == Some(true);
        let mut trained = self.trained();
        let mut weights = self.parameters() + self.adapter.unwrap_or(0.0);
        if value.is_some() {
            trained += self.value_head();
            weights += self.value_head();
        }
        if own_network {
            let head = if self.config.tie_word_embeddings {
                0
            } else {
                self.config.vocab_size * self.config.d_model
            };
            trained += self.adapter.unwrap_or(self.parameters() - head as f64);
            weights += self.adapter.unwrap_or_else(|| self.parameters());
        }
        Memory {
            weights: FLOAT * weights + self.copies(),
            gradients: FLOAT * trained,
            optimizer: (if undone { 3.0 } else { 2.0 }) * FLOAT * trained,
            passes: self.pass(batch, false, if own_network { TWO_NETWORKS } else { ONE_NETWORK }),
            process: PROCESS,
        }
    }

    /// Passes that train a value model alone, with a network of its own or the policy's.
    pub fn value_passes(&self, batch: Batch, own_network: bool) -> Memory {
        let adapter = self.adapter.unwrap_or(0.0);
        let network = if own_network { self.adapter.unwrap_or_else(|| self.parameters()) } else { 0.0 };
        let trained = network + self.value_head();
        // A head alone is trained on states without a way back.
        let passes = if own_network {
            self.pass(batch, false, ONE_NETWORK)
        } else {
            FLOAT * self.running() * batch.rows * (batch.source + batch.target)
        };
        Memory {
            weights: FLOAT * (self.parameters() + adapter + trained) + self.copies(),
            gradients: FLOAT * trained,
            optimizer: 2.0 * FLOAT * trained,
            passes,
            process: PROCESS,
        }
    }

    /// Decoding `rows` rows of `problems` problems together, with weights in `kind`.
    pub fn decoding(&self, problems: f64, rows: f64, source: f64, target: f64, kind: Kind) -> Memory {
        let config = self.config;
        let inner = (config.num_heads * config.d_kv) as f64;
        let number = if kind == Kind::Float { FLOAT } else { 2.0 };
        let layers = config.decoder_layers() as f64;
        // The decoder's own keys and values are float32, in pages.
        let own = FLOAT * rows * (target / PAGE).ceil() * PAGE;
        let cache = 2.0 * layers * inner * (own + number * problems * source);
        let logits = 2.0 * FLOAT * rows * config.vocab_size as f64;
        let copies = if kind == Kind::Float { 0.0 } else { 2.0 * self.matrices() };
        Memory {
            weights: FLOAT * self.parameters() + copies,
            passes: cache + logits,
            process: PROCESS,
            ..Memory::default()
        }
    }

    /// Teacher-forced passes over rows of `tokens` tokens together, sources included: log-probabilities of the reference, or
    /// in the number format of training.
    pub fn scoring(&self, tokens: f64) -> Memory {
        let tokens = forced_tokens(self.device).map_or(tokens, |most| most as f64);
        let positions = (head_positions(self.device) as f64).min(tokens);
        let passes = FLOAT * (3.0 * positions * self.config.vocab_size as f64 + tokens * self.running());
        Memory {
            weights: FLOAT * self.parameters() + self.copies(),
            passes,
            process: PROCESS,
            ..Memory::default()
        }
    }

    /// Numbers for a token while a layer runs without gradients.
    fn running(&self) -> f64 {
        (4 * self.config.d_model + 4 * self.config.d_ff) as f64
    }

    /// What a pass with gradients keeps, with `gaps` in the heap. `dropout` says whether dropout is on.
    fn pass(&self, batch: Batch, dropout: bool, gaps: f64) -> f64 {
        let config = self.config;
        let Batch { rows, source, target } = batch;
        let (d, ff) = (config.d_model as f64, config.d_ff as f64);
        let (heads, inner) = (config.num_heads as f64, (config.num_heads * config.d_kv) as f64);
        let drop = if dropout && config.dropout_rate > 0.0 { 1.0 } else { 0.0 };
        let all = if self.adapter.is_none() { 1.0 } else { 0.0 };
        let number = self.product();
        let (sources, targets) = (rows * source, rows * target);
        // Residual, its normalization where the norm's weight is trained, what enters the products, dropout's mask.
        let sublayer = |tokens: f64| tokens * d * (FLOAT * (1.0 + all + drop) + number);
        // The softmax; with dropout its mask and what is left; a copy for the products.
        let scores = |queries: f64, keys: f64| {
            let copy = if number == FLOAT { 0.0 } else { number };
            rows * heads * queries * keys * (FLOAT * (1.0 + 2.0 * drop) + copy)
        };
        let own = |tokens: f64, length: f64| {
            sublayer(tokens) + tokens * inner * 4.0 * number + scores(length, length)
        };
        let cross = sublayer(targets) + (targets + sources) * inner * 2.0 * number + scores(target, source);
        let inside = if config.is_gated() { 4.0 + drop } else { 1.0 + 2.0 * drop };
        let feed = |tokens: f64| sublayer(tokens) + tokens * ff * inside * number;
        let encoder = config.num_layers as f64 * (own(sources, source) + feed(sources));
        let decoder = config.decoder_layers() as f64 * (own(targets, target) + cross + feed(targets));
        let fusion =
            FLOAT * (10.0 * sources * d + 3.0 * rows * self.patches * d + 2.0 * sources * self.patches);
        let biases = FLOAT * heads * (rows * source * source + target * target);
        // Of the layer that runs.
        let running = 3.0 * FLOAT * rows * heads * source.max(target) * source.max(target);
        let logits = |parts: f64, tensors: f64| {
            let positions = targets.min(head_positions(self.device) as f64 * parts);
            FLOAT * positions * config.vocab_size as f64 * tensors
        };
        let layers = encoder + decoder + fusion + biases;
        match self.device {
            Device::Cpu => layers * gaps + running.max(logits(PARTS_WITH_GAPS, LOGITS)),
            _ => layers + running.max(logits(1.0, LOGITS / 2.0)),
        }
    }
}

fn count(shapes: Vec<(String, Vec<i64>)>) -> f64 {
    shapes.into_iter().map(|(_, shape)| shape.iter().product::<i64>() as f64).sum()
}
