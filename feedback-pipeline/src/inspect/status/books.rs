//! Accounts for items: every rollout and every rationale is done, rejected, waiting or empty, and the tables
//! must agree.

use super::query::{self, Spending, counted};
use crate::error::Result;
use crate::inspect::frame::{Collected, frame, left_join, with_test};
use crate::items::Kind;
use polars::prelude::*;
use schemas::number::{self, grouped};
use schemas::opinions::Opinion;
use schemas::share::Share;
use schemas::{Correction, Dataset, IdSet, Judgement, Rationale, Reject, Rollout, Score, Table};
use serde::Serialize;
use std::fmt;

/// What became of the items of a kind in a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// ARES round.
    pub round: u32,
    /// scores, corrections or judgements.
    pub kind: &'static str,
    /// Rollouts, rationales of the rl stage, or pairs of test rationales.
    pub items: u64,
    /// Items with feedback.
    pub done: u64,
    /// Items without a usable reply.
    pub rejected: u64,
    /// Items that wait for feedback.
    pub waiting: u64,
    /// Items that no feedback is asked for: outside `sft.corrections_share`, or all of a kind that is `unasked`.
    #[serde(skip_serializing_if = "is_none")]
    pub outside: u64,
    /// Whether the settings ask for no feedback of this kind: `train` would not use it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
    /// Items without a sentence; they need no feedback.
    pub empty: u64,
    /// The baseline of the pairs; judgements only.
    pub against: Option<String>,
    /// The opinion; only for scores of rollouts with several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opinion: Option<String>,
    /// Sentences of the scored rollouts.
    pub sentences: Option<u64>,
    /// Disagreements between the tables.
    pub faults: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Account {
    /// The account of the outcomes of items, of which `with_feedback` have rows in the feedback's table.
    fn of(round: u32, kind: Kind, outcomes: query::Outcomes, with_feedback: u64) -> Self {
        let mut account = Self {
            round,
            kind: kind.as_str(),
            items: outcomes.items,
            done: outcomes.done,
            rejected: outcomes.rejected,
            waiting: outcomes.waiting,
            outside: outcomes.outside,
            unasked: false,
            empty: outcomes.empty,
            against: None,
            opinion: None,
            sentences: None,
            faults: outcomes.faults,
        };
        if with_feedback > account.done {
            account.faults.push(format!("{} belong to no item", grouped(with_feedback - account.done)));
        }
        account
    }

    /// Reports if the requests table has fewer items than are completed. More is not an error: an item may
    /// have been requested again after its prompt changed, or after a reject.
    fn compare(&mut self, spending: &[Spending], ended: u64) {
        let asked = asked(spending, self.kind);
        if asked < ended {
            let (asked, ended) = (number::counted(asked, "item"), grouped(ended));
            self.faults.push(format!("the requests table has {asked}, not {ended}"));
        }
    }
}

/// Items of a kind in the requests table.
fn asked(spending: &[Spending], kind: &str) -> u64 {
    spending.iter().filter(|line| line.kind == kind).map(|line| line.items).sum()
}

/// The accounts of the rollouts of a round, one for each opinion where rollouts have several; none if there are no rollouts.
/// Without `are_asked`, none waits.
pub(super) fn scores(
    dataset: &Dataset,
    round: u32,
    spending: &[Spending],
    problems: &IdSet,
    are_asked: bool,
) -> Result<Vec<Account>> {
    let scores = frame::<Score>(dataset, round, &["rollout_id", "teacher", "repeat"])?
        .with_column(col("repeat").fill_null(lit(0_u64)));
    // A list column is read as its length.
    let rollouts = frame::<Rollout>(dataset, round, &["rollout_id", "sentences"])?.select([
        col("rollout_id").alias("id"),
        col("sentences").eq(lit(0)).alias("empty"),
        col("sentences").alias("expected"),
        lit(!are_asked).alias("outside"),
    ]);
    let account = |scores: LazyFrame, opinion: Option<Opinion>| -> Result<Account> {
        let scores = counted(scores, "rollout_id");
        let with_feedback = rows(scores.clone())?;
        let items = left_join(rollouts.clone(), "id", scores, "rollout_id");
        let outcomes = query::outcomes(dataset, round, Kind::Scores.as_str(), opinion.as_ref(), items)?;
        let sentences = outcomes.rows;
        let mut account = Account::of(round, Kind::Scores, outcomes, with_feedback);
        account.sentences = Some(sentences);
        account.unasked = !are_asked;
        account.opinion = opinion.map(|opinion| opinion.to_string());
        Ok(account)
    };
    let mut accounts = Vec::new();
    for opinion in opinions(&scores)? {
        let own = scores
            .clone()
            .filter(col("teacher").eq(lit(opinion.teacher.as_str())))
            .filter(col("repeat").eq(lit(u64::from(opinion.repeat))));
        accounts.push(account(own, Some(opinion))?);
    }
    if accounts.is_empty() {
        accounts.push(account(scores, None)?);
    }
    accounts.retain(|account| account.items > 0);
    let ended = accounts.iter().map(|account| account.done + account.rejected).sum();
    if let Some(first) = accounts.first_mut() {
        first.compare(spending, ended);
        first.faults.extend(without_problem::<Rollout>(dataset, round, problems)?);
        first.faults.extend(unusable_score(dataset, round)?);
    }
    Ok(accounts)
}

