//! Looks up a batch whose id was lost at the service, and opens result files.

use super::anthropic;
use super::line::{Ended, Listed, Page, Standing};
use super::lines::Lines;
use super::openai;
use super::service::{Service, no_batches};
use crate::error::{Error, Result};
use crate::store::Batch;
use schemas::TimestampMs;
use schemas::settings::Provider;
use std::time::Duration;

/// Tolerated difference from the service's clock, in ms.
const CLOCKS_DIFFER_MS: i64 = 600_000;
/// A batch that is younger than this may not be in the service's list yet, in ms.
const LIST_LAGS_MS: i64 = 10_000;
/// Maximum pages of the list that are searched.
const MOST_PAGES: u32 = 100;

impl Service<'_> {
    /// Looks up whether the service has a recorded batch that was sent no later than `sent_at_ms`.
    pub(super) async fn find(&self, batch: &Batch, sent_at_ms: i64) -> Result<Option<String>> {
        if !Self::may_have(batch) {
            return Ok(None);
        }
        let mut wait = Duration::from_secs(1);
        loop {
            let is_listed = TimestampMs::now().0 - sent_at_ms > LIST_LAGS_MS;
            let found = self.look(batch).await?;
            if found.is_some() || is_listed {
                return Ok(found);
            }
            self.pause(wait).await?;
            wait *= 2;
        }
    }

    async fn look(&self, batch: &Batch) -> Result<Option<String>> {
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let cursor = match (self.provider, after.is_empty()) {
                (_, true) => String::new(),
                (Provider::Anthropic, false) => format!("&after_id={after}"),
                (_, false) => format!("&after={after}"),
            };
            let raw = self.get(&format!("{}?limit=100{cursor}", self.batches())).await?;
            let page = match self.provider {
                Provider::Anthropic => anthropic::page(&raw.body),
                _ => openai::page(&raw.body),
            };
            let Page { batches, next } = page.map_err(no_batches)?;
            let oldest = batches.last().map_or(i64::MIN, |batch| batch.created_at_ms);
            for listed in batches {
                if self.is_it(batch, &listed).await? {
                    return Ok(Some(listed.id));
                }
            }
            match next {
                Some(next) if oldest > batch.planned_at_ms - CLOCKS_DIFFER_MS => after = next,
                _ => return Ok(None),
            }
        }
        let why = format!("a batch that may have been sent is not among the latest {}", MOST_PAGES * 100);
        Err(Error::Service { why, hint: Some("run the same command again") })
    }

    /// Whether a batch of the list is the recorded one. Anthropic's list contains neither names nor requests, so a
    /// candidate by time and size is identified by the first of its results.
    async fn is_it(&self, batch: &Batch, listed: &Listed) -> Result<bool> {
        if let Some(plan) = &listed.plan {
            return Ok(*plan == batch.plan);
        }
        if listed.file_id.is_some() && listed.file_id == batch.file_id {
            return Ok(true);
        }
        if self.provider != Provider::Anthropic
            || listed.requests.is_some_and(|requests| requests != batch.requests)
            || listed.created_at_ms < batch.planned_at_ms - CLOCKS_DIFFER_MS
            || self.session.cache.knows_batch(&listed.id)?
        {
            return Ok(false);
        }
        let mut wait = super::FIRST_LOOK;
        let mut standing = Standing::Running { done: 0, of: batch.requests };
        if listed.ended {
            standing = self.standing(batch, &listed.id).await?;
        }
        while let Standing::Running { .. } = standing {
            self.session.progress.say(&format!(
                "batch {} may be the one that was being sent when the last run ended; its results will show",
                listed.id
            ));
            self.pause(wait).await?;
            wait = wait.mul_f64(1.5).min(super::LONGEST_LOOK);
            standing = self.standing(batch, &listed.id).await?;
        }
        let Standing::Ended(Ended { paths, .. }) = standing else { return Ok(false) };
        for path in paths {
            let mut lines = self.lines(&path);
            while let Some(line) = lines.next().await?.line() {
                if let Ok(line) = anthropic::line(&line) {
                    return Ok(self.session.cache.batch_request(&batch.plan, &line.sent_key)?.is_some());
                }
            }
        }
        Ok(false)
    }

    /// The lines of a result file.
    pub(super) fn lines(&self, path: &str) -> Lines<'_> {
        Lines::new(self, path)
    }
}
