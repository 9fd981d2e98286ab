//! The rows that are not exported, counted by reason.

use schemas::number::grouped;
use std::collections::BTreeMap;
use std::fmt;

/// Why a row was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Its problem is in a split that was not asked for.
    Split(Split),
    /// A rationale without a sentence.
    Empty,
    /// The Teacher's replies could not be used.
    Rejected,
    /// No feedback yet.
    Pending,
    /// Scores for some of the sentences only.
    PartlyScored,
    /// Scores or corrections of a text that has since changed.
    OtherText,
    /// Feedback about a row that no longer exists.
    NoRow,
    /// The same text as an earlier row of the problem.
    Duplicate,
    /// It was cut off by the token limit, and would have been a good example.
    Truncated,
    /// The problem has a picture, but its file is missing.
    PictureMissing,
    /// The picture's file is no PNG, JPEG, GIF or WebP.
    PictureUnreadable,
    /// The publisher hides the answer.
    AnswerHidden,
    /// The Teacher changed nothing.
    Unchanged,
    /// Both texts are the same.
    SameTexts,
    /// The Teacher preferred neither.
    Tie,
    /// The Teacher's verdict depends on the order in which the two were shown.
    OrdersDisagree,
    /// It is the problem's only sample, so there is nothing to compare it with.
    OnlySample,
    /// The best and the worst sample of a problem are too close.
    WithinMargin,
    /// Neither the best nor the worst sample of its problem.
    BetweenBestAndWorst,
    /// Not the best sample of its problem.
    NotBest,
    /// The score does not exceed the threshold.
    NotGood,
    /// Too close to the threshold to be called good or bad.
    NearThreshold,
}

/// Split of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Split {
    /// Problems to learn from.
    Train,
    /// Problems to choose settings with.
    Val,
    /// Problems to evaluate on.
    Test,
}

impl Split {
    /// All splits.
    pub(super) const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// Name in the tables.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// Name that Hugging Face's loaders expect.
    pub(super) fn hub_name(self) -> &'static str {
        match self {
            Self::Val => "validation",
            other => other.as_str(),
        }
    }

    /// The split of a problem; tables contain no others.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "val" => Self::Val,
            "test" => Self::Test,
            _ => Self::Train,
        }
    }
}

impl Reason {
    /// A counted reason, as in `12 rollouts or rationales: not answered yet`.
    pub(super) fn label(self) -> String {
        match self {
            Self::Split(split) => format!("in split {0} (--split {0} exports it)", split.as_str()),
            Self::Empty => "without a sentence".to_owned(),
            Self::Rejected => "rejected: no usable reply".to_owned(),
            Self::Pending => "without feedback yet".to_owned(),
            Self::PartlyScored => "only partly scored".to_owned(),
            Self::OtherText => "feedback is about another text than the table's".to_owned(),
            Self::NoRow => "feedback is about a row that no longer exists".to_owned(),
            Self::Duplicate => {
                "same text as another of the problem (--keep-duplicates exports it)".to_owned()
            }
            Self::Truncated => "cut off by the token limit".to_owned(),
            Self::PictureMissing => "picture is missing".to_owned(),
            Self::PictureUnreadable => "picture is not readable".to_owned(),
            Self::AnswerHidden => "answer is hidden".to_owned(),
            Self::Unchanged => "correction changed nothing".to_owned(),
            Self::SameTexts => "both texts are the same".to_owned(),
            Self::Tie => "tie".to_owned(),
            Self::OrdersDisagree => "verdicts of the two orders disagree".to_owned(),
            Self::OnlySample => "only sample of its problem".to_owned(),
            Self::WithinMargin => "best and worst sample are within --margin".to_owned(),
            Self::BetweenBestAndWorst => "neither best nor worst sample".to_owned(),
            Self::NotBest => "not the best sample".to_owned(),
            Self::NotGood => "score does not exceed --threshold".to_owned(),
            Self::NearThreshold => "score is within --margin of --threshold".to_owned(),
        }
    }
}

/// Rows that were left out, by the kind of example they would have become and by reason.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<(&'static str, Reason), u64>);

impl LeftOut {
    /// Counts rows that would have become a line of `kind`.
    pub(super) fn count(&mut self, kind: &'static str, reason: Reason, rows: usize) {
        if rows > 0 {
            *self.0.entry((kind, reason)).or_default() += rows as u64;
        }
    }

    /// Kind, reason and number of rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, Reason, u64)> {
        self.0.iter().map(|((kind, reason), rows)| (*kind, *reason, *rows))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, reason, rows) in self.rows() {
            writeln!(f, "  left out {:>9} {kind}: {}", grouped(rows), reason.label())?;
        }
        Ok(())
    }
}
