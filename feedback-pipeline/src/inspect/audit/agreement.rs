//! How far two scores of the same sentences agree.

use serde::Serialize;
use std::fmt;

/// Scores closer than this are the same; they come in tenths, and float32 adds some dust.
pub(super) const DUST: f64 = 1e-4;
/// Disagreements that are shown.
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
    /// Mean of the audit less that of the table.
    pub drift: Option<f64>,
    /// By position of the sentence.
    pub places: Vec<Place>,
    /// The largest disagreements.
    pub largest: Vec<Disagreement>,
}

impl Agreement {
    /// Compares; the pairs' order does not matter.
    pub fn of(mut pairs: Vec<Pair>) -> Self {
        if pairs.is_empty() {
            return Self::default();
        }
        let share =
            |near: f64| mean(pairs.iter().map(|pair| f64::from(u8::from(pair.drift().abs() <= near))));
        let first: Vec<f32> = pairs.iter().map(|pair| pair.first).collect();
        let again: Vec<f32> = pairs.iter().map(|pair| pair.again).collect();
        let mut agreement = Self {
            sentences: pairs.len(),
            exact: Some(share(DUST)),
            within_tenth: Some(share(0.1 + DUST)),
            rank_correlation: correlation(&ranks(&first), &ranks(&again)),
            mean_first: Some(mean(first.iter().copied().map(f64::from))),
            mean_again: Some(mean(again.iter().copied().map(f64::from))),
            drift: Some(mean(pairs.iter().map(Pair::drift))),
            places: places(&pairs),
            largest: Vec::new(),
        };
        pairs.retain(|pair| pair.drift().abs() > DUST);
        pairs.sort_by(|a, b| {
            let size = b.drift().abs().total_cmp(&a.drift().abs());
            size.then_with(|| (&a.rollout_id, a.sentence_index).cmp(&(&b.rollout_id, b.sentence_index)))
        });
        agreement.largest = pairs.into_iter().take(MOST_SHOWN).map(Disagreement::from).collect();
        agreement
    }
}

impl From<Pair> for Disagreement {
    fn from(pair: Pair) -> Self {
        let Pair { rollout_id, problem_id, sentence_index, sentence, first, again } = pair;
        Self { rollout_id, problem_id, sentence_index, sentence, first, again }
    }
}

fn places(pairs: &[Pair]) -> Vec<Place> {
    let place = |position: u32| {
        let here: Vec<&Pair> =
            pairs.iter().filter(|pair| (pair.sentence_index + 1).min(POSITIONS) == position).collect();
        (!here.is_empty()).then(|| Place {
            position,
            sentences: here.len(),
            mean_first: mean(here.iter().map(|pair| f64::from(pair.first))),
            mean_again: mean(here.iter().map(|pair| f64::from(pair.again))),
            exact: mean(here.iter().map(|pair| f64::from(u8::from(pair.drift().abs() <= DUST)))),
        })
    };
    (1..=POSITIONS).filter_map(place).collect()
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Ranks from 1; equal values share the mean of their ranks.
pub(super) fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = |end: &usize| f64::from((values[order[*end]] - values[order[start]]).abs()) <= DUST;
        let end = (start..order.len()).take_while(same).last().unwrap_or(start) + 1;
        let rank = (start + end + 1) as f64 / 2.0;
        for at in &order[start..end] {
            ranks[*at] = rank;
        }
        start = end;
    }
    ranks
}

/// Pearson's correlation, of ranks that is Spearman's.
pub(super) fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a.iter().copied()), mean(b.iter().copied()));
    let product: f64 = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let square = |values: &[f64], mean: f64| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let scale = (square(a, mean_a) * square(b, mean_b)).sqrt();
    (scale > 0.0).then(|| product / scale)
}

/// With its sign; nothing is `+0.000`, never `-0.000`.
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
        let agreement = Agreement::of(pairs);
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
        assert_eq!(ranks(&[0.5, 0.1, 0.5, 1.0]), [2.5, 1.0, 2.5, 4.0]);
        assert_eq!(Agreement::of(vec![pair(0, 0.5, 0.1), pair(1, 0.5, 0.9)]).rank_correlation, None);
        assert_eq!(Agreement::of(Vec::new()), Agreement::default());
    }

    #[test]
    fn a_tenth_apart_is_within_a_tenth_and_more_is_not() {
        let within = |again: f32| Agreement::of(vec![pair(0, 0.5, again)]).within_tenth;
        assert_eq!(
            (within(0.6), within(0.4)),
            (Some(1.0), Some(1.0)),
            "0.1 apart, whatever floats make of it"
        );
        assert_eq!((within(0.65), within(0.35), within(0.61)), (Some(0.0), Some(0.0), Some(0.0)));
    }
}
