//! Summary of judgements: win rate with its interval, ties, subjects, and position bias.

use crate::error::Result;
use schemas::{Dataset, Judgement};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
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
    /// The fraction; `None` of nothing.
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
    /// Neither is, or the two orders contradict each other.
    pub ties: u64,
    /// The baseline is better.
    pub losses: u64,
}

impl Results {
    /// Share of wins, ties left out.
    pub fn win_rate(&self) -> Share {
        Share::of(self.wins, self.wins + self.losses)
    }

    fn add(&mut self, balance: i64) {
        match balance {
            0 => self.ties += 1,
            1.. => self.wins += 1,
            _ => self.losses += 1,
        }
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
    /// By subject, where it is given.
    pub subjects: BTreeMap<String, Results>,
    /// How often the rationale shown first won, of the judgements that decided: 50 % without a bias.
    pub shown_first: Share,
    /// Problems judged in both orders, and those of them where both say the same.
    pub both_orders: (u64, u64),
}

impl WinRates {
    /// Those of a round, by subject.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn read(dataset: &Dataset, round: u32) -> Result<Vec<Self>> {
        let problems = dataset.problems()?;
        let subjects: HashMap<&str, &str> =
            problems.iter().filter_map(|p| Some((p.problem_id.as_str(), p.subject.as_deref()?))).collect();
        let rows = dataset.read::<Judgement>(round)?;
        Ok(Self::of(&rows, |id| subjects.get(id).map(|subject| (*subject).to_owned())))
    }

    /// Sums up judgements, one entry for each baseline; `subject` names that of a problem.
    pub fn of(judgements: &[Judgement], subject: impl Fn(&str) -> Option<String>) -> Vec<Self> {
        let mut baselines: BTreeMap<&str, BTreeMap<&str, Vec<&Judgement>>> = BTreeMap::new();
        for row in judgements {
            baselines.entry(&row.against).or_default().entry(&row.problem_id).or_default().push(row);
        }
        baselines
            .into_iter()
            .map(|(against, problems)| {
                let (mut all, mut subjects) = (Results::default(), BTreeMap::<String, Results>::new());
                let (mut first, mut decided) = (0, 0);
                let mut both_orders = (0, 0);
                for (problem_id, rows) in problems {
                    let balance: i64 = rows.iter().map(|row| points(row)).sum();
                    all.add(balance);
                    if let Some(subject) = subject(problem_id) {
                        subjects.entry(subject).or_default().add(balance);
                    }
                    for row in &rows {
                        decided += u64::from(points(row) != 0);
                        first +=
                            u64::from((points(row) > 0) == row.candidate_shown_first && points(row) != 0);
                    }
                    if let [a, b] = rows.as_slice()
                        && a.candidate_shown_first != b.candidate_shown_first
                    {
                        both_orders.0 += 1;
                        both_orders.1 += u64::from(a.verdict == b.verdict);
                    }
                }
                let shown_first = Share::of(first, decided);
                Self { against: against.to_owned(), all, subjects, shown_first, both_orders }
            })
            .collect()
    }
}

fn points(row: &Judgement) -> i64 {
    match row.verdict.as_str() {
        "win" => 1,
        "loss" => -1,
        _ => 0,
    }
}

impl fmt::Display for WinRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "against {}: win rate {}", self.against, self.all)?;
        for (subject, results) in &self.subjects {
            writeln!(f, "  {subject}: {results}")?;
        }
        writeln!(f, "  shown first won: {} of {} judgements", self.shown_first, self.shown_first.whole)?;
        if let (judged @ 1.., agree) = self.both_orders {
            writeln!(f, "  judged in both orders: {judged}; the same verdict: {}", Share::of(agree, judged))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::TimestampMs;

    fn row(problem: &str, first: bool, verdict: &str) -> Judgement {
        Judgement {
            problem_id: problem.to_owned(),
            round: 1,
            against: "base".to_owned(),
            candidate: String::new(),
            baseline: String::new(),
            candidate_shown_first: first,
            verdict: verdict.to_owned(),
            teacher: String::new(),
            prompt_version: String::new(),
            request_key: String::new(),
            judged_at: TimestampMs(0),
        }
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
            row("a", true, "win"),
            row("b", true, "loss"),
            row("c", false, "tie"),
            row("d", true, "win"),
            row("d", false, "loss"),
            row("e", true, "win"),
            row("e", false, "tie"),
        ];
        let subject = |id: &str| (id < "c").then(|| "maths".to_owned());
        let rates = WinRates::of(&rows, subject).remove(0);
        assert_eq!(rates.all, Results { wins: 2, ties: 2, losses: 1 });
        assert_eq!(rates.subjects["maths"], Results { wins: 1, ties: 0, losses: 1 });
        // Decided: a (first), b (second), d twice (first, first), e (first).
        assert_eq!((rates.shown_first.part, rates.shown_first.whole), (4, 5));
        assert_eq!(rates.both_orders, (2, 0));
    }

    #[test]
    fn a_judge_that_takes_the_first_shows_in_the_bias_and_not_in_the_rate() {
        let rows: Vec<_> = (0..100)
            .map(|n| row(&n.to_string(), n % 2 == 0, if n % 2 == 0 { "win" } else { "loss" }))
            .collect();
        let rates = WinRates::of(&rows, |_| None).remove(0);
        assert_eq!((rates.all.win_rate().share, rates.shown_first.share), (Some(0.5), Some(1.0)));
    }
}
