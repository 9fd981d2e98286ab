//! Rows of the ledger.

use crate::items::{Item, Job, Kind};
use crate::reply::verdict::{self, Verdict};
use crate::store::Reply;
use crate::store::outcome::ItemOutcome;
use schemas::{Request, TimestampMs};

/// Dollars of replies; unknown costs are omitted, and `None` means that all are unknown.
fn known_cost(replies: &[Reply]) -> Option<f64> {
    let mut known = replies.iter().filter_map(|reply| reply.cost_usd).peekable();
    if known.peek().is_none() && !replies.is_empty() {
        return None;
    }
    Some(known.fold(0.0, |sum, cost| sum + cost)) // from 0.0: the empty sum of floats is -0.0
}

/// A key under which a row of the ledger is known.
pub(crate) fn booking(request_key: &str, subject_id: &str) -> String {
    format!("{request_key} {subject_id}")
}

/// An item's row of the ledger.
pub fn row(job: &Job, item: &Item, outcome: &ItemOutcome) -> Request {
    let ItemOutcome { ask, replies, verdict } = outcome;
    let cached = !ask.is_paid_by(job, item);
    let paid: &[Reply] = if cached { &[] } else { replies };
    let (from, to, whole) = outcome.share(item);
    // Parts that add up to the whole, to the token.
    let up_to = |count: u64, point: u64| (u128::from(count) * u128::from(point) / u128::from(whole)) as u64;
    let sum = |count: fn(&Reply) -> u64| {
        let count = paid.iter().map(count).sum();
        up_to(count, to) - up_to(count, from)
    };
    let cost_usd =
        known_cost(paid).map(|cost| cost * to as f64 / whole as f64 - cost * from as f64 / whole as f64);
    let status = match verdict {
        Verdict::Reject { reason, .. } | Verdict::Missing { reason } => verdict::status_of(reason),
        Verdict::Ask(_) | Verdict::Answer(_) => "ok",
    };
    let items = u32::try_from(ask.members.len()).ok().filter(|items| *items > 0);
    Request {
        request_key: outcome.key_text(),
        kind: job.ledger_kind().to_owned(),
        subject_id: item.subject_id.clone(),
        round: item.round,
        provider: ask.provider.as_str().to_owned(),
        model: ask.model.clone(),
        status: status.to_owned(),
        // The first item counts the requests of all.
        attempts: if from == 0 { paid.iter().map(|reply| reply.attempts).sum() } else { 0 },
        cached,
        input_tokens: sum(|reply| reply.usage.input + reply.usage.cache_write),
        cached_input_tokens: sum(|reply| reply.usage.cache_read),
        output_tokens: sum(|reply| reply.usage.output),
        cost_usd,
        latency_ms: paid.last().map_or(0, |reply| reply.latency_ms),
        started_at: TimestampMs(replies.first().map_or(0, |reply| reply.started_at_ms)),
        dialect: replies.last().and_then(|reply| reply.dialect.clone()),
        items,
        repeat: (job.kind == Kind::Scores && job.audit.is_none()).then(|| job.repeat()),
    }
}
