//! Simulated faults.

use super::schedule::{Schedule, Scheduled, named};

named! {
    /// A fault.
    Fault {
        /// 429 with `retry-after`.
        LimitedWithWait = "429-wait",
        /// 429 without `retry-after`.
        Limited = "429",
        /// 529, overloaded.
        Overloaded = "529",
        /// 500.
        Internal = "500",
        /// A reply that takes three times as long.
        Slow = "slow",
        /// A body that ends early.
        CutOff = "cut-off",
        /// The connection closes without a reply, although the request was answered.
        HangUp = "hang-up",
        /// A 400 that quotes the key.
        EchoedKey = "echoed-key",
        /// A 200 whose body is not JSON.
        NoJson = "no-json",
        /// A paid reply in an envelope of another API.
        Strange = "strange",
        /// A good reply without usage.
        NoUsage = "no-usage",
        /// A reply whose text does not have the requested form.
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
        /// 403, without saying whether the key or the request is at fault.
        Forbidden = "403",
        /// 429 that says the credit is used up.
        NoMoney = "no-money",
    }
}

/// A schedule of faults.
pub type Faults = Schedule<Fault>;

impl Fault {
    /// Faults after which the same request, or a follow-up, gets a good reply.
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
}

impl Scheduled for Fault {
    const SALT: &'static [u8] = b"";

    fn is_lasting(self) -> bool {
        matches!(self, Self::Refusal | Self::Truncated | Self::BadRequest | Self::EchoedKey | Self::Forbidden)
    }
}
