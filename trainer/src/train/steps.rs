//! The loop of optimizer steps shared by fine-tuning, value passes and policy passes: order and batches, the retry after
//! running out of memory, finiteness checks, the step itself, its metrics and its checkpoint.

use super::metrics::MetricLog;
use super::optimizer::{AdamW, clip_factor, gradient_norm, sum_gradients, summed_early, zero_gradients};
use super::progress::{Progress, interrupted};
use super::resume::StepCheckpoint;
use crate::backend::memory::unless_out_of_memory;
use crate::collective::{Group, Overlap};
use crate::data::batch::{Portion, Row};
use crate::error::{Error, Result};
use crate::nn::weights::Weights;
use crate::seed;
use std::ops::Range;
use std::time::Instant;
use tch::Tensor;

/// How rows are grouped into steps, and the limits of every step.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Stage for progress and messages, and for the seeds of the order.
    pub stage: &'static str,
    /// Passes over the rows.
    pub passes: u32,
    /// Rows in a step; the last step of a pass has the remaining rows.
    pub batch: usize,
    /// Rows of a minibatch, which are padded together.
    pub minibatch: usize,
    /// Whether each pass has its own random order.
    pub shuffle: bool,
    /// Whether rows of a problem stay adjacent when shuffled.
    pub by_problem: bool,
    /// Seed of the order.
    pub seed: u64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clip of the gradient's norm.
    pub max_grad_norm: Option<f64>,
    /// Maximum tokens per pass through the model.
    pub max_tokens: Option<u64>,
}

/// A result of the ranks' portions of a step that can be summed.
pub trait Share {
    /// Replaces it by the result of all portions, on every rank.
    ///
    /// # Errors
    /// If a rank has ended.
    fn add_up(&mut self, group: &Group) -> Result<()>;
}

/// A share of a loss.
impl Share for Tensor {
    fn add_up(&mut self, group: &Group) -> Result<()> {
        group.sum(self)
    }
}

/// Training in progress: weights, optimizer, and position.
#[derive(Debug)]
pub struct Training<'a, R> {
    schedule: Schedule,
    rows: &'a [R],
    sets: &'a [(&'a str, &'a Weights)],
    optimizer: AdamW,
    group: Group,
    /// Sums of the large gradients, from the second step on.
    sums: Option<Overlap>,
    /// Whether the first step is still to come.
    is_new: bool,
    saved: &'a mut StepCheckpoint,
    log: &'a mut MetricLog,
    progress: Progress,
    /// Pass and its order.
    order: (u64, Vec<usize>),
    /// Maximum tokens per pass through the model; reduced if memory runs out.
    budget: Option<u64>,
    /// When the step began.
    started: Instant,
}

impl<'a, R: Row> Training<'a, R> {
    /// Starts training, or continues from `saved`.
    ///
    /// # Errors
    /// If there are no rows, the step checkpoint is broken, or other ranks train something else.
    pub fn begin(
        schedule: Schedule,
        rows: &'a [R],
        sets: &'a [(&'a str, &'a Weights)],
        saved: &'a mut StepCheckpoint,
        log: &'a mut MetricLog,
    ) -> Result<Self> {
        if rows.is_empty() {
            let message = format!("{}: expected texts to learn from, found none", schedule.stage);
            return Err(Error::BadInput { message, hint: None });
        }
        let mut optimizer = saved.optimizer(sets, schedule.weight_decay);
        saved.restore(sets, &mut optimizer, log)?;
        let total = steps_per_pass(&schedule, rows.len()) * u64::from(schedule.passes);
        let group = saved.group().clone();
        Ok(Self {
            rows,
            sets,
            optimizer,
            group,
            sums: None,
            is_new: true,
            saved,
            log,
            progress: Progress::new(schedule.stage, total),
            order: (u64::MAX, Vec::new()),
            budget: schedule.max_tokens,
            started: Instant::now(),
            schedule,
        })
    }

    /// Optimizer steps in one pass.
    pub fn steps_per_pass(&self) -> u64 {
        steps_per_pass(&self.schedule, self.rows.len())
    }

    /// Optimizer steps in all passes.
    pub fn total(&self) -> u64 {
        self.steps_per_pass() * u64::from(self.schedule.passes)
    }

    /// Optimizer steps done, including those of an interrupted run.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Metrics so far.
    pub fn log(&self) -> &MetricLog {
        self.log
    }

    /// The ranks that train together.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The step checkpoint.
    pub fn saved(&self) -> &StepCheckpoint {
        self.saved
    }

