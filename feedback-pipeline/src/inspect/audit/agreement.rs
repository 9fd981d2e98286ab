//! Agreement of two scores of the same sentences.

use crate::error::{Error, Result};
use crate::inspect::frame::{Collected, failed};
use polars::prelude::*;
use schemas::Score;
use serde::Serialize;
use std::fmt;

/// Scores closer than this count as equal: they come in tenths, with float32 rounding errors.
pub(super) const DUST: f64 = 1e-4;
/// Decimals of a score that its rank depends on.
const DECIMALS: u32 = 4;
/// Maximum number of disagreements shown.
const MOST_SHOWN: usize = 10;
/// Positions shown separately; later ones are combined.
pub(super) const POSITIONS: u32 = 10;

/// Two scores of one sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The rollout.
    pub rollout_id: String,
    /// Its problem.
    pub problem_id: String,
    /// Place of the sentence, from 0.
    pub sentence_index: u32,
    /// The sentence.
    pub sentence: String,
    /// Score in the table.
    pub first: f32,
    /// Score of the audit.
    pub again: f32,
}

impl Pair {
    fn drift(&self) -> f64 {
        f64::from(self.again) - f64::from(self.first)
    }
}

/// Agreement at one position of a sentence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// From 1; 10 stands for all later ones, too.
    pub position: u32,
    /// Sentences.
    pub sentences: usize,
    /// Mean score in the table.
    pub mean_first: f64,
    /// Mean score of the audit.
    pub mean_again: f64,
    /// Share of equal scores.
    pub exact: f64,
}

/// A sentence that the two score differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// The rollout.
    pub rollout_id: String,
    /// Its problem.
    pub problem_id: String,
    /// Place of the sentence, from 0.
    pub sentence_index: u32,
    /// The sentence.
    pub sentence: String,
    /// Score in the table.
    pub first: f32,
    /// Score of the audit.
    pub again: f32,
}

/// Agreement over all sentences.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Sentences.
    pub sentences: usize,
    /// Share of equal scores.
    pub exact: Option<f64>,
    /// Share of scores at most 0.1 apart.
    pub within_tenth: Option<f64>,
    /// Spearman's rank correlation; `None` if all scores of a side are equal.
    pub rank_correlation: Option<f64>,
    /// Mean score in the table.
    pub mean_first: Option<f64>,
    /// Mean score of the audit.
    pub mean_again: Option<f64>,
    /// Mean of the audit minus that of the table.
    pub drift: Option<f64>,
    /// By position of the sentence.
    pub places: Vec<Place>,
    /// The largest disagreements.
    pub largest: Vec<Disagreement>,
}

impl Agreement {
    /// Compares pairs of scores, in any order.
    ///
    /// # Errors
    /// Never with scores that are numbers.
    pub fn of(mut pairs: Vec<Pair>) -> Result<Self> {
        if pairs.is_empty() {
            return Ok(Self::default());
        }
        let scores = scores(&pairs).map_err(failed::<Score>)?.lazy();
        let sums = Collected::of::<Score>(scores.clone().select(summary()))?;
        let number = |name: &str| Ok::<_, Error>(sums.numbers(name)?.first().copied().flatten());
        let mut agreement = Self {
            sentences: pairs.len(),
            exact: number("exact")?,
            within_tenth: number("within_tenth")?,
            rank_correlation: rank_correlation(scores.clone())?,
            mean_first: number("first")?,
            mean_again: number("again")?,
            drift: number("drift")?,
            places: places(scores)?,
            largest: Vec::new(),
        };
        pairs.retain(|pair| pair.drift().abs() > DUST);
        pairs.sort_by(|a, b| {
            let size = b.drift().abs().total_cmp(&a.drift().abs());
            size.then_with(|| (&a.rollout_id, a.sentence_index).cmp(&(&b.rollout_id, b.sentence_index)))
        });
        agreement.largest = pairs.into_iter().take(MOST_SHOWN).map(Disagreement::from).collect();
        Ok(agreement)
    }
}

