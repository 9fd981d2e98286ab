//! `collect-feedback status`: what a dataset contains, what each round still needs, and what it cost.
//!
//! `books` accounts for every rollout and every rationale exactly once; `query` sums the tables, which
//! may be large, by lazy scans that read only the columns they need.

mod books;
mod groups;
pub(crate) mod layout;
mod query;

pub use books::Account;
pub use groups::Groups;
pub use query::Spending;

use crate::collect::OpenBatches;
use crate::error::{Error, Result};
use crate::store::Cache;
use layout::{Align, Grid};
pub(crate) use schemas::number::grouped;
use schemas::{
    Answer, Correction, Dataset, IdSet, Judgement, Metric, Problem, Rationale, Reject, Request, Rollout,
    Score, Settings, Table,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The state of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The dataset folder.
    pub dataset: String,
    /// Number of problems by split.
    pub problems: BTreeMap<String, usize>,
    /// Number of rows by round and table.
    pub rows: BTreeMap<u32, BTreeMap<&'static str, u64>>,
    /// What became of every rollout and every rationale.
    pub accounts: Vec<Account>,
    /// Requests, tokens and dollars by round, kind and model.
    pub spending: Vec<Spending>,
    /// Requests about several items each, by round.
    pub groups: Vec<Groups>,
    /// True if every account adds up and agrees with the requests table.
    pub balanced: bool,
    /// Dollars of replies in `feedback.sqlite` that are not in the requests table: from a run that is in progress or
    /// was interrupted.
    pub unbooked_usd: f64,
    /// Additional dollars that attempts without a complete reply may have cost.
    pub maybe_lost_usd: f64,
    /// Batches whose results have not been fetched.
    pub open_batches: Vec<OpenBatches>,
}

/// Tables of a round, in the order of a round.
const TABLES: [&str; 9] = [
    Rollout::NAME,
    Score::NAME,
    Rationale::NAME,
    Correction::NAME,
    Judgement::NAME,
    Answer::NAME,
    Metric::NAME,
    Request::NAME,
    Reject::NAME,
];

/// Prints the state of a dataset as tables.
///
/// # Errors
/// If a table cannot be read.
pub fn run(dataset: &Dataset, settings: &Settings) -> Result<()> {
    schemas::say!("{}", report(dataset, settings)?.to_string().trim_end());
    Ok(())
}

/// Prints the state of a dataset as one JSON object.
///
/// # Errors
/// If a table cannot be read.
pub fn run_json(dataset: &Dataset, settings: &Settings) -> Result<()> {
    let json = serde_json::to_string_pretty(&report(dataset, settings)?)
        .map_err(|error| Error::Failed(error.to_string()))?;
    schemas::say!("{json}");
    Ok(())
}

