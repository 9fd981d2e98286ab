//! Unusual forms of replies: odd in their text, envelope or HTTP, but with the correct answer unless noted
//! otherwise.
//!
//! If a reply has another answer first (`draft`), that answer is always wrong, so that a parser that uses it
//! is detected by comparison with a run without shapes.

mod envelope;
mod text;

pub(super) use envelope::{SURROGATE, enclose, failure};
pub(super) use text::{draft, say};

use super::schedule::{Schedule, Scheduled, named};

named! {
    /// The shape of a reply.
    Shape {
        /// A draft between `<think>` and `</think>`, then the answer.
        ThinkDraft = "think-draft",
        /// A draft before a bare `</think>`, then the answer.
        BareThink = "bare-think",
        /// Prose that quotes another object, then the answer.
        QuotedObject = "quoted-object",
        /// The format repeated, then the answer.
        FormatFirst = "format-first",
        /// A code block with a mistake, then a second one with the answer.
        SecondBlock = "second-block",
        /// Two valid objects that disagree, without saying which one counts.
        Disagreeing = "disagreeing",
        /// Scores and verdicts as a careless model types them: numbers as texts.
        StringScores = "string-scores",
        /// Numbers of sentences as `1.0`.
        FloatIndex = "float-index",
        /// Raw line breaks inside strings.
        RawNewline = "raw-newline",
        /// Commas before closing brackets.
        TrailingComma = "trailing-comma",
        /// The whole answer, then blanks up to the token limit.
        LengthWhole = "length-whole",
        /// Half of a surrogate pair, escaped, inside the answer.
        InnerSurrogate = "inner-surrogate",
        /// Content as parts, the first of them reasoning that has a text with a draft.
        ReasoningPart = "reasoning-part",
        /// Content as an object where a text belongs.
        ContentObject = "content-object",
        /// No text at all: thinking used up the token limit.
        BudgetSpent = "budget-spent",
        /// The answer only within the thinking.
        ReasoningOnly = "reasoning-only",
        /// `refusal: false`.
        RefusalFalse = "refusal-false",
        /// A number as the reason why the reply ended.
        FinishZero = "finish-zero",
        /// Details of the usage as texts.
        DetailsText = "details-text",
        /// Usage `{}`.
        UsageEmpty = "usage-empty",
        /// Usage `[]`.
        UsageList = "usage-list",
        /// Zeros as usage.
        UsageZeros = "usage-zeros",
        /// Numbers of the usage as texts.
        UsageStrings = "usage-strings",
        /// Usage near 2^64.
        UsageHuge = "usage-huge",
        /// A failure of the upstream service inside the choice.
        ChoiceError = "choice-error",
        /// An empty list of choices.
        NoChoices = "no-choices",
        /// No choices, no content: null.
        NullChoices = "null-choices",
        /// A rate limit reported inside a 200.
        LimitInside = "limit-inside",
        /// An overload reported inside a 200.
        OverloadInside = "overload-inside",
        /// A lack of credit reported inside a 200.
        CreditInside = "credit-inside",
        /// A wrong key reported inside a 200.
        KeyInside = "key-inside",
        /// Half of a surrogate pair, escaped, in the envelope's text.
        LoneSurrogate = "lone-surrogate",
        /// A stream of events, though none was asked for.
        Sse = "sse",
        /// A compressed body.
        Gzip = "gzip",
        /// Status 201.
        Created = "status-201",
        /// A byte order mark before the body.
        Bom = "bom",
        /// 403 for the content of the request, permanently.
        FlaggedItem = "flagged-item",
        /// 502 for this request, permanently.
        BadGatewayItem = "bad-gateway-item",
    }
}

/// A schedule of shapes.
pub type Shapes = Schedule<Shape>;

impl Shape {
    /// Shapes with another answer before the correct one.
    pub const DRAFTS: &'static [Self] = &[
        Self::ThinkDraft,
        Self::BareThink,
        Self::QuotedObject,
        Self::FormatFirst,
        Self::SecondBlock,
        Self::ReasoningPart,
    ];

    /// Shapes that contain the correct answer, which a careful parser finds at the first attempt. A rationale
    /// has one more replaced character with [`Shape::LoneSurrogate`], and may have a line break instead of a
    /// space with [`Shape::RawNewline`].
    pub const READABLE: &'static [Self] = &[
        Self::ThinkDraft,
        Self::BareThink,
        Self::StringScores,
        Self::FloatIndex,
        Self::RawNewline,
        Self::TrailingComma,
        Self::LengthWhole,
        Self::ReasoningPart,
        Self::ContentObject,
        Self::ReasoningOnly,
        Self::RefusalFalse,
        Self::FinishZero,
        Self::DetailsText,
        Self::UsageEmpty,
        Self::UsageList,
        Self::UsageZeros,
        Self::UsageStrings,
        Self::UsageHuge,
        Self::LoneSurrogate,
        Self::Sse,
        Self::Gzip,
        Self::Created,
        Self::Bom,
    ];
}

impl Scheduled for Shape {
    const SALT: &'static [u8] = b"shape";

    fn is_lasting(self) -> bool {
        matches!(self, Self::FlaggedItem | Self::BadGatewayItem)
    }
}
