//! What a stage takes in memory: weights, gradients, moments, and what a pass keeps for its way back, counted tensor by
//! tensor as `model/` and `objective/` make them, and the gaps that the C library's heap leaves between them. Numbers are
//! bytes.

use crate::backend;
use crate::model::ModelConfig;
use crate::model::footprint::{Decoding, Pass};
use crate::nn::value_head;
use tch::{Device, Kind};

const FLOAT: f64 = 4.0;

/// A process with libtorch before it holds weights: 90 MB of mapped code, 60 MB of libtorch's tables of operations, and 40 MB
/// for buffers of matrix products, the tokenizer and tables.
const PROCESS: f64 = 190e6;

/// Tensors as large as the logits of some positions that are held at once, on the way back: the logits, the logits without their
/// normalizer, the exponentials of those, and the gradient.
const HEAD: f64 = 4.0;

/// As [`HEAD`], without a way back: the logits and their exponentials.
const HEAD_FORWARD: f64 = 2.0;

/// Memory of the C library's heap that no tensor is in while the most is held. Freed memory is reused, but a smaller tensor that
/// takes a part of it, and is kept, leaves too little for the next large one. Both numbers are measured
/// (docs/benchmarks.md); a run of the same step may differ by a tensor of the head.
#[derive(Debug, Clone, Copy)]
struct Gaps {
    /// In units of what the layers keep.
    layers: f64,
    /// In tensors of the head. Those of its second part do not fit where those of the first were; later ones do.
    head: f64,
}

/// One network in training, without dropout.
const PLAIN: Gaps = Gaps { layers: 0.35, head: 2.0 };
/// With dropout, each mask is drawn into memory that is free again once it is a tensor.
const DROPOUT: Gaps = Gaps { head: 3.5, ..PLAIN };
/// Two networks take turns: what the passes of one leave free is cut up by those of the other.
const TWO_NETWORKS: Gaps = Gaps { layers: 0.6, head: 3.0 };
/// A pass without a way back keeps nothing between the tensors of the head.
const FORWARD: Gaps = Gaps { layers: 0.0, head: 1.5 };
/// A GPU's allocator keeps tensors of the same sizes ready.
const NONE: Gaps = Gaps { layers: 0.0, head: 0.0 };

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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch {
    /// Rows.
    pub rows: f64,
    /// Sources that run through the encoder: fewer than rows where rows share them.
    pub sources: f64,
    /// Source tokens of each source.
    pub source: f64,
    /// Target tokens of each row.
    pub target: f64,
}

impl Batch {
    /// Rows with a source each.
    pub fn new(rows: f64, source: f64, target: f64) -> Self {
        Self { rows, sources: rows, source, target }
    }

    /// These rows, `samples` of each problem side by side: those of a problem share its source.
    #[must_use]
    pub fn of_samples(self, samples: f64) -> Self {
        // Where a batch ends within a problem, the next one begins with the rest of it.
        let begun = if self.rows % samples == 0.0 { 0.0 } else { 1.0 };
        let problems = ((self.rows - begun) / samples).ceil() + begun;
        Self { sources: problems.min(self.rows), ..self }
    }

    /// The share of one of so many ranks, to which rows are dealt one by one.
    #[must_use]
    pub fn of_rank(self, ranks: f64) -> Self {
        let rows = (self.rows / ranks).ceil();
        Self { rows, sources: self.sources.min(rows), ..self }
    }

    /// As many of these rows as `student.max_tokens_per_batch` lets through at once.
    #[must_use]
    pub fn within(self, budget: Option<u64>) -> Self {
        let Some(budget) = budget.map(|budget| budget as f64) else { return self };
        let shared = self.sources / self.rows;
        let some = |rows: f64| Self { rows, sources: (rows * shared).ceil(), ..self };
        let fits = |batch: &Self| batch.sources * batch.source + batch.rows * batch.target <= budget;
        if fits(&self) {
            return self;
        }
        let most = budget / (shared * self.source + self.target);
        let mut batch = some(most.floor().clamp(1.0, self.rows));
        while batch.rows > 1.0 && !fits(&batch) {
            batch = some(batch.rows - 1.0);
        }
        batch
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
    /// Whether what enters the adapter's layers goes through a dropout of its own.
    pub adapter_dropout: bool,
    /// Ranks that share out the optimizer's state; 1 where each has all of it.
    pub shards: f64,
}

impl Model<'_> {
    /// The same with an adapter of so many numbers that is trained, and nothing else.
    #[must_use]
    pub fn with_adapter(&self, numbers: f64, dropout: bool) -> Self {
        Self { adapter: Some(numbers), adapter_dropout: dropout, ..self.clone() }
    }

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

    /// Both moments of so many trained numbers, or this rank's part of them.
    fn moments(&self, trained: f64) -> f64 {
        2.0 * FLOAT * trained / self.shards
    }