impl From<Pair> for Disagreement {
    fn from(pair: Pair) -> Self {
        let Pair { rollout_id, problem_id, sentence_index, sentence, first, again } = pair;
        Self { rollout_id, problem_id, sentence_index, sentence, first, again }
    }
}

/// Position and the two scores of each pair.
fn scores(pairs: &[Pair]) -> PolarsResult<DataFrame> {
    let column = |name: &str, value: fn(&Pair) -> f64| {
        Float64Chunked::from_iter_values(name.into(), pairs.iter().map(value)).into_column()
    };
    let positions = pairs.iter().map(|pair| u64::from((pair.sentence_index + 1).min(POSITIONS)));
    DataFrame::new_infer_height(vec![
        UInt64Chunked::from_iter_values("position".into(), positions).into_column(),
        column("first", |pair| f64::from(pair.first)),
        column("again", |pair| f64::from(pair.again)),
    ])
}

fn summary() -> Vec<Expr> {
    let drift = || col("again") - col("first");
    let share = |near: f64| drift().abs().lt_eq(lit(near)).cast(DataType::Float64).mean();
    vec![
        len().alias("sentences"),
        share(DUST).alias("exact"),
        share(0.1 + DUST).alias("within_tenth"),
        col("first").mean(),
        col("again").mean(),
        drift().mean().alias("drift"),
    ]
}

fn places(scores: LazyFrame) -> Result<Vec<Place>> {
    let by_position = scores
        .group_by_stable([col("position")])
        .agg(summary())
        .sort(["position"], SortMultipleOptions::default());
    let rows = Collected::of::<Score>(by_position)?;
    let (positions, sentences) = (rows.counts("position")?, rows.counts("sentences")?);
    let (first, again, exact) = (rows.numbers("first")?, rows.numbers("again")?, rows.numbers("exact")?);
    let place = |row: usize| Place {
        position: u32::try_from(positions[row]).unwrap_or(POSITIONS),
        sentences: usize::try_from(sentences[row]).unwrap_or_default(),
        mean_first: first[row].unwrap_or_default(),
        mean_again: again[row].unwrap_or_default(),
        exact: exact[row].unwrap_or_default(),
    };
    Ok((0..rows.len()).map(place).collect())
}

/// Spearman's rank correlation: Pearson's correlation of ranks, with equal scores sharing the mean of their
/// ranks.
fn rank_correlation(scores: LazyFrame) -> Result<Option<f64>> {
    let average = RankOptions { method: RankMethod::Average, descending: false };
    let rank = |name: &str| {
        col(name).round(DECIMALS, RoundMode::HalfAwayFromZero).rank(average, None).cast(DataType::Float64)
    };
    let centred = |name: &str| col(name) - col(name).mean();
    let product = |a: &str, b: &str| (centred(a) * centred(b)).sum();
    let ranked = scores.select([rank("first"), rank("again")]).select([
        product("first", "again").alias("product"),
        product("first", "first").alias("first"),
        product("again", "again").alias("again"),
    ]);
    let rows = Collected::of::<Score>(ranked)?;
    let number =
        |name: &str| Ok::<_, Error>(rows.numbers(name)?.first().copied().flatten().unwrap_or_default());
    let scale = (number("first")? * number("again")?).sqrt();
    Ok((scale > 0.0).then_some(number("product")? / scale))
}

