//! Summary of judgements: win rate with its interval, ties, subjects, and position bias.

use super::frame::{Collected, failed, frame, left_join};
use crate::error::Result;
use polars::prelude::*;
use schemas::number::counted;
use schemas::{Dataset, Judgement, Problem};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// A share with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Cases that count.
    pub part: u64,
    /// All cases.
    pub whole: u64,
    /// The fraction; `None` if there are no cases.
    pub share: Option<f64>,
    /// Lower end of Wilson's score interval.
    pub low: f64,
    /// Upper end of Wilson's score interval.
    pub high: f64,
}

impl Share {
    /// A share of `whole` cases with Wilson's score interval, which stays within 0 and 1 for any counts.
    pub fn of(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Self { part, whole, share: None, low: 0.0, high: 1.0 };
        }
        let n = whole as f64;
        let p = part as f64 / n;
        let z2 = Z * Z;
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        Self { part, whole, share: Some(p), low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.share {
            None => f.write_str("none decided"),
            Some(share) => write!(
                f,
                "{:.1} % (95 % interval {:.1} to {:.1})",
                share * 100.0,
                self.low * 100.0,
                self.high * 100.0
            ),
        }
    }
}

/// Problems won, tied and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Results {
    /// The candidate is better.
    pub wins: u64,
    /// Neither is better, or the two orders contradict each other.
    pub ties: u64,
    /// The baseline is better.
    pub losses: u64,
}

impl Results {
    /// Share of wins, without ties.
    pub fn win_rate(&self) -> Share {
        Share::of(self.wins, self.wins + self.losses)
    }

    /// One per row of a query.
    fn read(rows: &Collected) -> Result<Vec<Self>> {
        let (wins, ties, losses) = (rows.counts("wins")?, rows.counts("ties")?, rows.counts("losses")?);
        let results = |row: usize| Self { wins: wins[row], ties: ties[row], losses: losses[row] };
        Ok((0..rows.len()).map(results).collect())
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {} won, {} lost, {} tied", self.win_rate(), self.wins, self.losses, self.ties)
    }
}

/// Judgements of a round against one baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WinRates {
    /// `base` or a round.
    pub against: String,
    /// All problems. A problem judged in both orders counts once: won if the orders do not contradict.
    pub all: Results,
    /// By subject, if known.
    pub subjects: BTreeMap<String, Results>,
    /// How often the rationale shown first won, among decided judgements: 50 % without position bias.
    pub shown_first: Share,
    /// Number of problems judged in both orders, and of those with the same verdict in both.
    pub both_orders: (u64, u64),
}

impl WinRates {
    /// The win rates of a round, by subject.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn read(dataset: &Dataset, round: u32) -> Result<Vec<Self>> {
        let problems = dataset.problems()?;
        let ids = problems.iter().map(|problem| Some(problem.problem_id.as_str()));
        let subjects = problems.iter().map(|problem| problem.subject.as_deref());
        let subjects = DataFrame::new_infer_height(vec![
            StringChunked::from_iter_options("problem_id".into(), ids).into_column(),
            StringChunked::from_iter_options("subject".into(), subjects).into_column(),
        ]);
        let subjects = subjects.map_err(failed::<Problem>)?.lazy();
        Self::of(&Self::judgements(dataset, round)?, Some(subjects))
    }

    /// The judgements of a round, as [`WinRates::of`] takes them.
    pub(super) fn judgements(dataset: &Dataset, round: u32) -> Result<LazyFrame> {
        frame::<Judgement>(dataset, round, &["problem_id", "against", "candidate_shown_first", "verdict"])
    }

    /// Sums up judgements, one entry per baseline; `subjects` maps problems to their subject, if they have
    /// one.
    pub(super) fn of(judgements: &LazyFrame, subjects: Option<LazyFrame>) -> Result<Vec<Self>> {
        let is = |verdict: &'static str| col("verdict").eq(lit(verdict));
        let points = when(is("win")).then(lit(1)).when(is("loss")).then(lit(-1)).otherwise(lit(0));
        let rows = || {
            let first_won = when(col("candidate_shown_first")).then(is("win")).otherwise(is("loss"));
            judgements.clone().with_columns([points.clone().alias("points"), first_won.alias("first_won")])
        };
        let in_both = len().eq(lit(2)).and(col("candidate_shown_first").n_unique().eq(lit(2)));
        let problems = rows().group_by([col("against"), col("problem_id")]).agg([
            col("points").sum(),
            in_both.clone().alias("both_orders"),
            in_both.and(col("verdict").n_unique().eq(lit(1))).alias("agree"),
        ]);
        let results = || {
            [
                col("points").gt(lit(0)).sum().alias("wins"),
                col("points").eq(lit(0)).sum().alias("ties"),
                col("points").lt(lit(0)).sum().alias("losses"),
            ]
        };
        let by_baseline = || SortMultipleOptions::default();
        let [wins, ties, losses] = results();
        let sums = [wins, ties, losses, col("both_orders").sum(), col("agree").sum()];
        let all = problems.clone().group_by([col("against")]).agg(sums).sort(["against"], by_baseline());
        let shown = rows()
            .group_by([col("against")])
            .agg([is("win").or(is("loss")).sum().alias("decided"), col("first_won").sum().alias("first")]);
        let all = Collected::of::<Judgement>(left_join(all, "against", shown, "against"))?;
        let by_subject = match subjects {
            None => BTreeMap::new(),
            Some(subjects) => {
                let query = left_join(problems, "problem_id", subjects, "problem_id")
                    .filter(col("subject").is_not_null())
                    .group_by([col("against"), col("subject")])
                    .agg(results());
                let rows = Collected::of::<Judgement>(query)?;
                let names = rows.texts("against")?.into_iter().zip(rows.texts("subject")?);
                names.zip(Results::read(&rows)?).collect::<BTreeMap<_, _>>()
            }
        };
        let (decided, first) = (all.counts("decided")?, all.counts("first")?);
        let (both, agree) = (all.counts("both_orders")?, all.counts("agree")?);
        let rates = |(row, (against, results)): (usize, (String, Results))| Self {
            all: results,
            subjects: by_subject
                .iter()
                .filter(|((baseline, _), _)| *baseline == against)
                .map(|((_, subject), results)| (subject.clone(), *results))
                .collect(),
            against,
            shown_first: Share::of(first[row], decided[row]),
            both_orders: (both[row], agree[row]),
        };
        Ok(all.texts("against")?.into_iter().zip(Results::read(&all)?).enumerate().map(rates).collect())
    }
}

