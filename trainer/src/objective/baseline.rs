//! A baseline without a model: the mean return of a problem's other samples from the same sentence on.

use super::experience::{Experience, groups};

/// V of each token: the mean return, from the beginning of the token's sentence on, of the problem's other samples; 0 for
/// those that had ended by then.
///
/// Samples of a problem are independent, so this baseline is independent of the rollout's own tokens, and the policy gradient
/// remains unbiased (leave-one-out, Kool et al., 2019, by sentence). A problem with one sample is compared with the samples of
/// all other problems.
pub fn leave_one_out(experience: &[Experience], gamma: f64) -> Vec<Vec<f32>> {
    let returns: Vec<Vec<f64>> = experience.iter().map(|row| row.returns_to_go(gamma)).collect();
    let deepest = returns.iter().map(Vec::len).max().unwrap_or(0);
    let sums = |places: &[usize]| -> Vec<f64> {
        let mut sums = vec![0f64; deepest];
        for &place in places {
            for (sum, value) in sums.iter_mut().zip(&returns[place]) {
                *sum += value;
            }
        }
        sums
    };
    let all = sums(&(0..experience.len()).collect::<Vec<_>>());
    let mut values = vec![Vec::new(); experience.len()];
    for members in groups(experience).values() {
        let of_group = sums(members);
        let alone = members.len() == 1;
        let (of_others, count) =
            if alone { (&all, experience.len() - 1) } else { (&of_group, members.len() - 1) };
        for &member in members {
            let own = |sentence: usize| returns[member].get(sentence).copied().unwrap_or(0.0);
            let value =
                |sentence: usize| ((of_others[sentence] - own(sentence)) / count.max(1) as f64) as f32;
            values[member] = experience[member].sentence_of_tokens().into_iter().map(value).collect();
        }
    }
    values
}

/// 1 − Var(G − V) / Var(G) over all tokens, where G is the return from a token's sentence on: the share of the returns'
/// variance that a baseline removes. `None` if all returns are equal.
pub fn explained(experience: &[Experience], values: &[Vec<f32>], gamma: f64) -> Option<f64> {
    let mut pairs = Vec::new();
    for (row, values) in experience.iter().zip(values) {
        let returns = row.returns_to_go(gamma);
        let of_tokens = row.sentence_of_tokens().into_iter().map(|sentence| returns[sentence]);
        pairs.extend(of_tokens.zip(values.iter().map(|&value| f64::from(value))));
    }
    let count = pairs.len().max(1) as f64;
    let variance = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mean = pairs.iter().map(of).sum::<f64>() / count;
        pairs.iter().map(|pair| (of(pair) - mean).powi(2)).sum::<f64>() / count
    };
    let of_returns = variance(&|(returned, _)| *returned);
    (of_returns > 1e-12).then(|| 1.0 - variance(&|(returned, value)| returned - value) / of_returns)
}

#[cfg(test)]
mod tests {
    use super::super::experience::tests::experience;
    use super::*;

    #[test]
    fn a_sentence_is_compared_with_those_of_the_other_samples() {
        let rows = [
            experience("a", 5, &[(1, 1.0), (3, 1.0)]),
            experience("a", 3, &[(1, 0.5)]),
            experience("a", 4, &[(0, 0.0), (2, 0.5)]),
            experience("b", 2, &[(0, 1.0)]),
        ];
        let values = leave_one_out(&rows, 1.0);
        // Returns from sentences 0, 1, 2 on: [1, 0.5, 0], [0, 0], [−0.5, 0, 0]; of b [0.5, 0].
        assert_eq!(values[0], [-0.25, -0.25, 0.0, 0.0, 0.0]);
        assert_eq!(values[1], [0.25, 0.25, 0.25]);
        assert_eq!(values[2], [0.5, 0.25, 0.25, 0.0]);
        // A single sample, so it is compared with the rollouts of a.
        let third = (0.5f64 / 3.0) as f32;
        assert_eq!(values[3], [third, third]);
    }

    /// The mean over samples of return − baseline is 0, and a rollout's own reward does not affect its baseline.
    #[test]
    fn a_baseline_does_not_know_its_own_rollout() {
        let mut rows = vec![
            experience("a", 2, &[(1, 0.1)]),
            experience("a", 2, &[(1, 0.9)]),
            experience("a", 2, &[(1, 0.4)]),
        ];
        let before = leave_one_out(&rows, 1.0);
        let total: f64 =
            rows.iter().zip(&before).map(|(row, v)| row.returns_to_go(1.0)[0] - f64::from(v[0])).sum();
        assert!(total.abs() < 1e-6);
        rows[0] = experience("a", 2, &[(1, 1.0)]);
        let after = leave_one_out(&rows, 1.0);
        assert_eq!(before[0], after[0]);
        assert_ne!(before[1], after[1]);
    }

    #[test]
    fn a_baseline_explains_what_problems_differ_in() {
        let rows = [
            experience("a", 2, &[(1, 1.0)]),
            experience("a", 2, &[(1, 1.0)]),
            experience("b", 2, &[(1, 0.0)]),
            experience("b", 2, &[(1, 0.0)]),
        ];
        let explained_by = |values: &[Vec<f32>]| explained(&rows, values, 1.0).expect("returns differ");
        assert!((explained_by(&leave_one_out(&rows, 1.0)) - 1.0).abs() < 1e-6);
        assert!(explained_by(&vec![vec![0.3; 2]; 4]).abs() < 1e-6);
        assert_eq!(explained(&rows[..2], &[vec![0.0; 2], vec![0.0; 2]], 1.0), None);
    }
}