/// A difference with its sign; zero is `+0.000`, never `-0.000`.
fn signed(value: f64) -> String {
    format!("{:+.3}", (value * 1000.0).round() / 1000.0 + 0.0)
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
        };
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        writeln!(f, "  sentences          {:>9}", self.sentences)?;
        writeln!(f, "  equal scores       {:>9}", percent(self.exact))?;
        writeln!(f, "  at most 0.1 apart  {:>9}", percent(self.within_tenth))?;
        writeln!(f, "  rank correlation   {:>9}  (Spearman)", number(self.rank_correlation))?;
        writeln!(f, "  mean score before  {:>9}", number(self.mean_first))?;
        writeln!(f, "  mean score now     {:>9}", number(self.mean_again))?;
        let drift = self.drift.map_or_else(|| "-".to_owned(), signed);
        writeln!(f, "  drift              {drift:>9}")?;
        if !self.places.is_empty() {
            writeln!(f, "\nsentence  number  before     now   drift   equal")?;
        }
        for place in &self.places {
            writeln!(
                f,
                "{:>8}  {:>6}  {:>6.3}  {:>6.3}  {:>6}  {:>5.1} %",
                if place.position == POSITIONS { "10+".to_owned() } else { place.position.to_string() },
                place.sentences,
                place.mean_first,
                place.mean_again,
                signed(place.mean_again - place.mean_first),
                place.exact * 100.0
            )?;
        }
        if !self.largest.is_empty() {
            writeln!(f, "\nlargest disagreements, before → now:")?;
        }
        for pair in &self.largest {
            let Disagreement { rollout_id, sentence_index, sentence, first, again, .. } = pair;
            writeln!(
                f,
                "  {first:.1} → {again:.1}  {rollout_id}, sentence {}: {sentence}",
                sentence_index + 1
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(index: u32, first: f32, again: f32) -> Pair {
        Pair {
            rollout_id: format!("r{index}"),
            problem_id: "p".to_owned(),
            sentence_index: index,
            sentence: "S.".to_owned(),
            first,
            again,
        }
    }

    #[test]
    fn numbers_are_those_worked_by_hand() {
        let pairs = vec![pair(0, 1.0, 1.0), pair(1, 0.5, 0.6), pair(2, 0.0, 0.4), pair(3, 0.7, 0.2)];
        let agreement = Agreement::of(pairs).unwrap();
        assert_eq!(
            (agreement.sentences, agreement.exact, agreement.within_tenth),
            (4, Some(0.25), Some(0.5))
        );
        // Ranks 4 2 1 3 and 4 3 2 1: 1 - 6 * (0 + 1 + 1 + 4) / (4 * 15) = 0.4.
        assert!((agreement.rank_correlation.unwrap() - 0.4).abs() < 1e-9);
        assert!(agreement.drift.unwrap().abs() < 1e-6, "+0.1 + 0.4 - 0.5");
        assert_eq!(agreement.places.len(), 4);
        let largest: Vec<_> = agreement.largest.iter().map(|pair| pair.rollout_id.as_str()).collect();
        assert_eq!(largest, ["r3", "r2", "r1"]);
    }

    #[test]
    fn equal_values_share_their_rank() {
        let pairs = [(0.5, 0.4), (0.1, 0.2), (0.5, 0.1), (1.0, 0.9)];
        let pairs = (0..).zip(pairs).map(|(at, (first, again))| pair(at, first, again)).collect();
        // Ranks 2.5 1 2.5 4 and 3 2 1 4: products of their distances from 2.5 sum to 3, squares to 4.5 and 5.
        let correlation = Agreement::of(pairs).unwrap().rank_correlation.unwrap();
        assert!((correlation - 3.0 / 22.5_f64.sqrt()).abs() < 1e-12, "{correlation}");
        let same_first = vec![pair(0, 0.5, 0.1), pair(1, 0.5, 0.9)];
        assert_eq!(Agreement::of(same_first).unwrap().rank_correlation, None);
        assert_eq!(Agreement::of(Vec::new()).unwrap(), Agreement::default());
    }

    #[test]
    fn a_tenth_apart_is_within_a_tenth_and_more_is_not() {
        let within = |again: f32| Agreement::of(vec![pair(0, 0.5, again)]).unwrap().within_tenth;
        assert_eq!(
            (within(0.6), within(0.4)),
            (Some(1.0), Some(1.0)),
            "0.1 apart, whatever floats make of it"
        );
        assert_eq!((within(0.65), within(0.35), within(0.61)), (Some(0.0), Some(0.0), Some(0.0)));
    }
}
