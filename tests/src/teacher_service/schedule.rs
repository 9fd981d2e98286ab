//! Decides when a fault or shape occurs: by the seed, the request and how often it arrived, so that every run
//! is the same.

use sha2::{Digest, Sha256};

/// Maximum times in a row for one request, so that every run ends; unlimited if all requests are affected.
const MOST_IN_A_ROW: u32 = 2;

/// An enumeration whose variants have names on the command line.
macro_rules! named {
    ($(#[$about:meta])+ $name:ident { $($(#[$doc:meta])+ $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])+ $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let names = || Self::ALL.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
                let found = Self::ALL.iter().find(|one| one.name() == text);
                found.copied().ok_or_else(|| format!("expected one of {}, found `{text}`", names()))
            }
        }
    };
}
pub(super) use named;

/// The entries of a schedule.
pub trait Scheduled: Copy {
    /// Distinguishes the schedules of two types with the same seed.
    const SALT: &'static [u8];

    /// True if it occurs every time the request is sent.
    fn is_lasting(self) -> bool;
}

/// Selects the affected requests.
#[derive(Debug, Clone)]
pub struct Schedule<K> {
    /// Seed of the schedule.
    pub seed: u64,
    /// Share of affected requests.
    pub share: f64,
    /// What may happen, with equal probability.
    pub kinds: Vec<K>,
    /// Good replies before the first.
    pub after: u64,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { seed: 0, share: 0.0, kinds: Vec::new(), after: 0 }
    }
}

impl<K: Scheduled> Schedule<K> {
    /// One kind for a share of requests.
    pub fn only(kind: K, share: f64) -> Self {
        Self { seed: 1, share, kinds: vec![kind], after: 0 }
    }

    /// What happens to a request (by its text) that arrived `times` times before, after this many good
    /// replies.
    pub fn pick(&self, request: &[u8; 32], times: u32, good: u64) -> Option<K> {
        if self.kinds.is_empty() || good < self.after {
            return None;
        }
        let roll = |salt: u32| {
            let mut hash = Sha256::new();
            hash.update(K::SALT);
            hash.update(self.seed.to_le_bytes());
            hash.update(request);
            hash.update(salt.to_le_bytes());
            let digest = hash.finalize();
            let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let kind = usize::from(digest[9]) % self.kinds.len();
            ((number as f64 / u64::MAX as f64) < self.share).then(|| self.kinds[kind])
        };
        match roll(0) {
            Some(first) if first.is_lasting() => Some(first),
            _ if self.share < 1.0 && times % (MOST_IN_A_ROW + 1) == MOST_IN_A_ROW => None,
            _ => roll(times).filter(|kind| times == 0 || !kind.is_lasting()),
        }
    }
}