    /// Supervised training: pretraining and fine-tuning.
    pub fn fine_tuning(&self, batch: Batch) -> Memory {
        let trained = self.trained();
        Memory {
            weights: FLOAT * (self.parameters() + self.adapter.unwrap_or(0.0)) + self.copies(),
            gradients: FLOAT * trained,
            optimizer: self.moments(trained),
            passes: self.pass(batch, true, DROPOUT),
            process: PROCESS,
        }
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
            optimizer: self.moments(trained) + if undone { FLOAT * trained } else { 0.0 },
            passes: self.pass(batch, false, if own_network { TWO_NETWORKS } else { PLAIN }),
            process: PROCESS,
        }
    }

    /// Passes that train a value model alone, with a network of its own or the policy's.
    pub fn value_passes(&self, batch: Batch, own_network: bool) -> Memory {
        let adapter = self.adapter.unwrap_or(0.0);
        let network = if own_network { self.adapter.unwrap_or_else(|| self.parameters()) } else { 0.0 };
        let trained = network + self.value_head();
        // A value model makes no logits; a head alone is trained on states without a way back.
        let passes = if own_network {
            let (layers, scores) = self.layers(batch, false);
            layers * (1.0 + self.gaps(PLAIN).layers) + scores
        } else {
            FLOAT * self.config.running() * (batch.sources * batch.source + batch.rows * batch.target)
        };
        Memory {
            weights: FLOAT * (self.parameters() + adapter + trained) + self.copies(),
            gradients: FLOAT * trained,
            optimizer: self.moments(trained),
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

    /// Decoding with the student that `training` trains, to see what it has learned; `stepping` says whether training goes on
    /// afterwards. Layers with an adapter are added up in copies of their weights.
    pub fn decoding_in_training(&self, training: Memory, decoding: Memory, stepping: bool) -> Memory {
        let cast = decoding.weights - FLOAT * self.parameters();
        let copies = if cast > 0.0 || self.adapter.is_none() { cast } else { FLOAT * self.matrices() };
        Memory {
            weights: training.weights + copies,
            optimizer: if stepping { training.optimizer } else { 0.0 },
            passes: decoding.passes,
            ..training
        }
    }

    /// Teacher-forced passes over `samples` rows of each of `problems` problems together: log-probabilities of the reference,
    /// or in the number format of training.
    pub fn scoring(&self, problems: f64, samples: f64, source: f64, target: f64) -> Memory {
        let of_problem = source + samples * target;
        let most = backend::of(self.device).scoring_tokens();
        let problems = most.map_or(problems, |most| (most as f64 / of_problem).floor().clamp(1.0, problems));
        let head = self.head(problems * samples * target, HEAD_FORWARD, FORWARD);
        Memory {
            weights: FLOAT * self.parameters() + self.copies(),
            passes: head.max(FLOAT * problems * of_problem * self.config.running()),
            process: PROCESS,
            ..Memory::default()
        }
    }

    /// What a pass with gradients keeps. `dropout` says whether dropout is on.
    fn pass(&self, batch: Batch, dropout: bool, gaps: Gaps) -> f64 {
        let (layers, scores) = self.layers(batch, dropout);
        let head = self.head(batch.rows * batch.target, HEAD, gaps);
        layers * (1.0 + self.gaps(gaps).layers) + scores.max(head)
    }

    /// What a pass with gradients keeps by layer, and the scores of the layer that runs.
    fn layers(&self, batch: Batch, dropout: bool) -> (f64, f64) {
        let Batch { rows, sources, source, target } = batch;
        let pass = Pass {
            rows,
            sources,
            source,
            target,
            patches: self.patches,
            number: self.product(),
            dropout,
            adapter: self.adapter.is_some(),
            adapter_dropout: dropout && self.adapter_dropout,
        };
        (self.config.kept_by_pass(&pass), self.config.scores_of_layer(&pass))
    }

    /// The head on so many positions, a part of them at a time, where it holds so many tensors at once.
    fn head(&self, positions: f64, tensors: f64, gaps: Gaps) -> f64 {
        let part = backend::of(self.device).head_positions() as f64;
        let of_positions = |most: f64| FLOAT * positions.min(most) * self.config.vocabulary() as f64;
        tensors * of_positions(part) + self.gaps(gaps).head * of_positions(2.0 * part)
    }

    /// The gaps where the device has any.
    fn gaps(&self, gaps: Gaps) -> Gaps {
        if backend::of(self.device).has_heap_gaps() { gaps } else { NONE }
    }
}

fn count(shapes: Vec<(String, Vec<i64>)>) -> f64 {
    shapes.into_iter().map(|(_, shape)| shape.iter().product::<i64>() as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_and_sources(batch: Batch) -> (f64, f64) {
        (batch.rows, batch.sources)
    }

    #[test]
    fn samples_of_a_problem_share_its_source() {
        let batch = |rows| Batch::new(rows, 100.0, 10.0);
        assert_eq!(rows_and_sources(batch(8.0)), (8.0, 8.0));
        assert_eq!(rows_and_sources(batch(8.0).of_samples(4.0)), (8.0, 2.0));
        // Samples of four problems may meet in eight rows: 1 + 3 + 3 + 1.
        assert_eq!(rows_and_sources(batch(8.0).of_samples(3.0)), (8.0, 4.0));
        assert_eq!(rows_and_sources(batch(2.0).of_samples(5.0)), (2.0, 2.0));
        assert_eq!(rows_and_sources(batch(3.0).of_samples(1.0)), (3.0, 3.0));
    }

    #[test]
    fn a_rank_and_a_budget_take_a_part() {
        let batch = Batch::new(10.0, 100.0, 10.0);
        assert_eq!(rows_and_sources(batch.of_rank(4.0)), (3.0, 3.0));
        assert_eq!(rows_and_sources(batch.of_samples(5.0).of_rank(4.0)), (3.0, 2.0));
        assert_eq!(rows_and_sources(batch.within(Some(340))), (3.0, 3.0));
        assert_eq!(rows_and_sources(batch.within(Some(1))), (1.0, 1.0));
        assert_eq!(batch.within(None), batch);
        // One source and five rows take 150 tokens, two sources and six rows 260.
        let shared = batch.of_samples(5.0);
        assert_eq!(rows_and_sources(shared.within(Some(259))), (5.0, 1.0));
        assert_eq!(rows_and_sources(shared.within(Some(260))), (6.0, 2.0));
        assert_eq!(shared.within(Some(300)), shared);
    }
}
