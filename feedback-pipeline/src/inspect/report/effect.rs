//! The effect of RL: scores of the same problems before and after, with a bootstrap interval.

use super::tally::{Tally, mean};
use crate::inspect::bootstrap::{draws, interval};
use std::collections::BTreeMap;

/// Scores of a policy's rationales: of all, and of each problem.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// All of them.
    pub all: Tally,
    /// By problem.
    by_problem: BTreeMap<String, Tally>,
}

impl Scores {
    /// Adds scores of a problem's rationales.
    pub(super) fn add(&mut self, problem_id: &str, tally: &Tally) {
        self.all.merge(tally);
        match self.by_problem.get_mut(problem_id) {
            Some(known) => known.merge(tally),
            None => {
                self.by_problem.insert(problem_id.to_owned(), *tally);
            }
        }
    }
}

/// Mean scores of the same problems before and after RL.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// For instance `round 1, val`.
    pub label: String,
    /// Mean over the sentences of the round's starting policy.
    pub before: f64,
    /// The same after RL.
    pub after: f64,
    /// 95 % interval of the change by a paired bootstrap over problems; `None` for fewer than two problems.
    pub interval: Option<[f64; 2]>,
    /// Problems with rationales of both policies.
    pub problems: usize,
}

impl Effect {
    /// Compares two policies on the problems for which both have scores; `None` if there are none.
    pub(super) fn of(label: String, before: &Scores, after: &Scores) -> Option<Self> {
        let pairs: Vec<(&Tally, &Tally)> = before
            .by_problem
            .iter()
            .filter_map(|(problem, tally)| Some((tally, after.by_problem.get(problem)?)))
            .collect();
        // Means over sentences, as everywhere in the report: a rationale counts as often as it has sentences.
        let means = |pairs: &mut dyn Iterator<Item = (&Tally, &Tally)>| {
            let mut sums = [(0.0, 0); 2];
            for (before, after) in pairs {
                for (sum, tally) in sums.iter_mut().zip([before, after]) {
                    sum.0 += tally.sum;
                    sum.1 += tally.sentences;
                }
            }
            let [before, after] = sums.map(|(sum, sentences)| mean(sum, sentences));
            before.zip(after)
        };
        let (mean_before, mean_after) = means(&mut pairs.iter().copied())?;
        let alone: Vec<Vec<usize>> = (0..pairs.len()).map(|place| vec![place]).collect();
        let [changes] = draws(&alone, |sample| {
            let drawn = means(&mut sample.iter().filter_map(|place| pairs.get(*place).copied()));
            [drawn.map(|(before, after)| after - before)]
        });
        Some(Self {
            label,
            before: mean_before,
            after: mean_after,
            interval: interval(changes),
            problems: pairs.len(),
        })
    }

    /// Whether the change is more than chance explains.
    pub fn verdict(&self) -> &'static str {
        match self.interval {
            None => "too few problems",
            Some([low, high]) if low == 0.0 && high == 0.0 => "the same",
            Some([low, _]) if low > 0.0 => "better",
            Some([_, high]) if high < 0.0 => "worse",
            Some(_) => "may be chance",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(of: impl IntoIterator<Item = (usize, Vec<f32>)>) -> Scores {
        let mut scores = Scores::default();
        for (problem, of_problem) in of {
            let mut tally = Tally::default();
            tally.add(&of_problem);
            scores.add(&problem.to_string(), &tally);
        }
        scores
    }

    /// 400 problems of two sentences, of which the second gains 0.4 on every other problem: the change of the mean is 0.1, and
    /// that of a problem 0 or 0.2, with deviation 0.1, so that of the mean is 0.1 / 20.
    #[test]
    fn the_interval_is_that_of_theory() {
        let before = scores((0..400).map(|at| (at, vec![1.0, 0.2])));
        let after = scores((0..400).map(|at| (at, vec![1.0, if at % 2 == 0 { 0.6 } else { 0.2 }])));
        let effect = Effect::of("round 1, test".into(), &before, &after).unwrap();
        assert!((effect.before - 0.6).abs() < 1e-6 && (effect.after - 0.7).abs() < 1e-6, "{effect:?}");
        let [low, high] = effect.interval.unwrap();
        let half = 1.96 * 0.1 / 20.0;
        assert!((low - 0.1 + half).abs() < 0.002 && (high - 0.1 - half).abs() < 0.002, "{low} {high}");
        assert_eq!((effect.problems, effect.verdict()), (400, "better"));
    }

    #[test]
    fn only_common_problems_count() {
        let before = scores([(0, vec![0.5]), (1, vec![0.5]), (2, vec![0.0])]);
        let after = scores([(0, vec![0.75]), (1, vec![0.25]), (3, vec![1.0])]);
        let effect = Effect::of(String::new(), &before, &after).unwrap();
        assert_eq!((effect.problems, effect.before, effect.after), (2, 0.5, 0.5));
        assert_eq!(effect.verdict(), "may be chance");
        let same = Effect::of(String::new(), &before, &before).unwrap();
        assert_eq!((same.interval, same.verdict()), (Some([0.0, 0.0]), "the same"));
        let worse = scores((0..3).map(|at| (at, vec![0.0, 0.0])));
        let half = scores((0..3).map(|at| (at, vec![0.5])));
        assert_eq!(Effect::of(String::new(), &half, &worse).unwrap().verdict(), "worse");
        let one = Effect::of(String::new(), &scores([(0, vec![0.5])]), &after).unwrap();
        assert_eq!((one.interval, one.verdict()), (None, "too few problems"));
        assert_eq!(Effect::of(String::new(), &scores([(4, vec![0.5])]), &after), None);
    }
}
