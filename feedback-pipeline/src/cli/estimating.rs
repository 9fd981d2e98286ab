//! The output of `estimate`.

use crate::collect::Context;
use crate::collect::panel::{Panel, Scoring};
use crate::error::Result;
use crate::inspect::estimate;
use crate::items::{Job, Kind};
use crate::teacher::catalogue::Price;

/// Totals of several jobs.
#[derive(Default)]
struct Total {
    jobs: usize,
    requests: u64,
    dollars: f64,
    in_batches: f64,
    /// Whether a model has no known price.
    is_open: bool,
}

/// Prints an estimate of each job, and the total if a round has several opinions.
pub(super) fn show_estimate(context: &Context, jobs: &[Job]) -> Result<()> {
    let panel = Panel::of(context);
    let mut total = Total::default();
    for job in jobs {
        if job.kind != Kind::Scores {
            show(context, job, String::new(), &mut total)?;
            continue;
        }
        for scoring in panel.scorings(job.round)? {
            let opinion = panel.are_several().then(|| scoring.opinion());
            let Scoring { context, job } = scoring;
            let which = match opinion {
                Some(opinion) if opinion.repeat > 0 => format!(", scoring {}", opinion.repeat + 1),
                _ => String::new(),
            };
            if !show(context, &job, which, &mut total)? {
                break; // then no Teacher has anything to score
            }
        }
    }
    if total.jobs > 1 && panel.are_several() {
        let Total { requests, dollars, in_batches, .. } = total;
        schemas::say!("all together:");
        schemas::say!("  requests        {requests:>12}");
        let more = if total.is_open { ", plus the cost of models without a known price" } else { "" };
        schemas::say!("  dollars         {dollars:>12.4}  (with --batch {in_batches:.4}{more})");
    }
    Ok(())
}

/// Prints the estimate of a job; returns whether there is anything to ask about.
fn show(context: &Context, job: &Job, which: String, total: &mut Total) -> Result<bool> {
    let price = context.price()?;
    let estimate = estimate::of(context, job)?;
    if estimate.all == 0 {
        schemas::say!("{}", context.waits_for(job)?);
        return Ok(false);
    }
    schemas::say!("round {} {} with {}{which}:", job.round, job.kind.as_str(), context.model);
    schemas::say!("  items pending   {:>12}", estimate.items);
    schemas::say!("  requests        {:>12}", estimate.requests);
    if estimate.without_image > 0 {
        schemas::say!("  without image   {:>12}  (they will be rejected)", estimate.without_image);
    }
    if estimate.never_there > 0 {
        schemas::say!(
            "  no picture      {:>12}  (missing in the source; asked without it)",
            estimate.never_there
        );
    }
    schemas::say!("  input tokens    {:>12}  ({})", estimate.input_tokens(), estimate.how);
    if estimate.usage.cache_read > 0 {
        schemas::say!("  from cache      {:>12}  (the provider's prompt cache)", estimate.usage.cache_read);
    }
    schemas::say!("  output tokens   {:>12}", estimate.usage.output);
    total.add(&estimate, price.as_ref());
    match &price {
        Some(price) => {
            let (dollars, batches) = (estimate.dollars(price), estimate.dollars_in_batches(price));
            schemas::say!("  dollars         {dollars:>12.4}  (with --batch {batches:.4})");
        }
        None => schemas::say!("  dollars         {:>12}", "not known"),
    }
    match estimate.minutes(&context.settings.limits) {
        Some(minutes) => schemas::say!("  minutes         {minutes:>12.1}  (at the configured limits)"),
        None => schemas::say!("  minutes         {:>12}  (no limit configured)", "-"),
    }
    Ok(true)
}

impl Total {
    fn add(&mut self, estimate: &estimate::Estimate, price: Option<&Price>) {
        self.jobs += 1;
        self.requests += estimate.requests;
        match price {
            Some(price) => {
                self.dollars += estimate.dollars(price);
                self.in_batches += estimate.dollars_in_batches(price);
            }
            None => self.is_open |= estimate.requests > 0,
        }
    }
}