/// Rows of problems that do not exist.
fn without_problem<T: Table>(dataset: &Dataset, round: u32, problems: &IdSet) -> Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Of {
        problem_id: String,
    }
    let mut rows = 0_u64;
    for row in dataset.stream_columns::<T, Of>(round, &["problem_id"])? {
        rows += u64::from(!problems.contains(&row?.problem_id));
    }
    let is_any = rows > 0;
    Ok(is_any.then(|| format!("{} of problems that problems.parquet lacks: {}", T::NAME, grouped(rows))))
}

/// The first score that is no number from 0 to 1: whatever uses the scores refuses it.
fn unusable_score(dataset: &Dataset, round: u32) -> Result<Option<String>> {
    match dataset.columns::<Score>(round, &["score"]) {
        Ok(_) => Ok(None),
        Err(error @ schemas::Error::Value { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The opinions of a round whose rollouts have several.
fn opinions(scores: &LazyFrame) -> Result<Vec<Opinion>> {
    let by = ["teacher", "repeat"].map(col);
    let on_rollouts = scores
        .clone()
        .group_by([col("rollout_id"), col("teacher"), col("repeat")])
        .agg([len().alias("sentences")]);
    let most = counted(on_rollouts.clone(), "rollout_id").select([col("rows").max()]);
    if Collected::of::<Score>(most)?.counts("rows")?.first().is_none_or(|most| *most < 2) {
        return Ok(Vec::new());
    }
    let all = on_rollouts.group_by(by.clone()).agg([len().alias("rollouts")]);
    let all = Collected::of::<Score>(all.sort(["repeat", "teacher"], SortMultipleOptions::default()))?;
    let repeats = all.counts("repeat")?.into_iter().map(|repeat| u32::try_from(repeat).unwrap_or(u32::MAX));
    Ok(all
        .texts("teacher")?
        .into_iter()
        .zip(repeats)
        .map(|(teacher, repeat)| Opinion { teacher, repeat })
        .collect())
}

/// The account of the rationales that the rl stage of a round wrote, of which those in a share are corrected, or none if that is
/// `None`; `None` if there are none.
pub(super) fn corrections(
    dataset: &Dataset,
    round: u32,
    spending: &[Spending],
    problems: &IdSet,
    share: Option<&Share>,
) -> Result<Option<Account>> {
    let corrections = counted(frame::<Correction>(dataset, round, &["rationale_id"])?, "rationale_id");
    let with_feedback = rows(corrections.clone())?;
    let rationales = rationales(dataset, round, "rl")?;
    let is_outside = |problem: &str| share.is_none_or(|share| !share.contains(problem));
    let rationales = with_test(rationales, "problem_id", "outside", is_outside)?;
    // In splits other than train, only corrected rationales count.
    let items = left_join(rationales, "id", corrections, "rationale_id")
        .filter(col("split").eq(lit("train")).or(col("rows").is_not_null()))
        .with_column(lit(1_u64).alias("expected"));
    let outcomes = query::outcomes(dataset, round, Kind::Corrections.as_str(), None, items)?;
    let mut account = Account::of(round, Kind::Corrections, outcomes, with_feedback);
    account.unasked = share.is_none();
    account.compare(spending, account.done + account.rejected);
    account.faults.extend(without_problem::<Rationale>(dataset, round, problems)?);
    Ok((account.items > 0 || !account.faults.is_empty()).then_some(account))
}

/// The accounts of the pairs that a round's judgements are about, one for each baseline.
pub(super) fn judgements(dataset: &Dataset, round: u32, spending: &[Spending]) -> Result<Vec<Account>> {
    let kind = Kind::Judgements.as_str();
    let judged = frame::<Judgement>(dataset, round, &["problem_id", "against", "candidate_shown_first"])?;
    let baselines = judged.clone().group_by([col("against")]).agg([len().alias("judgements")]);
    let baselines = Collected::of::<Judgement>(baselines.sort(["against"], SortMultipleOptions::default()))?;
    let of_kind = frame::<Reject>(dataset, round, &["kind", "request_key", "subject_id"])?
        .filter(col("kind").eq(lit(kind)));
    // If both orders of a pair have the same request, there is a row for each.
    let distinct = of_kind.group_by([col("request_key"), col("subject_id")]).agg([len().alias("rows")]);
    let distinct_rejects = rows(distinct)?;
    let mut names = baselines.texts("against")?;
    if names.is_empty() && distinct_rejects > 0 {
        names.push("base".to_owned()); // only rejects
    }
    let candidates = last_of_problem(rationales(dataset, round, "sft")?);
    let mut accounts = Vec::new();
    for against in names {
        let (stage, other) = against.parse().map_or(("base", 0), |round| ("sft", round));
        let others = last_of_problem(rationales(dataset, other, stage)?)
            .select([col("problem_id"), col("empty").alias("other_empty")]);
        let orders = judged
            .clone()
            .filter(col("against").eq(lit(against.as_str())))
            .group_by([col("problem_id")])
            .agg([
                len().cast(DataType::UInt64).alias("rows"),
                col("candidate_shown_first").n_unique().cast(DataType::UInt64).alias("expected"),
            ]);
        let with_feedback = rows(orders.clone())?;
        let pairs = left_join(candidates.clone(), "problem_id", others, "problem_id")
            .filter(col("other_empty").is_not_null())
            .with_columns([col("empty").or(col("other_empty")).alias("empty"), lit(false).alias("outside")]);
        let items = left_join(pairs, "problem_id", orders, "problem_id");
        let outcomes = query::outcomes(dataset, round, kind, None, items)?;
        let mut account = Account::of(round, Kind::Judgements, outcomes, with_feedback);
        account.against = Some(against);
        accounts.push(account);
    }
    // Agreement with the requests table can only be checked for all baselines together.
    let judgements: u64 = baselines.counts("judgements")?.iter().sum();
    let (asked, ended) = (asked(spending, kind), judgements + distinct_rejects);
    if let Some(first) = accounts.first_mut()
        && asked < ended
    {
        let (asked, ended) = (number::counted(asked, "judgement"), grouped(ended));
        first.faults.push(format!("the requests table has {asked}, not {ended}"));
    }
    Ok(accounts)
}

/// Rationales of a stage: `id`, `problem_id`, `split` and whether they are `empty`.
fn rationales(dataset: &Dataset, round: u32, stage: &str) -> Result<LazyFrame> {
    let names = ["rationale_id", "problem_id", "split", "stage", "deduplicated"];
    let is_blank = |text: &str| text.trim().is_empty();
    Ok(with_test(frame::<Rationale>(dataset, round, &names)?, "deduplicated", "empty", is_blank)?
        .filter(col("stage").eq(lit(stage)))
        .select([col("rationale_id").alias("id"), col("problem_id"), col("split"), col("empty")]))
}

/// One test rationale of each problem, by problem.
fn last_of_problem(rationales: LazyFrame) -> LazyFrame {
    rationales
        .filter(col("split").eq(lit("test")))
        .group_by_stable([col("problem_id")])
        .agg([col("id").last(), col("empty").last()])
        .sort(["problem_id"], SortMultipleOptions::default())
}

/// Rows of a query.
fn rows(query: LazyFrame) -> Result<u64> {
    let rows = Collected::of::<Reject>(query.select([len().alias("rows")]))?;
    Ok(rows.counts("rows")?.iter().sum())
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (item, done) = match self.kind {
            "scores" => ("rollout", "scored"),
            "corrections" => ("rationale", "corrected"),
            _ => ("pair", "judged"),
        };
        let against = self.against.as_ref().map_or_else(String::new, |against| format!(" against {against}"));
        let by = self.opinion.as_ref().map_or_else(String::new, |opinion| format!(" by {opinion}"));
        write!(
            f,
            "round {}, {}{against}{by}: {} = {} {done} + {} rejected + {} waiting + {} empty",
            self.round,
            self.kind,
            number::counted(self.items, item),
            grouped(self.done),
            grouped(self.rejected),
            grouped(self.waiting),
            grouped(self.empty),
        )?;
        if self.outside > 0 {
            let why = match (self.unasked, self.kind) {
                (false, _) => "outside the round's share",
                (true, "scores") => "not asked for (rl.answer_reward = alone)",
                (true, _) => "not asked for (sft.filter = scored)",
            };
            write!(f, " + {} {why}", grouped(self.outside))?;
        }
        if let Some(sentences) = self.sentences {
            write!(f, "; {} scored", number::counted(sentences, "sentence"))?;
        }
        for fault in self.faults.iter().take(5) {
            write!(f, "\n  fault: {fault}")?;
        }
        if self.faults.len() > 5 {
            write!(f, "\n  and {} more", grouped(self.faults.len() as u64 - 5))?;
        }
        Ok(())
    }
}
