//! Books: every rollout and every rationale is done, rejected, waiting or empty, and the tables agree on it.

use super::query::{self, Spending};
use crate::error::Result;
use crate::items::Kind;
use schemas::number::grouped;
use schemas::{Dataset, Judgement, Rationale, Reject, Rollout, Sentence};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Items without a sentence; they need no feedback.
    pub empty: u64,
    /// What pairs are compared with; judgements only.
    pub against: Option<String>,
    /// Sentences of the scored rollouts.
    pub sentences: Option<u64>,
    /// Where the tables disagree.
    pub faults: Vec<String>,
}

/// Collects the account of a kind item by item.
struct Book {
    account: Account,
    rejected: HashSet<String>,
    seen: HashSet<String>,
    found: u64,
    asked: u64,
}

impl Book {
    fn new(dataset: &Dataset, round: u32, kind: Kind, spending: &[Spending]) -> Result<Self> {
        let account = Account {
            round,
            kind: kind.as_str(),
            items: 0,
            done: 0,
            rejected: 0,
            waiting: 0,
            empty: 0,
            against: None,
            sentences: None,
            faults: Vec::new(),
        };
        let asked = spending.iter().filter(|line| line.kind == kind.as_str()).map(|line| line.items).sum();
        let rejected = query::rejected(dataset, round, kind.as_str())?;
        Ok(Self { account, rejected, seen: HashSet::new(), found: 0, asked })
    }

    /// Enters one item: whether it is empty, and how many rows of feedback it has of how many.
    fn enter(&mut self, id: String, empty: bool, rows: Option<u64>, expected: u64) {
        self.account.items += 1;
        match rows {
            _ if empty => self.account.empty += 1,
            Some(rows) => {
                self.account.done += 1;
                self.found += 1;
                if rows != expected {
                    self.account.faults.push(format!("`{id}` has {rows} rows of {expected}"));
                }
            }
            None if self.rejected.contains(&id) => self.account.rejected += 1,
            None => self.account.waiting += 1,
        }
        if !self.seen.insert(id.clone()) {
            self.account.faults.push(format!("`{id}` appears twice"));
        }
    }

    /// Closes the account: feedback without an item, and the requests table.
    fn close(mut self, with_feedback: u64) -> Account {
        if with_feedback > self.found {
            self.account.faults.push(format!("{} belong to no item", grouped(with_feedback - self.found)));
        }
        let ended = self.account.done + self.account.rejected;
        // More is no fault: an item was asked again where the prompt changed, or after a reject.
        if self.asked < ended {
            let (asked, ended) = (grouped(self.asked), grouped(ended));
            self.account.faults.push(format!("the requests table has {asked} items, not {ended}"));
        }
        self.account
    }
}

/// The account of the rollouts of a round; `None` if there are no rollouts.
pub(super) fn scores(dataset: &Dataset, round: u32, spending: &[Spending]) -> Result<Option<Account>> {
    #[derive(Deserialize)]
    struct Row {
        rollout_id: String,
        sentences: Vec<Sentence>,
    }
    let rollouts: Vec<Row> = dataset.project::<Rollout, Row>(round, &["rollout_id", "sentences"])?;
    if rollouts.is_empty() {
        return Ok(None);
    }
    let scores: HashMap<String, u64> = query::scores_by_rollout(dataset, round)?;
    let mut ledger = Book::new(dataset, round, Kind::Scores, spending)?;
    let mut sentences = 0;
    for row in rollouts {
        let expected = row.sentences.len() as u64;
        let scored = scores.get(&row.rollout_id).copied();
        sentences += scored.unwrap_or_default();
        ledger.enter(row.rollout_id, expected == 0, scored, expected);
    }
    ledger.account.sentences = Some(sentences);
    Ok(Some(ledger.close(scores.len() as u64)))
}

/// The account of the rationales that the rl stage of a round wrote; `None` if there are none.
pub(super) fn corrections(dataset: &Dataset, round: u32, spending: &[Spending]) -> Result<Option<Account>> {
    #[derive(Deserialize)]
    struct Row {
        rationale_id: String,
        split: String,
        stage: String,
        deduplicated: String,
    }
    let names = &["rationale_id", "split", "stage", "deduplicated"];
    let rationales = dataset.project::<Rationale, Row>(round, names)?;
    let corrections: HashMap<String, u64> = query::corrections_by_rationale(dataset, round)?;
    let mut ledger = Book::new(dataset, round, Kind::Corrections, spending)?;
    for row in rationales.into_iter().filter(|row| row.stage == "rl") {
        if row.split != "train" && !corrections.contains_key(&row.rationale_id) {
            continue;
        }
        let corrected = corrections.get(&row.rationale_id).copied();
        ledger.enter(row.rationale_id, row.deduplicated.trim().is_empty(), corrected, 1);
    }
    let account = ledger.close(corrections.len() as u64);
    Ok((account.items > 0 || !account.faults.is_empty()).then_some(account))
}