impl fmt::Display for WinRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "against {}: win rate {}", self.against, self.all)?;
        for (subject, results) in &self.subjects {
            writeln!(f, "  {subject}: {results}")?;
        }
        let judgements = counted(self.shown_first.whole, "judgement");
        writeln!(f, "  shown first won: {} of {judgements}", self.shown_first)?;
        if let (judged @ 1.., agree) = self.both_orders {
            writeln!(f, "  judged in both orders: {judged}; the same verdict: {}", Share::of(agree, judged))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Problem, whether the candidate was shown first, and verdict.
    fn judged(rows: &[(&str, bool, &str)]) -> LazyFrame {
        let texts = |name: &str, text: fn(&(&str, bool, &str)) -> String| {
            let texts: Vec<String> = rows.iter().map(text).collect();
            StringChunked::from_iter_values(name.into(), texts.iter()).into_column()
        };
        let first = rows.iter().map(|row| Some(row.1));
        let columns = vec![
            texts("problem_id", |row| row.0.to_owned()),
            texts("against", |_| "base".to_owned()),
            BooleanChunked::from_iter_options("candidate_shown_first".into(), first).into_column(),
            texts("verdict", |row| row.2.to_owned()),
        ];
        DataFrame::new_infer_height(columns).unwrap().lazy()
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Worked by hand for 8 of 10: middle (0.8 + 0.19207) / 1.38415, half 1.41600 · sqrt(0.016 + 0.0096036).
        let share = Share::of(8, 10);
        assert!((share.low - 0.4902).abs() < 1e-4 && (share.high - 0.9433).abs() < 1e-4, "{share:?}");
        assert_eq!((Share::of(0, 0).share, Share::of(0, 0).low, Share::of(0, 0).high), (None, 0.0, 1.0));
        assert!(Share::of(5, 5).high <= 1.0 && Share::of(0, 5).low >= 0.0);
    }

    #[test]
    fn ties_are_left_out_and_orders_that_contradict_are_ties() {
        let rows = [
            ("a", true, "win"),
            ("b", true, "loss"),
            ("c", false, "tie"),
            ("d", true, "win"),
            ("d", false, "loss"),
            ("e", true, "win"),
            ("e", false, "tie"),
        ];
        let subjects =
            df!("problem_id" => ["a", "b", "c"], "subject" => [Some("maths"), Some("maths"), None]);
        let rates = WinRates::of(&judged(&rows), Some(subjects.unwrap().lazy())).unwrap().remove(0);
        assert_eq!(rates.all, Results { wins: 2, ties: 2, losses: 1 });
        assert_eq!(rates.subjects["maths"], Results { wins: 1, ties: 0, losses: 1 });
        // Decided: a (first), b (second), d twice (first, first), e (first).
        assert_eq!((rates.shown_first.part, rates.shown_first.whole), (4, 5));
        assert_eq!(rates.both_orders, (2, 0));
    }

    #[test]
    fn a_judge_that_takes_the_first_shows_in_the_bias_and_not_in_the_rate() {
        let ids: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let rows: Vec<_> = (0..)
            .zip(&ids)
            .map(|(n, id)| (id.as_str(), n % 2 == 0, if n % 2 == 0 { "win" } else { "loss" }))
            .collect();
        let rates = WinRates::of(&judged(&rows), None).unwrap().remove(0);
        assert_eq!((rates.all.win_rate().share, rates.shown_first.share), (Some(0.5), Some(1.0)));
    }
}
