//! Random streams by purpose: the same purpose always draws the same numbers, whatever ran before.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// A seed derived from the run's seed, a purpose and a position, for instance `("rollout", "1/problem-7/3")`.
pub fn derive(seed: u64, stage: &str, place: &str) -> u64 {
    let hash = Sha256::digest(format!("{seed}/{stage}/{place}"));
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(bytes)
}

/// The seed of a purpose in a round, for instance `rl`: different for each run, round and purpose. (Seed xor round would give
/// round 2 of seed 1 and round 1 of seed 2 the same orders.)
pub fn of_round(seed: u64, round: u32, purpose: &str) -> u64 {
    derive(seed, purpose, &format!("round {round}"))
}

/// As [`derive()`], for libtorch's generator, which takes no negative seed. (Halving the seed itself
/// would make seeds 2n and 2n + 1 equal.)
pub fn for_torch(seed: u64, stage: &str, place: &str) -> i64 {
    (derive(seed, stage, place) >> 1) as i64
}

/// Seeds libtorch's own generator (dropout) for a purpose and position.
pub fn seed_torch(seed: u64, stage: &str, place: &str) {
    tch::manual_seed(for_torch(seed, stage, place));
}

/// The order of `count` items in one pass.
pub fn order(count: usize, shuffle: bool, seed: u64, stage: &str, pass: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if shuffle {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(derive(seed, stage, &format!("pass {pass}"))));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::{for_torch, of_round, order};

    #[test]
    fn rounds_and_seeds_do_not_collide() {
        let seeds = (0..50).flat_map(|seed| {
            (1..20).flat_map(move |round| ["rl", "sft"].map(|purpose| of_round(seed, round, purpose)))
        });
        let seeds: std::collections::BTreeSet<u64> = seeds.collect();
        assert_eq!(seeds.len(), 50 * 19 * 2);
        let of_torch: std::collections::BTreeSet<i64> =
            (0..50).map(|seed| for_torch(seed, "init", "")).collect();
        assert_eq!(of_torch.len(), 50);
        assert!(of_torch.iter().all(|seed| *seed >= 0));
    }

    #[test]
    fn passes_differ_in_their_order_and_hold_everything_once() {
        let pass = |pass| order(50, true, 7, "rl", pass);
        assert_ne!(pass(0), pass(1));
        assert_eq!(pass(1), pass(1));
        for mut order in [pass(0), pass(1)] {
            order.sort_unstable();
            assert_eq!(order, (0..50).collect::<Vec<_>>());
        }
        assert_eq!(order(50, false, 7, "rl", 1), (0..50).collect::<Vec<_>>());
    }
}
