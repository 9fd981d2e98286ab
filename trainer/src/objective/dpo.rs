//! Direct preference optimization (Rafailov et al., 2023): raises the likelihood of the better of two rationales of a problem
//! over that of the worse one, relative to the round's starting policy.
//!
//! L = mean over pairs of −log σ(β · (Δ_better − Δ_worse)), Δ = Σ_t m_t · (log π − log π_start)(a_t). The step mask m is 0 at
//! tokens of sentences that both rationales have, so that text unchanged by a correction is neither raised nor lowered.

use super::Objective;
use super::experience::{Experience, groups};
use super::plan::Plan;
use super::rows::{Sequence, split_rows};
use super::statistics::Statistics;
use crate::backend;
use crate::backend::memory::in_batches;
use crate::collective::Group;
use crate::data::batch;
use crate::data::batch::{Padded, Portion, Row};
use crate::data::vision::ImageFeatures;
use crate::error::{Error, Result};
use crate::model::Student;
use crate::nn::mode::Mode;
use crate::nn::weights::Weights;
use crate::rollout::logprobs::{backward_by_positions, token_logprobs};
use schemas::settings::PairSource;
use std::collections::HashSet;
use tch::{Kind, Tensor, no_grad};

/// One rationale of a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Its tokens, including eos if it ends.
    pub tokens: Vec<i64>,
    /// 1 for the tokens that count, 0 for those of sentences that the other side has too.
    pub mask: Vec<f32>,
    /// log π_start(token).
    pub start: Vec<f32>,
}

/// A better and a worse rationale of a problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Problem whose picture belongs to the source.
    pub problem_id: String,
    /// Source tokens.
    pub source: Vec<i64>,
    /// The better rationale.
    pub better: Side,
    /// The worse one.
    pub worse: Side,
    /// Tokens of both, for lengths and messages.
    both: Vec<i64>,
}

/// Tokens of a rationale, with the last tokens of its sentences.
pub type Text<'a> = (&'a [i64], &'a [u32]);

impl Pair {
    /// A pair of different texts; `None` if no token of either counts.
    pub fn new(problem_id: &str, source: &[i64], better: Text<'_>, worse: Text<'_>) -> Option<Self> {
        let side = |own: Text<'_>, other: Text<'_>| {
            let mask = step_mask(own, other);
            Side { tokens: own.0.to_vec(), mask, start: Vec::new() }
        };
        let (first, second) = (side(better, worse), side(worse, better));
        let counts = first.mask.iter().chain(&second.mask).any(|mask| *mask > 0.0);
        (counts && better.0 != worse.0).then(|| Self {
            problem_id: problem_id.to_owned(),
            source: source.to_vec(),
            both: [better.0, worse.0].concat(),
            better: first,
            worse: second,
        })
    }
}

impl Row for Pair {
    fn problem_id(&self) -> &str {
        &self.problem_id
    }

    fn source(&self) -> &[i64] {
        &self.source
    }

    fn target(&self) -> &[i64] {
        &self.both
    }
}

/// 0 at tokens of sentences that `other` has word for word, 1 elsewhere. Tokens after the last sentence count: they determine
/// whether the text ends.
fn step_mask((tokens, ends): Text<'_>, other: Text<'_>) -> Vec<f32> {
    let others: HashSet<&[i64]> = sentences(other).map(|(start, end)| &other.0[start..end]).collect();
    let mut mask = vec![1.0; tokens.len()];
    for (start, end) in sentences((tokens, ends)) {
        if others.contains(&tokens[start..end]) {
            mask[start..end].fill(0.0);
        }
    }
    mask
}

/// Token range of each sentence: the first token, and the one after the last.
fn sentences<'a>((tokens, ends): Text<'a>) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut start = 0;
    ends.iter().map(move |&end| {
        let own = (start, (end as usize + 1).min(tokens.len()).max(start));
        start = own.1;
        own
    })
}

