//! A share of the problems for each round: the same in every program and run, in any order of the problems.
//!
//! A hash of the id and the seed places each problem on a circle, and each round has an arc of it. A larger share is a longer
//! arc from the same start, so it only adds problems. Starts of successive rounds are a golden section of the circle apart: for
//! any share, arcs of later rounds lie in the largest gaps left by earlier ones.

use sha2::{Digest, Sha256};

/// 2⁶⁴ divided by the golden ratio.
const GOLDEN_SECTION: u64 = 0x9e37_79b9_7f4a_7c15;

/// The problems selected for a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    seed: u64,
    start: u64,
    /// Length of the arc; `None` for the whole circle.
    length: Option<u64>,
}

impl Share {
    /// About `share` of the problems (0 to 1), for a round.
    pub fn of_round(share: f64, seed: u64, round: u32) -> Self {
        let start = GOLDEN_SECTION.wrapping_mul(u64::from(round.saturating_sub(1)));
        // Saturates at both ends.
        let length = (share < 1.0).then_some((share * 2f64.powi(64)) as u64);
        Self { seed, start, length }
    }

    /// Whether it contains all problems.
    pub fn is_whole(&self) -> bool {
        self.length.is_none()
    }

    /// Whether a problem is in it.
    pub fn contains(&self, problem_id: &str) -> bool {
        let Some(length) = self.length else { return true };
        let hash = Sha256::digest(format!("{}/share/{problem_id}", self.seed));
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(bytes).wrapping_sub(self.start) < length
    }
}

#[cfg(test)]
mod tests {
    use super::Share;
    use std::collections::BTreeSet;

    const PROBLEMS: usize = 10_000;

    fn chosen(share: f64, seed: u64, round: u32) -> BTreeSet<usize> {
        let share = Share::of_round(share, seed, round);
        (0..PROBLEMS).filter(|number| share.contains(&format!("p{number}"))).collect()
    }

    #[test]
    fn a_share_has_its_size_and_larger_ones_only_add() {
        for round in [1, 2, 7] {
            let mut smaller = BTreeSet::new();
            for share in [1e-3, 0.1, 0.35, 0.9, 1.0] {
                let found = chosen(share, 42, round);
                let deviation = (PROBLEMS as f64 * share * (1.0 - share)).sqrt();
                let off = (found.len() as f64 - PROBLEMS as f64 * share).abs();
                assert!(off <= 4.0 * deviation, "{share}: {}", found.len());
                assert!(smaller.is_subset(&found));
                smaller = found;
            }
        }
        assert_eq!(chosen(0.3, 42, 1), chosen(0.3, 42, 1));
        let common = chosen(0.5, 42, 1).intersection(&chosen(0.5, 43, 1)).count();
        assert!((2_200..2_800).contains(&common), "another seed chooses independently: {common}");
    }

    #[test]
    fn later_rounds_take_other_problems() {
        let (first, second) = (chosen(0.35, 42, 1), chosen(0.35, 42, 2));
        assert!(first.is_disjoint(&second));
        for (share, rounds, least) in [(0.1, 5, 0.48), (0.1, 10, 0.80), (0.2, 5, 0.85), (0.5, 3, 0.98)] {
            let covered: BTreeSet<usize> = (1..=rounds).flat_map(|round| chosen(share, 42, round)).collect();
            let covered = covered.len() as f64 / PROBLEMS as f64;
            assert!(covered > least, "{share}, {rounds} rounds: {covered}");
        }
    }
}
