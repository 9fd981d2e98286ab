//! Batches left behind by a run: those whose submission was interrupted, and those that the user gives up.

use super::run::{Run, name_of};
use super::service::Service;
use crate::error::{Error, Result};
use crate::store::Batch;
use schemas::number::counted;

/// What to do if the service cannot be searched for a batch.
const LOOK_FOR_IT: &str = "pass the --base-url and the key that it was sent with. If that service no longer exists, run the same command with \
     --abandon-batch and the batch's name: its requests are sent again, and may be paid for twice";

impl Run<'_> {
    /// Closes the batches that the user abandons.
    pub(super) fn abandon(&self) -> Result<()> {
        let open = self.open()?;
        for name in &self.session.abandoned {
            let is_named = |batch: &&Batch| batch.plan == *name || batch.batch_id.as_ref() == Some(name);
            let Some(batch) = open.iter().find(is_named) else {
                let names: Vec<&str> = open.iter().map(name_of).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let message =
                    format!("expected an open batch to {} ({names}), found `{name}`", self.session.model);
                return Err(Error::bad_input("--abandon-batch", message));
            };
            let unanswered = self.unanswered(batch)?;
            // They may have been charged.
            self.lose(batch, unanswered)?;
            self.close(batch, "abandoned")?;
            self.session.progress.say(&format!(
                "batch {name} is given up: {unanswered} of its {} have no answer and are sent again",
                counted(batch.requests, "request")
            ));
        }
        Ok(())
    }

    /// Requests of a batch without a reply.
    fn unanswered(&self, batch: &Batch) -> Result<u64> {
        let cache = &self.session.cache;
        let mut unanswered = 0;
        for sent_key in cache.batch_keys(&batch.plan)? {
            let Some((key, turn)) = cache.batch_request(&batch.plan, &sent_key)? else { continue };
            let replies = cache.replies(&key)?;
            unanswered += u64::from(!replies.iter().any(|reply| reply.turn == turn));
        }
        Ok(unanswered)
    }

    /// Looks for batches recorded without an id, which the service may or may not have. Searches for
    /// all of them, and returns the first error.
    pub(super) async fn find_unsure(&self) -> Result<Option<Error>> {
        let mut failed = None;
        for mut batch in self.open()? {
            if batch.batch_id.is_some() {
                continue;
            }
            match self.find(&mut batch).await {
                Ok(()) => {}
                Err(Error::Service { why, .. }) => {
                    let why = format!(
                        "cannot tell whether batch {} with {}, which was being sent to {} when a run ended, was received: {why}",
                        batch.plan,
                        counted(batch.requests, "request"),
                        batch.address
                    );
                    failed.get_or_insert(Error::Service { why, hint: Some(LOOK_FOR_IT) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(failed)
    }

    async fn find(&self, batch: &mut Batch) -> Result<()> {
        if !Service::may_have(batch) {
            return self.close(batch, "never sent");
        }
        if batch.address != self.service.address() {
            let why = format!("this run asks {}", self.service.address());
            return Err(Error::Service { why, hint: None });
        }
        if let Some(id) = self.service.find(batch, batch.planned_at_ms).await? {
            return self.session.cache.batch_sent(&batch.plan, &id);
        }
        // Its requests already count as spent, so a limit lowered since shows in the remaining budget.
        if batch.file_id.is_none() || self.session.budget.room() < 0.0 {
            return self.close(batch, "never sent");
        }
        match self.service.submit(batch, None).await {
            Ok(id) => {
                self.session.cache.batch_sent(&batch.plan, &id)?;
                let requests = counted(batch.requests, "request");
                self.session.progress.say(&format!(
                    "batch {id} created from the file that an earlier run uploaded: {requests}"
                ));
                Ok(())
            }
            Err(error) if self.open()?.iter().any(|open| open.plan == batch.plan) => Err(error),
            // The service no longer accepts the file; the requests are sent in new batches.
            Err(error) => {
                tracing::info!(%error, plan = batch.plan, "an uploaded file is not taken");
                self.session.budget.release(batch.likely_usd);
                Ok(())
            }
        }
    }
}
