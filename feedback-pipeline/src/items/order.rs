//! The order in which a judge is shown two rationales.

use schemas::provenance;

/// In which order two rationales are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// At random, by this seed and the problem.
    Shuffled(u64),
    /// The candidate is A.
    CandidateFirst,
    /// The baseline is A.
    BaselineFirst,
}

impl Order {
    /// Whether the candidate of a problem is shown first.
    pub(super) fn candidate_first(self, problem_id: &str, round: u32, against: &str) -> bool {
        // A deterministic coin flip, independent of the order of the rows.
        let coin = match self {
            Self::CandidateFirst => return true,
            Self::BaselineFirst => return false,
            Self::Shuffled(0) => format!("{problem_id} {round} {against}"),
            Self::Shuffled(seed) => format!("{problem_id} {round} {against} {seed}"),
        };
        provenance::sha256_hex(coin.as_bytes()).as_bytes().first().is_some_and(|digit| digit % 2 == 0)
    }

    /// True if a judgement in which the candidate was shown so answers the question in this order.
    pub fn covers(self, candidate_shown_first: bool) -> bool {
        match self {
            Self::Shuffled(_) => true,
            Self::CandidateFirst => candidate_shown_first,
            Self::BaselineFirst => !candidate_shown_first,
        }
    }

    /// Its part of a scope; the usual order has none.
    pub(super) fn name(self) -> Option<String> {
        match self {
            Self::Shuffled(0) => None,
            Self::Shuffled(seed) => Some(format!("seed-{seed}")),
            Self::CandidateFirst => Some("candidate-first".to_owned()),
            Self::BaselineFirst => Some("baseline-first".to_owned()),
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "candidate-first" => Some(Self::CandidateFirst),
            "baseline-first" => Some(Self::BaselineFirst),
            _ => name.strip_prefix("seed-")?.parse().ok().map(Self::Shuffled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coin_is_fair_and_falls_by_its_seed() {
        let firsts = |seed: u64| -> Vec<bool> {
            (0..1_000).map(|n| Order::Shuffled(seed).candidate_first(&n.to_string(), 1, "base")).collect()
        };
        let heads = firsts(0).into_iter().filter(|first| *first).count();
        assert!((450..550).contains(&heads), "{heads}");
        assert_eq!(firsts(7), firsts(7));
        assert_ne!(firsts(0), firsts(7));
    }
}