/// A pair for each problem whose best sample's mean sentence score exceeds that of the worst by `margin` or more. Ties go to
/// the first sample.
pub fn pairs_of_scores(experience: &[Experience], margin: f64) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (problem, members) in groups(experience) {
        let scored = members.iter().filter(|&&member| experience[member].is_decided());
        let mut by_score: Vec<(f64, usize)> =
            scored.map(|&member| (experience[member].mean_score, member)).collect();
        by_score.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let (Some(&(high, best)), Some(&(low, worst))) = (by_score.first(), by_score.last()) else {
            continue;
        };
        // Scores are rounded to f32, so that a difference of 0.2 may be a little less.
        if best == worst || high - low < margin - 1e-6 {
            continue;
        }
        let (better, worse) = (&experience[best], &experience[worst]);
        let ends = (better.end_tokens(), worse.end_tokens());
        let texts =
            ((better.tokens.as_slice(), ends.0.as_slice()), (worse.tokens.as_slice(), ends.1.as_slice()));
        pairs.extend(Pair::new(problem, &better.source, texts.0, texts.1));
    }
    pairs
}

/// Metrics of each pair.
const NUMBERS: [&str; 5] = ["loss", "margin", "accuracy", "better_log_ratio", "worse_log_ratio"];

/// Direct preference optimization of a policy.
pub struct Dpo<'a> {
    /// The trained student; the round's starting policy until the first step.
    pub policy: &'a Student,
    /// Its weights.
    pub weights: &'a Weights,
    /// Image features of the problems.
    pub features: &'a ImageFeatures,
    /// Settings and number format.
    pub plan: Plan<'a>,
    /// Batch size of policy passes without gradients.
    pub together: usize,
    /// The ranks that train together.
    pub group: Group,
    /// The pairs.
    pub pairs: Vec<Pair>,
}

impl Dpo<'_> {
    fn mode(&self) -> Mode {
        Mode { train: false, kind: self.plan.kind }
    }

    /// log π of each token of some rationales.
    fn logprobs(&self, rows: &[Sequence<'_>]) -> Vec<Vec<f32>> {
        let rows: Vec<&Sequence<'_>> = rows.iter().collect();
        let padded = Padded::new(&rows, self.features, self.policy);
        let logprobs = no_grad(|| {
            let states = padded.states(self.policy, self.mode());
            token_logprobs(self.policy, &states, padded.tokens(), self.mode())
        });
        split_rows(&logprobs, rows.iter().map(|row| row.target().len()))
    }
}

impl Objective for Dpo<'_> {
    type Row = Pair;

    fn prepare(&mut self) -> Result<()> {
        let source = self.plan.settings.dpo_pairs;
        if self.pairs.is_empty() && source == PairSource::Scores {
            schemas::warn!(
                "rl: no two samples of a problem differ by rl.dpo_margin = {} or more in their mean scores, so there is \
                 nothing to learn, and the policy stays unchanged; lower it, or raise rollout.samples",
                self.plan.settings.dpo_margin
            );
            return Ok(());
        }
        if self.pairs.is_empty() {
            return Err(Error::input(
                "rl: expected pairs of a better and a worse rationale to learn from, found none",
                "lower rl.dpo_margin, raise rollout.samples, or set rl.dpo_pairs = all",
            ));
        }
        let sequences: Vec<Sequence<'_>> = self.pairs.iter().flat_map(sequences).collect();
        let start = self.group.numbers_of(&sequences, self.together, |own| {
            let mut start = Vec::with_capacity(own.len());
            in_batches("log-probabilities", own, self.together, |rows| {
                start.extend(self.logprobs(rows));
                Ok(())
            })?;
            Ok(start)
        })?;
        let mut start = start.into_iter();
        for pair in &mut self.pairs {
            pair.better.start = start.next().unwrap_or_default();
            pair.worse.start = start.next().unwrap_or_default();
        }
        Ok(())
    }

    fn measured(&self) -> Vec<(&'static str, f64)> {
        vec![("pairs", self.pairs.len() as f64)]
    }

    fn rows(&self) -> &[Pair] {
        &self.pairs
    }

    fn sets(&self) -> Vec<(&'static str, &Weights)> {
        vec![("policy", self.weights)]
    }

    /// The gradient of either rationale depends on the loss of the pair, so both run through the policy twice: once for the
    /// margins, and once for the gradients with the resulting weight of each token.
    fn backward(&self, pairs: &[&Pair], portion: Portion<'_>, share: f64) -> Statistics {
        let device = self.policy.device();
        let all = pairs.len() as f64;
        // Both rationales of a pair are on the same rank.
        let own = portion.rows(&batch::shared_lengths(pairs));
        let pairs: Vec<&Pair> = own.into_iter().map(|row| pairs[row]).collect();
        let sequences: Vec<Sequence<'_>> = pairs.iter().flat_map(|pair| sequences(pair)).collect();
        let rows: Vec<&Sequence<'_>> = sequences.iter().collect();
        let part_tokens = backend::of(device).part_tokens(self.plan.kind);
        let parts = batch::parts(&batch::shared_lengths(&rows), portion.whole(), part_tokens);
        let mut logprobs = vec![Vec::new(); sequences.len()];
        for part in &parts {
            let chosen: Vec<Sequence<'_>> = part.iter().map(|&row| sequences[row]).collect();
            for (&row, found) in part.iter().zip(self.logprobs(&chosen)) {
                logprobs[row] = found;
            }
        }
        let beta = self.plan.settings.dpo_beta;
        let mut statistics = Statistics::new(device).of_rows(&NUMBERS);
        // The weight of log π of each rationale's counted tokens.
        let mut worth = Vec::with_capacity(sequences.len());
        for (pair, logprobs) in pairs.iter().zip(logprobs.chunks(2)) {
            let better = log_ratio(&pair.better, &logprobs[0]);
            let worse = log_ratio(&pair.worse, &logprobs[1]);
            let margin = beta * (better - worse);
            // −log σ(m) = log(1 + e^−m), whose derivative is −σ(−m).
            let loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
            let slope = -beta / (1.0 + margin.exp()) / all * share;
            worth.extend([slope, -slope]);
            let accuracy = if margin > 0.0 { 1.0 } else { 0.0 };
            statistics.add_numbers(&[loss, margin, accuracy, better, worse]);
        }
        for (part, last) in portion.each(&parts) {
            let chosen: Vec<&Sequence<'_>> = part.iter().map(|&row| rows[row]).collect();
            let padded = Padded::new(&chosen, self.features, self.policy);
            let mut weights: Vec<f32> = Vec::new();
            for &row in part {
                let pair = pairs[row / 2];
                let side = if row % 2 == 0 { &pair.better } else { &pair.worse };
                weights.extend(side.mask.iter().map(|mask| mask * worth[row] as f32));
            }
            let weights = Tensor::from_slice(&weights).to_device(device);
            let states = padded.states(self.policy, self.mode());
            let loss = |logprobs: &Tensor, start: i64, length: i64| {
                (logprobs * weights.narrow(0, start, length)).sum(Kind::Float)
            };
            let mode = (self.mode(), last);
            let _ = backward_by_positions(self.policy, &states, padded.tokens(), mode, loss, None);
        }
        self.policy.flush_all_gradients();
        statistics
    }

    fn drift(&self, _: &[&Pair]) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// Both rationales of a pair, the better one first.
