//! Bootstrap intervals. Whole problems are resampled, with replacement, since sentences of one problem are
//! not independent.

/// Number of bootstrap samples.
const DRAWS: usize = 1000;

/// Pseudo-random numbers from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The bias is below 2⁻⁴⁰ for any number of problems.
        usize::try_from((u128::from(z) * bound as u128) >> 64).unwrap_or_default()
    }
}

/// Values of statistics over bootstrap samples of clusters, drawn with replacement; the same samples each
/// time.
///
/// Each cluster has the items of one problem. Samples in which a statistic is undefined are left out of its
/// values.
pub(super) fn draws<const N: usize>(
    clusters: &[Vec<usize>],
    statistics: impl Fn(&[usize]) -> [Option<f64>; N],
) -> [Vec<f64>; N] {
    let mut numbers = Numbers(0);
    let mut values = [const { Vec::new() }; N];
    if clusters.len() < 2 {
        return values;
    }
    let mut sample = Vec::new();
    for _ in 0..DRAWS {
        sample.clear();
        for _ in 0..clusters.len() {
            if let Some(cluster) = clusters.get(numbers.below(clusters.len())) {
                sample.extend_from_slice(cluster);
            }
        }
        for (values, value) in values.iter_mut().zip(statistics(&sample)) {
            values.extend(value);
        }
    }
    values
}

/// The middle 95 % of some values; `None` if there are too few.
pub(super) fn interval(mut values: Vec<f64>) -> Option<[f64; 2]> {
    if values.len() < DRAWS / 2 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len() - 1) as f64 * share).round() as usize).copied();
    Some([at(0.025)?, at(0.975)?])
}

/// The standard deviation of some values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (square / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_independent_values_varies_as_theory_says() {
        let values: Vec<f64> = (0..400).map(|number| f64::from(number % 2)).collect();
        let mean =
            |sample: &[usize]| [Some(sample.iter().map(|at| values[*at]).sum::<f64>() / sample.len() as f64)];
        let alone: Vec<Vec<usize>> = (0..400).map(|at| vec![at]).collect();
        let [drawn] = draws(&alone, mean);
        // sqrt(0.25 / 400) = 0.025, and 1.96 times that on either side of the mean.
        let spread = deviation(&drawn).unwrap();
        assert!((spread - 0.025).abs() < 0.0025, "{spread}");
        let [low, high] = interval(drawn).unwrap();
        assert!((low - 0.451).abs() < 0.01 && (high - 0.549).abs() < 0.01, "{low} {high}");
        // Ten equal items in a cluster have no more information than one.
        let clusters: Vec<Vec<usize>> = (0..40).map(|at| vec![at; 10]).collect();
        let [drawn] = draws(&clusters, mean);
        let spread = deviation(&drawn).unwrap();
        assert!((spread - (0.25_f64 / 40.0).sqrt()).abs() < 0.008, "{spread}");
        assert_eq!(draws(&clusters[..1], mean), [Vec::<f64>::new()]);
        assert_eq!(interval(vec![1.0]), None);
    }
}
