//! Advantages relative to the samples of a problem, without values (after GRPO, Shao et al., 2024, at the level of
//! sentences).

use super::advantage::charge_kl;
use super::experience::{Experience, LEAST_DIFFERENCE, groups};
use schemas::settings::GrpoScale;
use std::collections::BTreeMap;

/// Prevents nearly equal rewards from being amplified.
const LEAST_DEVIATION: f64 = 1e-4;

/// Advantages of each token: the sum of the relative rewards of the sentences that end at or after it, minus `kl_coefficient`
/// times the log-ratio to the reference.
///
/// A sentence's relative reward is its score minus the mean over all sentences of the problem's samples, divided by `scale`:
/// the standard deviation of that difference over all rollouts or over the problem's own, or 1. With the problem's own, a
/// single 0.9 among scores of 1.0 counts as much as a 0.0. A problem with one sample is compared with the sentences of all
/// problems. A sentence on which opinions differ counts in no mean, and earns what its score is above `neutral`: nothing, or
/// the right answer's part.
pub fn advantages(
    experience: &[Experience],
    scale: GrpoScale,
    kl_coefficient: f64,
    neutral: f64,
) -> Vec<Vec<f32>> {
    let groups = groups(experience);
    let mut relative = relative(experience, &groups, neutral);
    for members in groups.values() {
        if scale == GrpoScale::Group {
            let deviation = deviation(members.iter().map(|&member| (&experience[member], &relative[member])));
            for &member in members {
                relative[member].iter_mut().for_each(|score| *score /= deviation);
            }
        }
    }
    if scale == GrpoScale::Batch {
        let deviation = deviation(experience.iter().zip(&relative));
        relative.iter_mut().flatten().for_each(|score| *score /= deviation);
    }
    let of_one = |(row, relative): (&Experience, Vec<f64>)| {
        let mut advantages = vec![0f32; row.tokens.len()];
        for (&(token, _), relative) in row.ends.iter().zip(relative) {
            for advantage in advantages.iter_mut().take(token as usize + 1) {
                *advantage += relative as f32;
            }
        }
        charge_kl(&mut advantages, &row.logprobs, &row.ref_logprobs, kl_coefficient);
        advantages
    };
    experience.iter().zip(relative).map(of_one).collect()
}

/// Scores minus the mean of the problem's.
fn relative(experience: &[Experience], groups: &BTreeMap<&str, Vec<usize>>, neutral: f64) -> Vec<Vec<f64>> {
    let mean_of = |members: &mut dyn Iterator<Item = &Experience>| {
        let (mut sum, mut count) = (0.0, 0usize);
        for row in members {
            let decided = row.ends.iter().enumerate().filter(|(end, _)| !row.undecided.contains(end));
            for (_, (_, score)) in decided {
                sum += f64::from(*score);
                count += 1;
            }
        }
        sum / count.max(1) as f64
    };
    let of_all = mean_of(&mut experience.iter());
    let mut relative = vec![Vec::new(); experience.len()];
    for members in groups.values() {
        let mean = match members.len() {
            1 => of_all,
            _ => mean_of(&mut members.iter().map(|&member| &experience[member])),
        };
        for &member in members {
            let row = &experience[member];
            let against = |end: usize| if row.undecided.contains(&end) { neutral } else { mean };
            let ends = row.ends.iter().enumerate();
            relative[member] = ends.map(|(end, (_, score))| f64::from(*score) - against(end)).collect();
        }
    }
    relative
}

/// Whether some sentence is better or worse than the mean of its problem's.
pub fn has_signal(experience: &[Experience], neutral: f64) -> bool {
    let relative = relative(experience, &groups(experience), neutral);
    relative.iter().flatten().any(|score| score.abs() > LEAST_DIFFERENCE)
}

/// Standard deviation of relative scores, whose mean is 0: of those on which opinions agree, or of all if there are none.
fn deviation<'a>(rows: impl Iterator<Item = (&'a Experience, &'a Vec<f64>)>) -> f64 {
    let (mut decided, mut others) = (Vec::new(), Vec::new());
    for (row, relative) in rows {
        for (end, score) in relative.iter().enumerate() {
            if row.undecided.contains(&end) { &mut others } else { &mut decided }.push(*score);
        }
    }
    let numbers: Vec<f64> = if decided.is_empty() { others } else { decided };
    let count = numbers.len().max(1) as f64;
    (numbers.iter().map(|number| number.powi(2)).sum::<f64>() / count).sqrt() + LEAST_DEVIATION
}

