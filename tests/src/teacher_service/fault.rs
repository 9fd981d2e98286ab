//! What goes wrong, and when: by the seed, the request and how often it came, so that every run sees the same.

use sha2::{Digest, Sha256};

/// Most faults in a row for one request, so that every run ends; not where all requests have one.
const MOST_IN_A_ROW: u32 = 2;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// One thing that can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[doc = $doc])+ $variant),+ }

        impl Fault {
            /// All faults.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

faults! {
    /// 429 with `retry-after`.
    LimitedWithWait = "429-wait",
    /// 429 without a word on when.
    Limited = "429",
    /// 529, overloaded.
    Overloaded = "529",
    /// 500.
    Internal = "500",
    /// A reply that takes three times as long.
    Slow = "slow",
    /// A body that ends early.
    CutOff = "cut-off",
    /// The connection ends without a word on a request that was answered.
    HangUp = "hang-up",
    /// A 400 that quotes the key.
    EchoedKey = "echoed-key",
    /// A 200 whose body is no JSON.
    NoJson = "no-json",
    /// A paid reply in an envelope of another API.
    Strange = "strange",
    /// A good reply that does not tell its tokens.
    NoUsage = "no-usage",
    /// A reply whose text is not what was asked for.
    WrongJson = "wrong-json",
    /// A sentence too few.
    WrongCount = "wrong-count",
    /// The Teacher refuses.
    Refusal = "refusal",
    /// The reply ends at the token limit.
    Truncated = "truncated",
    /// 400.
    BadRequest = "bad-request",
    /// 401.
    BadKey = "bad-key",
    /// 429 that says the money is used up.
    NoMoney = "no-money",
}

impl Fault {
    /// Faults after which the same request, or one with the reason, gets a good reply.
    pub const PASSING: &'static [Self] = &[
        Self::LimitedWithWait,
        Self::Limited,
        Self::Overloaded,
        Self::Internal,
        Self::Slow,
        Self::CutOff,
        Self::HangUp,
        Self::NoJson,
        Self::WrongJson,
        Self::WrongCount,
    ];

    /// Faults that belong to a request for good.
    fn is_lasting(self) -> bool {
        matches!(self, Self::Refusal | Self::Truncated | Self::BadRequest | Self::EchoedKey)
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|fault| fault.name() == text);
        found.copied().ok_or_else(|| format!("expected one of {}, found `{text}`", names()))
    }
}

/// A schedule of faults.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Seed of the schedule.
    pub seed: u64,
    /// Share of requests with a fault.
    pub share: f64,
    /// Which faults, with equal chances.
    pub kinds: Vec<Fault>,
    /// Good replies before the first fault.
    pub after: u64,
}

impl Faults {
    /// One fault for a share of requests.
    pub fn only(fault: Fault, share: f64) -> Self {
        Self { seed: 1, share, kinds: vec![fault], after: 0 }
    }

    /// The fault of a request (by its text) that came `times` times before, when so many good replies were given.
    pub fn pick(&self, request: &[u8; 32], times: u32, good: u64) -> Option<Fault> {
        if self.kinds.is_empty() || good < self.after {
            return None;
        }
        let roll = |salt: u32| {
            let mut hash = Sha256::new();
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
            _ => roll(times).filter(|fault| times == 0 || !fault.is_lasting()),
        }
    }
}
