//! Sums over scored sentences, by queries.

use crate::error::Result;
use crate::inspect::frame::{Collected, frame, left_join};
use crate::inspect::opinions::scores_frame;
use polars::prelude::*;
use schemas::{Dataset, Rollout, Score, Settings};

/// A sentence below this is wrong, unsupported or repeated: 0.5 is the neutral score.
pub(super) const WRONG_BELOW: f32 = 0.5;
/// Positions shown separately; later ones are combined.
const POSITIONS: usize = 10;

/// Summed scores of some rationales.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Rationales with scores.
    pub rationales: u64,
    /// Their sentences.
    pub sentences: u64,
    /// Sum of the sentences' scores.
    pub sum: f64,
    /// Rationales without a sentence below 0.5.
    pub without_wrong: u64,
}

impl Tally {
    /// Adds one rationale's scores.
    pub fn add(&mut self, scores: &[f32]) {
        self.rationales += 1;
        self.sentences += scores.len() as u64;
        self.sum += scores.iter().copied().map(f64::from).sum::<f64>();
        self.without_wrong += u64::from(scores.iter().all(|score| *score >= WRONG_BELOW));
    }

    /// Adds other rationales.
    pub(super) fn merge(&mut self, other: &Self) {
        self.rationales += other.rationales;
        self.sentences += other.sentences;
        self.sum += other.sum;
        self.without_wrong += other.without_wrong;
    }

    /// Mean over all sentences.
    pub fn mean(&self) -> Option<f64> {
        mean(self.sum, self.sentences)
    }

    /// Share of rationales without a wrong sentence.
    pub fn share_without_wrong(&self) -> Option<f64> {
        share(self.without_wrong, self.rationales)
    }
}

/// A mean; `None` of nothing.
pub(super) fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

/// A fraction; `None` if the whole is 0.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The rollouts of a round that have a score for each of their sentences.
pub(super) struct Scored {
    /// A row for each rollout: `rollout_id`, `problem_id`, `policy`, `rows` (scores), `sum` and `least` of them.
    rollouts: LazyFrame,
    /// A row for each score: `rollout_id`, `sentence_index`, `score`.
    scores: LazyFrame,
}

impl Scored {
    pub(super) fn of(dataset: &Dataset, round: u32, settings: &Settings) -> Result<Self> {
        let scores = scores_frame(dataset, round, settings)?;
        let by_rollout = scores.clone().group_by_stable([col("rollout_id")]).agg([
            len().cast(DataType::UInt64).alias("rows"),
            col("sentence_index").n_unique().cast(DataType::UInt64).alias("distinct"),
            col("sentence_index").max().alias("last"),
            col("score").sum().alias("sum"),
            col("score").min().alias("least"),
        ]);
        let names = ["rollout_id", "problem_id", "policy", "sentences"];
        // A list column is read as its length.
        let rollouts =
            left_join(frame::<Rollout>(dataset, round, &names)?, "rollout_id", by_rollout, "rollout_id");
        let is_whole = col("rows")
            .eq(col("sentences"))
            .and(col("distinct").eq(col("rows")))
            .and((col("last") + lit(1_u64)).eq(col("rows")));
        Ok(Self { rollouts: rollouts.filter(is_whole), scores })
    }

    /// The total.
    pub(super) fn all(&self) -> Result<Tally> {
        let all = self.rollouts.clone().with_column(lit("all").alias("all"));
        Ok(tallies(all, ["all"])?.first().map_or_else(Tally::default, |(_, tally)| *tally))
    }

    /// By policy and problem, in the order of the table.
    pub(super) fn by_policy(&self) -> Result<Vec<([String; 2], Tally)>> {
        tallies(self.rollouts.clone(), ["policy", "problem_id"])
    }

    /// By a column of `problems`, a frame that also has `problem_id`.
    pub(super) fn by_problems(&self, problems: &LazyFrame, name: &str) -> Result<Vec<(String, Tally)>> {
        let named = problems.clone().select([col("problem_id"), col(name)]);
        let joined = left_join(self.rollouts.clone(), "problem_id", named, "problem_id")
            .with_column(col(name).fill_null(lit("not given")));
        Ok(tallies(joined, [name])?.into_iter().map(|([name], tally)| (name, tally)).collect())
    }

    fn sentences(&self) -> LazyFrame {
        let ids = self.rollouts.clone().select([col("rollout_id")]);
        left_join(ids, "rollout_id", self.scores.clone(), "rollout_id")
    }

    /// Sentences by score in tenths, 0 to 10.
    pub(super) fn distribution(&self) -> Result<[u64; 11]> {
        // Computed in float32, as scores are stored: there, 0.45 rounds to 0.5; in float64, it would round to
        // 0.4.
        let tenths = col("score").cast(DataType::Float32) * lit(10.0_f32) + lit(0.5_f32);
        let counted = self
            .sentences()
            .with_column(tenths.cast(DataType::Int64).alias("tenths"))
            .group_by([col("tenths")])
            .agg([len().alias("sentences")]);
        let counted = Collected::of::<Score>(counted)?;
        let mut distribution = [0; 11];
        for (tenths, sentences) in counted.counts("tenths")?.into_iter().zip(counted.counts("sentences")?) {
            distribution[usize::try_from(tenths).unwrap_or(10).min(10)] += sentences;
        }
        Ok(distribution)
    }

    /// By position of the sentence; the last entry is position 10 and later.
    pub(super) fn positions(&self) -> Result<Vec<Tally>> {
        let last = POSITIONS as u64 - 1;
        let place =
            when(col("sentence_index").gt(lit(last))).then(lit(last)).otherwise(col("sentence_index"));
        let summed = self
            .sentences()
            .with_column(place.alias("place"))
            .group_by_stable([col("place")])
            .agg([
                len().alias("sentences"),
                col("score").sum().alias("sum"),
                col("score").gt_eq(lit(f64::from(WRONG_BELOW))).sum().alias("right"),
            ])
            .sort(["place"], SortMultipleOptions::default());
        let summed = Collected::of::<Score>(summed)?;
        let (sentences, sums, right) =
            (summed.counts("sentences")?, summed.numbers("sum")?, summed.counts("right")?);
        let tally = |row: usize| Tally {
            rationales: sentences[row],
            sentences: sentences[row],
            sum: sums[row].unwrap_or_default(),
            without_wrong: right[row],
        };
        Ok((0..summed.len()).map(tally).collect())
    }
}

/// The sums of each combination of some columns.
fn tallies<const N: usize>(rollouts: LazyFrame, by: [&str; N]) -> Result<Vec<([String; N], Tally)>> {
    let summed = rollouts.group_by_stable(by.map(col)).agg([
        len().alias("rationales"),
        col("rows").sum().alias("sentences"),
        col("sum").sum(),
        col("least").gt_eq(lit(f64::from(WRONG_BELOW))).sum().alias("without_wrong"),
    ]);
    let summed = Collected::of::<Score>(summed)?;
    let names = by.iter().map(|name| summed.texts(name)).collect::<Result<Vec<_>>>()?;
    let sums = summed.numbers("sum")?;
    let (rationales, sentences) = (summed.counts("rationales")?, summed.counts("sentences")?);
    let without_wrong = summed.counts("without_wrong")?;
    let tally = |row: usize| Tally {
        rationales: rationales[row],
        sentences: sentences[row],
        sum: sums[row].unwrap_or_default(),
        without_wrong: without_wrong[row],
    };
    let named = |row: usize| std::array::from_fn(|place| names[place][row].clone());
    Ok((0..summed.len()).map(|row| (named(row), tally(row))).collect())
}