    /// The rows of the step with index `place`, counted from 0 over all passes; the step's timer starts here.
    pub fn rows(&mut self, place: u64) -> Vec<&'a R> {
        self.started = Instant::now();
        let Schedule { stage, batch, shuffle, by_problem, seed, .. } = self.schedule;
        let steps_per_pass = self.steps_per_pass();
        let pass = place / steps_per_pass;
        if self.order.0 != pass {
            let order = if by_problem {
                let groups = groups(self.rows);
                let order = seed::order(groups.len(), shuffle, seed, stage, pass);
                order.into_iter().flat_map(|group| groups[group].clone()).collect()
            } else {
                seed::order(self.rows.len(), shuffle, seed, stage, pass)
            };
            self.order = (pass, order);
        }
        let start = (place % steps_per_pass) as usize * batch;
        self.order.1[start..(start + batch).min(self.rows.len())]
            .iter()
            .map(|&index| &self.rows[index])
            .collect()
    }

    /// Result of `work`, which adds the gradients of the given portion of `chosen`, summed over all ranks. Sums of large
    /// gradients may begin within its last backward pass. If memory runs out on any of them, all call it again with half the tokens
    /// per pass.
    ///
    /// # Errors
    /// If not even one row fits, or a rank has ended.
    pub fn gradients<T: Share>(&mut self, chosen: &[&R], work: impl Fn(Portion<'_>) -> T) -> Result<T> {
        loop {
            let portion = Portion::new(self.budget, self.group.rank(), self.group.world());
            let portion = portion.with_sums(self.sums.as_ref());
            let done = unless_out_of_memory(|| work(portion));
            if let Some(sums) = &mut self.sums {
                sums.end()?; // also where memory ran out: the other ranks may have begun
            }
            let lacks_memory = self.group.any(done.is_none())?;
            if let Some(mut done) = done.filter(|_| !lacks_memory) {
                done.add_up(&self.group)?;
                return Ok(done);
            }
            zero_gradients(self.sets);
            self.budget = Some(smaller_budget(self.budget, chosen, &self.schedule, self.group.world())?);
        }
    }

    /// One optimizer step with the gradients of `chosen`, summed over all ranks, and its numbers: gradient norm, learning
    /// rate, mean length of the targets, tokens per second.
    ///
    /// # Errors
    /// If the loss, given with its name, or the gradient is not finite: the batch is saved, and the error names its file. If
    /// the step does not fit into memory, or a rank has ended.
    pub fn step(
        &mut self,
        chosen: &[&R],
        loss: (&'static str, f64),
        learning_rate: f64,
    ) -> Result<[(&'static str, f64); 4]> {
        let stage = self.schedule.stage;
        sum_gradients(self.sets, &self.group, self.sums.as_ref())?;
        if std::mem::take(&mut self.is_new) {
            let early = summed_early(self.sets, &self.group)?;
            self.sums = Overlap::new(&self.group, early)?;
        }
        let norm = unless_out_of_memory(|| gradient_norm(self.sets)).ok_or_else(|| no_room(stage, STEP))?;
        // All ranks use the same clipping factor, even if their processors round differently.
        let norm = self.group.number_of_first(norm)?;
        if let Some(wrong) = [loss, ("gradient norm", norm)].into_iter().find(|(_, value)| !value.is_finite())
        {
            let place = (self.schedule.stage, self.steps());
            let failed =
                self.group.on_first(|| -> Result<()> { Err(self.saved.not_finite(place, wrong, chosen)) });
            failed?;
        }
        let scale = clip_factor(norm, self.schedule.max_grad_norm);
        while unless_out_of_memory(|| self.optimizer.step(self.sets, learning_rate, scale)).is_none() {
            if !self.optimizer.take_smaller_slices() {
                return Err(no_room(stage, STEP));
            }
            schemas::warn!("{stage}: out of memory in the optimizer's step; continuing it in smaller slices");
        }
        self.optimizer.spread(self.sets)?;
        let targets: usize = chosen.iter().map(|row| row.target().len()).sum();
        let sources: usize = chosen.iter().map(|row| row.source().len()).sum();
        Ok([
            ("gradient_norm", norm),
            ("learning_rate", learning_rate),
            ("length", targets as f64 / chosen.len() as f64),
            ("tokens_per_s", (sources + targets) as f64 / self.started.elapsed().as_secs_f64()),
        ])
    }

    /// Logs metrics of the last step, after `places` steps of the schedule.
    pub fn push<'n>(&mut self, places: u64, numbers: impl IntoIterator<Item = (&'n str, f64)>) {
        self.log.push(self.steps(), places as f64 / self.steps_per_pass() as f64, numbers);
    }

    /// Shows training progress.
    pub fn show(&mut self, places: u64, remark: String) {
        self.progress.set(places, remark);
    }

    /// Writes the step checkpoint if it is due, if `now`, or if Ctrl-C was pressed on any rank, which then ends training.
    /// Returns whether it was written.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; if a rank has ended.
    pub fn save(&mut self, now: bool) -> Result<bool> {
        let ends = self.group.any(interrupted())?; // read once: a later signal is handled after the next step
        let saved = self.saved.save(self.sets, &self.optimizer, self.log, now || ends)?;
        if ends { Err(Error::Interrupted) } else { Ok(saved) }
    }
}