/// The state of a dataset. The settings say which feedback is asked for.
///
/// # Errors
/// If a table cannot be read.
pub fn report(dataset: &Dataset, settings: &Settings) -> Result<Report> {
    let (mut problems, mut ids) = (BTreeMap::new(), IdSet::default());
    for problem in dataset.problem_rows()? {
        let problem = problem?;
        ids.insert(&problem.problem_id);
        *problems.entry(problem.split).or_default() += 1;
    }
    let rows = rows(dataset)?;
    let (mut accounts, mut spending, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for &round in rows.keys() {
        let spent = query::spending(dataset, round)?;
        accounts.extend(books::scores(dataset, round, &spent, &ids, settings.needs_scores())?);
        let share = settings.needs_corrections().then(|| settings.corrected(round));
        accounts.extend(books::corrections(dataset, round, &spent, &ids, share.as_ref())?);
        accounts.extend(books::judgements(dataset, round, &spent)?);
        spending.extend(spent);
        groups.extend(groups::of(dataset, round)?);
    }
    let balanced = accounts.iter().all(|account| account.faults.is_empty());
    let (mut unbooked_usd, mut maybe_lost_usd, mut open) = (0.0, 0.0, Vec::new());
    let cache = dataset.feedback_path();
    if cache.is_file() {
        let booked = spending.iter().map(|line| line.cost_usd).sum::<f64>();
        // SQLite writes next to the file, which fails in a read-only dataset.
        let (paid, lost) = Cache::sums(&cache).unwrap_or_else(|error| {
            schemas::warn!("note: cannot tell whether all replies are in the tables: {error}");
            (booked, 0.0)
        });
        // Less than a millionth of a dollar is a rounding error.
        unbooked_usd = if paid - booked > 1e-6 { paid - booked } else { 0.0 };
        maybe_lost_usd = lost;
        let found = Cache::in_progress_at(&cache).unwrap_or_else(|error| {
            schemas::warn!("note: cannot tell whether batches are open: {error}");
            Vec::new()
        });
        let flags = dataset.flag();
        open.extend(found.into_iter().filter_map(|open| OpenBatches::of(open, &flags)));
    }
    Ok(Report {
        dataset: dataset.root().display().to_string(),
        problems,
        rows,
        accounts,
        spending,
        groups,
        balanced,
        unbooked_usd,
        maybe_lost_usd,
        open_batches: open,
    })
}

fn rows(dataset: &Dataset) -> Result<BTreeMap<u32, BTreeMap<&'static str, u64>>> {
    fn count<T: Table>(
        dataset: &Dataset,
        rows: &mut BTreeMap<u32, BTreeMap<&'static str, u64>>,
    ) -> Result<()> {
        for round in dataset.rounds::<T>()? {
            rows.entry(round).or_default().insert(T::NAME, dataset.count::<T>(round)?);
        }
        Ok(())
    }
    let mut rows = BTreeMap::new();
    count::<Rollout>(dataset, &mut rows)?;
    count::<Score>(dataset, &mut rows)?;
    count::<Rationale>(dataset, &mut rows)?;
    count::<Correction>(dataset, &mut rows)?;
    count::<Judgement>(dataset, &mut rows)?;
    count::<Answer>(dataset, &mut rows)?;
    count::<Metric>(dataset, &mut rows)?;
    count::<Request>(dataset, &mut rows)?;
    count::<Reject>(dataset, &mut rows)?;
    Ok(rows)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.problems.values().sum();
        write!(f, "{}: {} {}", self.dataset, grouped(total as u64), Problem::NAME)?;
        let of_split = |split: &&str| {
            self.problems.get(*split).map(|count| format!("{split} {}", grouped(*count as u64)))
        };
        let splits: Vec<_> = ["train", "val", "test"].iter().filter_map(of_split).collect();
        writeln!(f, " ({})", splits.join(", "))?;
        if self.rows.is_empty() {
            return writeln!(f, "no round yet");
        }
        let shown: Vec<_> = TABLES
            .into_iter()
            .filter(|table| self.rows.values().any(|tables| tables.contains_key(table)))
            .collect();
        let mut grid =
            Grid::new(std::iter::once("round").chain(shown.iter().copied()).map(|name| (name, Align::Right)));
        for (round, tables) in &self.rows {
            let counts = shown
                .iter()
                .map(|table| tables.get(table).map_or_else(|| "-".to_owned(), |rows| grouped(*rows)));
            grid.row(std::iter::once(round.to_string()).chain(counts));
        }
        write!(f, "\n{grid}")?;
        if !self.accounts.is_empty() {
            writeln!(f)?;
        }
        for account in &self.accounts {
            writeln!(f, "{account}")?;
        }
        if !self.spending.is_empty() {
            write!(f, "\n{}", spending_grid(&self.spending))?;
        }
        for groups in &self.groups {
            writeln!(f, "{groups}")?;
        }
        if !self.accounts.is_empty() {
            writeln!(
                f,
                "\n{}",
                if self.balanced { "The books balance." } else { "The books do not balance, see above." }
            )?;
        }
        if self.unbooked_usd > 0.0 {
            writeln!(
                f,
                "feedback.sqlite contains replies worth another ${:.4}, from a run that is in progress or \
                 was interrupted; next: the same command again, or collect-feedback rebuild",
                self.unbooked_usd
            )?;
        }
        if self.maybe_lost_usd > 0.0 {
            writeln!(
                f,
                "Replies that arrived damaged, late or without usage may have cost another ${:.4}.",
                self.maybe_lost_usd
            )?;
        }
        for open in &self.open_batches {
            writeln!(f, "{open}")?;
        }
        Ok(())
    }
}

fn spending_grid(spending: &[Spending]) -> Grid {
    use Align::{Left, Right};
    let mut grid = Grid::new([
        ("round", Right),
        ("kind", Left),
        ("model", Left),
        ("items", Right),
        ("shared", Right),
        ("failed", Right),
        ("requests", Right),
        ("input tokens", Right),
        ("from cache", Right),
        ("output tokens", Right),
        ("US dollars", Right),
    ]);
    let dollars = |spending: &Spending| match (spending.cost_usd, spending.unpriced) {
        (cost, 0) => format!("{cost:.4}"),
        (0.0, _) => "unknown".to_owned(),
        (cost, _) => format!("over {cost:.4}"),
    };
    for line in spending {
        grid.row([
            line.round.to_string(),
            line.kind.clone(),
            format!("{}/{}", line.provider, line.model),
            grouped(line.items),
            grouped(line.shared),
            grouped(line.failed),
            grouped(line.attempts),
            grouped(line.input_tokens),
            grouped(line.cached_input_tokens),
            grouped(line.output_tokens),
            dollars(line),
        ]);
    }
    if spending.len() > 1 {
        let sum = |number: fn(&Spending) -> u64| grouped(spending.iter().map(number).sum::<u64>());
        let cost = spending.iter().map(|line| line.cost_usd).sum::<f64>();
        let unpriced = spending.iter().any(|line| line.unpriced > 0);
        grid.row([
            "all".to_owned(),
            String::new(),
            String::new(),
            sum(|line| line.items),
            sum(|line| line.shared),
            sum(|line| line.failed),
            sum(|line| line.attempts),
            sum(|line| line.input_tokens),
            sum(|line| line.cached_input_tokens),
            sum(|line| line.output_tokens),
            if unpriced { format!("over {cost:.4}") } else { format!("{cost:.4}") },
        ]);
    }
    grid
}
