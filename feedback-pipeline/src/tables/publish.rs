//! Publishes answers from the store to the tables: those of this run, and those left by a killed one.

use super::completed::Completed;
use super::ledger::{self, Ledger};
use super::outcomes::{self, write};
use super::{Counts, PartSet, Replacement, parts, replace};
use crate::error::Result;
use crate::items::{self, Item, Job, Kind, Problems};
use crate::reply::verdict::Verdict;
use crate::store::Cache;
use crate::store::outcome::{self, AskedWith};
use schemas::{Dataset, Provenance};

/// Writes the tables of one job.
pub struct Publisher<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// Provenance recorded in every file that is written.
    pub provenance: &'a Provenance,
    /// The kind of feedback.
    pub job: &'a Job,
    /// Its problems.
    pub problems: &'a Problems,
    /// Every reply.
    pub cache: &'a Cache,
}

impl Publisher<'_> {
    fn set(&self, number: u32) -> Result<PartSet> {
        PartSet::create(self.dataset, self.job.kind, self.job.round, number, self.provenance)
    }

    fn items(&self) -> Result<impl Iterator<Item = Result<Item>>> {
        items::all_items(self.dataset, self.job, self.problems)
    }

    /// Writes the answers of the pending items. If some items were answered under another prompt, the whole round is rewritten.
    /// The ledger only grows: everything that was paid for is added, for any run, model and prompt.
    ///
    /// # Errors
    /// If a table or the cache cannot be read, or the write fails.
    pub fn answers(&self, completed: &Completed, asked_with: AskedWith<'_>) -> Result<Counts> {
        let _snapshot = self.cache.snapshot()?;
        let number = parts::next_number(self.dataset, self.job.kind, self.job.round)?;
        let ledger = Ledger::read(self.dataset, self.cache, self.job)?;
        let (kind, round) = (self.job.kind, self.job.round);
        let replaces = !completed.stale.is_empty();
        let replacement = Replacement::begin(self.dataset, kind, round, number, false)?;
        let mut set = match replaces {
            true => PartSet::replacing(self.dataset, kind, round, number, &replacement, self.provenance)?,
            false => self.set(number)?,
        };
        let mut fresh = Counts::default();
        let entered = write(&mut set, &ledger, self.cache, self.job, self.items()?, |item| {
            if completed.contains(item.id()) {
                return Ok(None);
            }
            let Some(found) = outcome::latest(self.cache, self.job, item, Some(asked_with))? else {
                return Ok(None);
            };
            fresh.answered += usize::from(matches!(found.verdict, Verdict::Answer(_)));
            fresh.rejected += usize::from(matches!(found.verdict, Verdict::Reject { .. }));
            fresh.shared += usize::from(!found.ask.is_paid_by(self.job, item));
            Ok((!replaces).then_some(found))
        })?;
        let is_any = fresh.answered + fresh.rejected > 0;
        if !is_any {
            if entered > 0 {
                set.finish_ledger()?;
            }
        } else if replaces {
            // Opinions of other Teachers, and other repeats, are in the same table.
            let jobs = match kind {
                Kind::Scores => outcomes::jobs(self.cache, kind, round)?,
                Kind::Corrections | Kind::Judgements => vec![self.job.clone()],
            };
            let complete = Ledger::complete();
            outcomes::write_all(&mut set, &complete, self.cache, self.dataset, &jobs, self.problems)?;
            replace::carry_over_of(self.dataset, &jobs, self.cache, &mut set)?;
            set.finish()?;
            replacement.commit()?;
        } else {
            set.finish()?;
        }
        Ok(fresh)
    }

    /// Writes answers that a killed run bought from another model than `model`, or for items `outside` the current share:
    /// answers bought by a killed run are kept. Returns whether there were any.
    ///
    /// # Errors
    /// If a table or the cache cannot be read, or the write fails.
    pub fn has_unpublished(
        &self,
        completed: &Completed,
        model: &str,
        outside: Option<&dyn Fn(&Item) -> bool>,
    ) -> Result<bool> {
        if outside.is_none() && !self.cache.knows_other_models(&self.job.scope(), self.job.round, model)? {
            return Ok(false);
        }
        let _snapshot = self.cache.snapshot()?;
        let number = parts::next_number(self.dataset, self.job.kind, self.job.round)?;
        let ledger = Ledger::read(self.dataset, self.cache, self.job)?;
        let mut set = self.set(number)?;
        let mut found = false;
        write(&mut set, &ledger, self.cache, self.job, self.items()?, |item| {
            // Stale items have an answer, and are requested again.
            if completed.contains(item.id()) || completed.stale.contains(item.id()) {
                return Ok(None);
            }
            let latest = outcome::latest(self.cache, self.job, item, None)?;
            let is_outside = outside.is_some_and(|is_outside| is_outside(item));
            let of_another = latest.filter(|latest| is_outside || latest.ask.model != model);
            found |= of_another.is_some();
            Ok(of_another)
        })?;
        if found {
            set.finish()?;
        }
        Ok(found)
    }

    /// Adds requests paid for by a killed run to the ledger, if nothing is pending.
    ///
    /// # Errors
    /// If a table or the cache cannot be read, or the write fails.
    pub fn unbooked(&self) -> Result<()> {
        let booked = ledger::booked_usd(self.dataset, self.job)?;
        if self.cache.spent_usd_on(self.job.kind, self.job.round)? - booked < 1e-9 {
            return Ok(());
        }
        let _snapshot = self.cache.snapshot()?;
        let ledger = Ledger::read(self.dataset, self.cache, self.job)?;
        let number = parts::next_number(self.dataset, self.job.kind, self.job.round)?;
        let mut set = self.set(number)?;
        if write(&mut set, &ledger, self.cache, self.job, self.items()?, |_| Ok(None))? > 0 {
            set.finish()?;
        }
        Ok(())
    }
}