fn sequences(pair: &Pair) -> [Sequence<'_>; 2] {
    [&pair.better, &pair.worse].map(|side| Sequence {
        problem_id: &pair.problem_id,
        source: &pair.source,
        tokens: &side.tokens,
    })
}

/// Δ of a rationale, in nats.
fn log_ratio(side: &Side, logprobs: &[f32]) -> f64 {
    let tokens = side.mask.iter().zip(&side.start).zip(logprobs);
    tokens.map(|((mask, start), now)| f64::from(*mask) * (f64::from(*now) - f64::from(*start))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::experience::tests::experience;
    use super::*;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use schemas::Settings;
    use schemas::settings::RlSettings;
    use tch::Device;

    #[test]
    fn sentences_that_both_have_count_for_nothing() {
        // "A. B. C." and "A. D. C.": only B and D, and whether the text ends, are compared.
        let better: Text<'_> = (&[2, 3, 4, 5, 6, 7, 1], &[1, 3, 5]);
        let worse: Text<'_> = (&[2, 3, 9, 9, 6, 7, 1], &[1, 3, 5]);
        let pair = Pair::new("p", &[8], better, worse).expect("they differ");
        assert_eq!(pair.better.mask, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(pair.worse.mask, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(Pair::new("p", &[8], better, better), None);
    }

    #[test]
    fn the_best_sample_is_set_over_the_worst() {
        let mut rows = vec![
            experience("a", 2, &[(1, 0.4)]),
            experience("a", 3, &[(1, 0.9)]),
            experience("a", 4, &[(1, 0.6)]),
            experience("b", 3, &[(1, 0.6)]),
            experience("b", 2, &[(1, 0.5)]),
        ];
        rows[0].tokens = vec![6, 7];
        let pairs = pairs_of_scores(&rows, 0.2);
        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].better.tokens.len(), &pairs[0].worse.tokens), (3, &vec![6, 7]));
        assert_eq!(pairs_of_scores(&rows, 0.1).len(), 2);
        rows[4].tokens.push(5);
        assert_eq!(pairs_of_scores(&rows, 0.1).len(), 1, "the samples of b are the same text");
    }

    /// Opinions on all sentences of the best one differ: it has no score, and the next one takes its place.
    #[test]
    fn a_sample_without_a_score_is_in_no_pair() {
        let mut rows = vec![
            experience("a", 2, &[(1, 0.4)]),
            experience("a", 4, &[(0, 0.9), (1, 0.9)]),
            experience("a", 3, &[(1, 0.7)]),
        ];
        rows[1].undecided = vec![0];
        assert_eq!(pairs_of_scores(&rows, 0.2)[0].better.tokens.len(), 4, "one sentence is decided");
        rows[1].undecided = vec![0, 1];
        assert_eq!(pairs_of_scores(&rows, 0.2)[0].better.tokens.len(), 3);
        rows[2].undecided = vec![0];
        assert!(pairs_of_scores(&rows, 0.2).is_empty(), "a single sample has a score");
    }

    /// The gradient of the loss with respect to each weight, against that of the formula on whole tensors.
    #[test]
    fn pieces_give_the_gradient_of_the_formula() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let features = ImageFeatures::none(8);
        let settings = RlSettings { dpo_beta: 0.7, ..Settings::default().rl };
        let plan = Plan { settings: &settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
        let start = random_weights(&config, 1);
        let tokens =
            |count: i64, salt: i64| -> Vec<i64> { (0..count).map(|i| (i * 5 + salt) % 60 + 2).collect() };
        let texts =
            [(tokens(5, 1), tokens(9, 2)), (tokens(12, 3), tokens(4, 4)), (tokens(3, 5), tokens(3, 6))];
        let pair = |(row, (better, worse)): (usize, &(Vec<i64>, Vec<i64>))| {
            let source = tokens(6 + row as i64, 9);
            Pair::new(&row.to_string(), &source, (better, &[1]), (worse, &[2])).expect("a pair")
        };
        let run = |budget: Option<Option<u64>>| {
            let weights = start.copy_to(Device::Cpu);
            weights.train_only(|_| true);
            let policy = Student::new(&weights, &config);
            let pairs: Vec<Pair> = texts.iter().enumerate().map(pair).collect();
            let (weights, features, group) = (&weights, &features, Group::alone());
            let mut dpo = Dpo { policy: &policy, weights, features, plan, together: 2, group, pairs };
            dpo.prepare().expect("prepared");
            // As if the policy had changed since.
            for pair in &mut dpo.pairs {
                pair.better.start.iter_mut().for_each(|number| *number -= 0.1);
                pair.worse.start.iter_mut().for_each(|number| *number += 0.05);
            }
            let rows: Vec<&Pair> = dpo.pairs.iter().collect();
            let loss = match budget {
                Some(budget) => dpo.backward(&rows, budget.into(), 0.5).mean("loss").expect("a number"),
                None => {
                    let mut losses = Vec::new();
                    for pair in &dpo.pairs {
                        let delta = |side: &Side| {
                            let row =
                                Sequence { problem_id: "0", source: &pair.source, tokens: &side.tokens };
                            let padded = Padded::new(&[&row], features, &policy);
                            let states = padded.states(&policy, Mode::EVAL);
                            let now = token_logprobs(&policy, &states, padded.tokens(), Mode::EVAL);
                            let mask = Tensor::from_slice(&side.mask);
                            ((now - Tensor::from_slice(&side.start)) * mask).sum(Kind::Float)
                        };
                        losses.push(-((delta(&pair.better) - delta(&pair.worse)) * 0.7).log_sigmoid());
                    }
                    let loss = Tensor::stack(&losses, 0).mean(Kind::Float);
                    (&loss * 0.5).backward();
                    loss.double_value(&[])
                }
            };
            let gradients: Vec<Tensor> = weights.gradients().into_values().map(|g| g.copy()).collect();
            (loss, gradients)
        };
        let (expected, gradients) = run(None);
        for budget in [None, Some(30), Some(1)] {
            let (loss, found) = run(Some(budget));
            assert!((loss - expected).abs() < 1e-5, "{budget:?}: {loss} {expected}");
            assert_eq!(found.len(), gradients.len());
            for (found, expected) in found.iter().zip(&gradients) {
                let off = (found - expected).abs().max().double_value(&[]);
                assert!(off < 1e-5, "{budget:?}: off by {off:e}");
            }
        }
    }
}