/// The accounts of the pairs that a round's judgements are about, one for each baseline.
pub(super) fn judgements(dataset: &Dataset, round: u32, spending: &[Spending]) -> Result<Vec<Account>> {
    #[derive(Deserialize)]
    struct Judged {
        problem_id: String,
        against: String,
        candidate_shown_first: bool,
    }
    let names = ["problem_id", "against", "candidate_shown_first"];
    let rows: Vec<Judged> = dataset.project::<Judgement, Judged>(round, &names)?;
    let rejects = query::rejected(dataset, round, Kind::Judgements.as_str())?;
    let mut baselines: BTreeMap<&str, HashMap<&str, Vec<bool>>> = BTreeMap::new();
    for row in &rows {
        let orders = baselines.entry(&row.against).or_default().entry(&row.problem_id).or_default();
        orders.push(row.candidate_shown_first);
    }
    if baselines.is_empty() && !rejects.is_empty() {
        baselines.insert("base", HashMap::new()); // nothing but rejects
    }
    let candidates = test_rationales(dataset, round, "sft")?;
    let mut accounts = Vec::new();
    for (against, judged) in &baselines {
        let (stage, other) = against.parse().map_or(("base", 0), |round| ("sft", round));
        let others = test_rationales(dataset, other, stage)?;
        // Agreement with the requests table can only be checked over all baselines.
        let mut ledger = Book::new(dataset, round, Kind::Judgements, &[])?;
        ledger.account.against = Some((*against).to_owned());
        for (problem_id, (id, text)) in &candidates {
            let Some((_, other)) = others.get(problem_id) else { continue };
            let orders = judged.get(problem_id.as_str());
            let distinct = |orders: &Vec<bool>| orders.iter().collect::<HashSet<_>>().len() as u64;
            let empty = text.trim().is_empty() || other.trim().is_empty();
            ledger.enter(
                id.clone(),
                empty,
                orders.map(|orders| orders.len() as u64),
                orders.map_or(1, distinct),
            );
        }
        ledger.asked = ledger.account.done + ledger.account.rejected;
        accounts.push(ledger.close(judged.len() as u64));
    }
    let asked: u64 = spending.iter().filter(|l| l.kind == Kind::Judgements.as_str()).map(|l| l.items).sum();
    let ended = rows.len() as u64 + distinct_rejects(dataset, round)?;
    if let Some(first) = accounts.first_mut()
        && asked < ended
    {
        let (asked, ended) = (grouped(asked), grouped(ended));
        first.faults.push(format!("the requests table has {asked} judgements, not {ended}"));
    }
    Ok(accounts)
}

/// Rejected judgements; those of two orders with the same request have a row for each.
fn distinct_rejects(dataset: &Dataset, round: u32) -> Result<u64> {
    let rejects = dataset.read::<Reject>(round)?;
    let of_kind = rejects.into_iter().filter(|row| row.kind == "judgements");
    Ok(of_kind.map(|row| (row.request_key, row.subject_id)).collect::<HashSet<_>>().len() as u64)
}

/// Id and text of the test rationales of a stage, by problem.
fn test_rationales(dataset: &Dataset, round: u32, stage: &str) -> Result<BTreeMap<String, (String, String)>> {
    #[derive(Deserialize)]
    struct Row {
        rationale_id: String,
        problem_id: String,
        split: String,
        stage: String,
        deduplicated: String,
    }
    let names = ["rationale_id", "problem_id", "split", "stage", "deduplicated"];
    let rows = dataset.project::<Rationale, Row>(round, &names)?;
    let of_stage = rows.into_iter().filter(|row| row.stage == stage && row.split == "test");
    Ok(of_stage.map(|row| (row.problem_id, (row.rationale_id, row.deduplicated))).collect())
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (items, done) = match self.kind {
            "scores" => ("rollouts", "scored"),
            "corrections" => ("rationales", "corrected"),
            _ => ("pairs", "judged"),
        };
        let against = self.against.as_ref().map_or_else(String::new, |against| format!(" against {against}"));
        write!(
            f,
            "round {}, {}{against}: {} {items} = {} {done} + {} rejected + {} waiting + {} empty",
            self.round,
            self.kind,
            grouped(self.items),
            grouped(self.done),
            grouped(self.rejected),
            grouped(self.waiting),
            grouped(self.empty),
        )?;
        if let Some(sentences) = self.sentences {
            write!(f, "; {} sentences scored", grouped(sentences))?;
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
