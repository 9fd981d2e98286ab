//! What a stage takes in memory: weights, gradients, moments, and what a pass keeps for its way back, counted tensor by
//! tensor as `model/` and `objective/` make them. Numbers are bytes.

use crate::backend;
use crate::model::ModelConfig;
use crate::model::footprint::{Decoding, Pass};
use crate::nn::value_head;
use tch::{Device, Kind};

const FLOAT: f64 = 4.0;

/// A process with libtorch, before it holds weights.
const PROCESS: f64 = 190e6;

/// Tensors as large as the logits of some positions that a pass takes for its head: the logits, their exponentials, the
/// gradients of both, and as many gaps; measured.
const LOGITS: f64 = 8.0;

/// Parts of the positions that leave such gaps of their own.
const PARTS_WITH_GAPS: f64 = 2.0;

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
    pub config: &'a dyn ModelConfig,
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
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            shape.len() == 2 && self.config.is_product(layer)
        });
        let embedding = if self.config.head_layer().is_some() { 0 } else { self.vocabulary_by_width() };
        count(named.collect()) + embedding as f64
    }

    fn vocabulary_by_width(&self) -> i64 {
        self.config.vocabulary() * self.config.width()
    }

    fn value_head(&self) -> f64 {
        count(value_head::shapes(self.config.width()))
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
            let head = if self.config.head_layer().is_some() { self.vocabulary_by_width() } else { 0 };
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
            FLOAT * self.config.running() * batch.rows * (batch.source + batch.target)
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
        let number = if kind == Kind::Float { FLOAT } else { 2.0 };
        let cache = self.config.cache(&Decoding { problems, rows, source, target, number });
        let logits = 2.0 * FLOAT * rows * self.config.vocabulary() as f64;
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
        let tokens = backend::of(self.device).scoring_tokens().map_or(tokens, |most| most as f64);
        let positions = (backend::of(self.device).head_positions() as f64).min(tokens);
        let passes =
            FLOAT * (3.0 * positions * self.config.vocabulary() as f64 + tokens * self.config.running());
        Memory {
            weights: FLOAT * self.parameters() + self.copies(),
            passes,
            process: PROCESS,
            ..Memory::default()
        }
    }

    /// What a pass with gradients keeps, with `gaps` in the heap. `dropout` says whether dropout is on.
    fn pass(&self, batch: Batch, dropout: bool, gaps: f64) -> f64 {
        let Batch { rows, source, target } = batch;
        let pass = Pass {
            rows,
            source,
            target,
            patches: self.patches,
            number: self.product(),
            dropout,
            adapter: self.adapter.is_some(),
        };
        let layers = self.config.kept_by_pass(&pass);
        let running = self.config.scores_of_layer(&pass);
        let logits = |parts: f64, tensors: f64| {
            let positions = (rows * target).min(backend::of(self.device).head_positions() as f64 * parts);
            FLOAT * positions * self.config.vocabulary() as f64 * tensors
        };
        if backend::of(self.device).has_heap_gaps() {
            layers * gaps + running.max(logits(PARTS_WITH_GAPS, LOGITS))
        } else {
            layers + running.max(logits(1.0, LOGITS / 2.0))
        }
    }
}

fn count(shapes: Vec<(String, Vec<i64>)>) -> f64 {
    shapes.into_iter().map(|(_, shape)| shape.iter().product::<i64>() as f64).sum()
}