/// The work that does not fit even in slices.
const STEP: &str = "the optimizer's step, whose moments take twice the memory of the weights";

/// The error where a stage has no memory for some work, whatever the batch.
pub(crate) fn no_room(stage: &str, work: &str) -> Error {
    Error::input(
        format!("{stage}: out of memory in {work}"),
        "use a smaller student, or rl.value_model = shared",
    )
}

/// Neighbouring rows of one problem.
fn groups<R: Row>(rows: &[R]) -> Vec<Range<usize>> {
    let mut start = 0;
    let of_problem = |group: &[R]| {
        start += group.len();
        start - group.len()..start
    };
    rows.chunk_by(|a, b| a.problem_id() == b.problem_id()).map(of_problem).collect()
}

fn steps_per_pass(schedule: &Schedule, rows: usize) -> u64 {
    rows.div_ceil(schedule.batch) as u64
}

/// Half the token budget that did not fit, if it can be halved; initially half of a rank's part of the largest minibatch,
/// padding included.
fn smaller_budget<R: Row>(
    budget: Option<u64>,
    chosen: &[&R],
    schedule: &Schedule,
    ranks: usize,
) -> Result<u64> {
    let longest = |rows: &[&R]| {
        let longest = |of: fn(&R) -> &[i64]| rows.iter().map(|row| of(row).len()).max().unwrap_or(0);
        (longest(R::source) + longest(R::target)) as u64
    };
    let whole =
        chosen.chunks(schedule.minibatch).map(|rows| rows.len().div_ceil(ranks) as u64 * longest(rows)).max();
    let whole = whole.unwrap_or(1);
    let single = chosen.iter().map(|row| (row.source().len() + row.target().len()) as u64).max().unwrap_or(1);
    halved(budget.map_or(whole, |budget| budget.min(whole)), single, schedule.stage)
}

/// Half a step's token budget, at least the longest row; reported to the user.
fn halved(budget: u64, longest: u64, stage: &str) -> Result<u64> {
    if budget <= longest {
        return Err(Error::input(
            format!("{stage}: out of memory on a single row of {longest} tokens"),
            "use a smaller student, --dtype bfloat16, or a smaller student.max_source_tokens",
        ));
    }
    let half = (budget / 2).max(longest);
    schemas::warn!(
        "{stage}: out of memory; continuing with at most {half} tokens per batch (student.max_tokens_per_batch)"
    );
    Ok(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::sft::Example;

    #[test]
    fn the_budget_is_halved_down_to_one_row() {
        assert_eq!(halved(1000, 100, "rl").expect("half"), 500);
        assert_eq!(halved(150, 100, "rl").expect("half"), 100);
        assert!(halved(100, 100, "rl").is_err());
    }

    /// Minibatches of two: [30 + 9, 8 + 20] take 2 · (30 + 20) tokens, [5 + 5] takes 10.
    #[test]
    fn what_does_not_bind_is_not_halved() {
        let lengths = [(30, 9), (8, 20), (5, 5)];
        let example = |(source, target): (usize, usize)| Example {
            problem_id: String::new(),
            source: vec![3; source],
            target: vec![3; target],
        };
        let rows = lengths.map(example);
        let schedule = Schedule {
            stage: "rl",
            passes: 1,
            batch: 4,
            minibatch: 2,
            shuffle: false,
            by_problem: false,
            seed: 0,
            weight_decay: 0.0,
            max_grad_norm: None,
            max_tokens: None,
        };
        let next = |budget| {
            smaller_budget(budget, &rows.iter().collect::<Vec<_>>(), &schedule, 1).expect("a budget")
        };
        assert_eq!(next(None), 50);
        assert_eq!(next(Some(1_000_000)), 50, "a bound that nothing comes near");
        assert_eq!(next(Some(60)), 39, "no less than the longest row");
    }

    #[test]
    fn samples_of_a_problem_stay_together() {
        let example =
            |problem: &str| Example { problem_id: problem.into(), source: vec![3], target: vec![3] };
        let rows = ["a", "a", "a", "b", "c", "c"].map(example);
        assert_eq!(groups(&rows), [0..3, 3..4, 4..6]);
    }
}