#[cfg(test)]
mod tests {
    use super::super::experience::tests::experience;
    use super::*;

    #[test]
    fn groups_compare_the_samples_of_one_problem() {
        let rows = [experience("a", 3, &[(1, 1.0)]), experience("a", 2, &[(1, 0.0)])];
        for scale in [GrpoScale::Batch, GrpoScale::Group] {
            let advantages = advantages(&rows, scale, 0.0, 0.5);
            let a = advantages[0][0];
            assert!((a - 1.0).abs() < 1e-3, "{advantages:?}");
            assert_eq!((&advantages[0][..], &advantages[1][..]), (&[a, a, 0.0][..], &[-a, -a][..]));
        }
        assert_eq!(advantages(&rows, GrpoScale::None, 0.0, 0.5)[0], [0.5, 0.5, 0.0]);
    }

    /// The mean is over all sentences of a problem, whatever their sample, not over its samples or over all problems: that of a
    /// is (1 + 1 + 1 + 0) / 4, not (1 + 0) / 2 or (1 + 1 + 1 + 0 + 0.25 + 0.75) / 6.
    #[test]
    fn the_mean_is_that_of_the_problems_sentences() {
        let rows = [
            experience("a", 3, &[(0, 1.0), (1, 1.0), (2, 1.0)]),
            experience("a", 1, &[(0, 0.0)]),
            experience("b", 1, &[(0, 0.25)]),
            experience("b", 1, &[(0, 0.75)]),
        ];
        let expected = [vec![0.75, 0.5, 0.25], vec![-0.75], vec![-0.25], vec![0.25]];
        assert_eq!(advantages(&rows, GrpoScale::None, 0.0, 0.5), expected);
    }

    /// Its neutral 0.5 would make one sample better than the other, and the other worse.
    #[test]
    fn a_sentence_on_which_opinions_differ_is_compared_with_nothing() {
        let mut rows = [experience("a", 2, &[(0, 0.9), (1, 0.9)]), experience("a", 2, &[(0, 0.9), (1, 0.5)])];
        rows[1].undecided = vec![1];
        let close = |rows: &[Experience]| {
            advantages(rows, GrpoScale::None, 0.0, 0.5)
                .iter()
                .flatten()
                .all(|advantage| advantage.abs() < 1e-6)
        };
        assert!(close(&rows));
        assert!(!has_signal(&rows, 0.5));
        let one = experience("b", 2, &[(0, 1.0), (1, 0.5)]);
        let mixed = [Experience { undecided: vec![1], ..one }, experience("b", 1, &[(0, 0.0)])];
        let found = advantages(&mixed, GrpoScale::Batch, 0.0, 0.5)[0][0];
        assert!((found - 1.0).abs() < 1e-3, "the deviation is that of 1.0 and 0.0: {found}");
        rows[1].undecided.clear();
        assert!(!close(&rows));
        assert!(has_signal(&rows, 0.5));
    }

    #[test]
    fn a_single_sample_is_compared_with_all_problems() {
        let rows = [experience("a", 2, &[(1, 1.0)]), experience("b", 2, &[(1, 0.0)])];
        assert_eq!(advantages(&rows, GrpoScale::None, 0.0, 0.5), [[0.5, 0.5], [-0.5, -0.5]]);
    }

    /// Fifteen sentences of 1.0 and one of 0.9 are nearly as good as sixteen of 1.0; next to a problem whose scores differ
    /// widely, their advantages are small.
    #[test]
    fn a_small_difference_counts_for_little() {
        let ends: Vec<(u32, f32)> = (0..4).map(|token| (token, 1.0)).collect();
        let mut worse = ends.clone();
        worse[3].1 = 0.9;
        let rows = [
            experience("fine", 4, &ends),
            experience("fine", 4, &ends),
            experience("fine", 4, &ends),
            experience("fine", 4, &worse),
            experience("mixed", 4, &[(3, 1.0)]),
            experience("mixed", 4, &[(3, 0.0)]),
        ];
        let worst = |scale| advantages(&rows, scale, 0.0, 0.5)[3][3];
        assert!(worst(GrpoScale::Group) < -3.8, "{}", worst(GrpoScale::Group));
        assert!((-0.6..0.0).contains(&worst(GrpoScale::Batch)), "{}", worst(GrpoScale::Batch));
        assert!((worst(GrpoScale::None) + 0.09375).abs() < 1e-6);
    }
}
