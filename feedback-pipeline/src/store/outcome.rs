//! The outcome of an item's requests, read from the cache: an answer, a reject, or nothing yet.

use super::{Ask, Cache, Reply};
use crate::error::Result;
use crate::items::{Content, Item, Job};
use crate::reply::reasons;
use crate::reply::verdict::{self, NOT_SENT, Verdict};
use crate::request;
use crate::request::samples::Samples;
use crate::teacher::{self, Key};
use schemas::provenance;
use schemas::settings::Provider;

/// A completed item: its request, the replies, and the verdict.
pub struct ItemOutcome {
    /// The request.
    pub ask: Ask,
    /// All replies to it.
    pub replies: Vec<Reply>,
    /// Answer or reject.
    pub verdict: Verdict,
}

impl ItemOutcome {
    /// The key in hexadecimal; empty if nothing was sent.
    pub fn key_text(&self) -> String {
        if self.is_unsent() { String::new() } else { provenance::hex(&self.ask.key) }
    }

    /// Whether nothing was sent.
    fn is_unsent(&self) -> bool {
        self.replies.first().is_some_and(|reply| reply.status == NOT_SENT)
    }

    /// The item's share of the request's tokens and cost, as an interval of the whole: `(from, to, whole)`.
    pub fn share(&self, item: &Item) -> (u64, u64, u64) {
        let (mut from, mut to, mut whole) = (0, 1, 1);
        if !self.ask.members.is_empty() {
            (from, to, whole) = (0, 0, 0);
            for member in &self.ask.members {
                if member.subject_id == item.subject_id {
                    (from, to) = (whole, whole + u64::from(member.weight));
                }
                whole += u64::from(member.weight);
            }
        }
        (from, to, whole.max(1))
    }
}

/// Reasons of an item's scores, one per score; empty if the reply gives none.
pub fn reasons(found: &ItemOutcome, item: &Item, scores: &[f32]) -> Vec<Option<String>> {
    let none = || vec![None; scores.len()];
    let Some(reply) = found.replies.last() else { return none() };
    // Most replies give none, and need not be parsed again.
    if !reply.body.windows(REASON.len()).any(|part| part == REASON) {
        return none();
    }
    let Ok(envelope) = teacher::open(found.ask.provider, &reply.body) else { return none() };
    if found.ask.members.is_empty() {
        return reasons::of_one(&envelope, scores);
    }
    match Samples::read(&found.ask.user_text)
        .and_then(|samples| Some((place_of(&found.ask, &samples, item)?, samples)))
    {
        Some((place, samples)) => reasons::of_sample(&envelope, &samples.list, place, scores),
        None => none(),
    }
}

/// Name of the field in any reply with reasons.
const REASON: &[u8] = b"reason";

/// The place of an item among the samples of a request, from 0. If its text has changed since, the share of
/// the cost is still known.
fn place_of(ask: &Ask, samples: &Samples, item: &Item) -> Option<usize> {
    let Content::Scores { sentences, .. } = &item.content else { return None };
    let by_id = || ask.members.iter().position(|member| member.subject_id == item.subject_id);
    samples.place_of(sentences).or_else(by_id)
}

/// Model and prompt version of a run.
#[derive(Debug, Clone, Copy)]
pub struct AskedWith<'a> {
    /// The model.
    pub model: &'a str,
    /// Version of the prompt.
    pub prompt_version: &'a str,
}

/// The latest request of an item's present text that has a verdict and is not discarded. With `now`, only
/// requests of that model and prompt count.
pub fn latest(
    cache: &Cache,
    job: &Job,
    item: &Item,
    now: Option<AskedWith<'_>>,
) -> Result<Option<ItemOutcome>> {
    let mine = |ask: &Ask| {
        request::is_about(&ask.user_text, item)
            && now.is_none_or(|now| ask.model == now.model && ask.prompt_version == now.prompt_version)
    };
    for key in cache.used_keys_of(&job.scope(), item.round, &item.subject_id)? {
        let Some(ask) = cache.ask(&key)?.filter(mine) else { continue };
        let found = judged(cache, ask, item)?;
        if is_resolved(&found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// All requests of an item with a verdict, the latest first, including paid ones that will not be continued.
pub fn all(cache: &Cache, job: &Job, item: &Item) -> Result<Vec<ItemOutcome>> {
    let keys = cache.keys_of(&job.scope(), item.round, &item.subject_id)?;
    let resolved = keys.iter().enumerate().map(|(age, key)| paid(cache, key, age == 0, item));
    resolved.filter_map(Result::transpose).collect()
}

/// The replies to a request of an item, if it has a verdict, or will not be continued because it is not the
/// latest or was about an older text.
pub fn paid(cache: &Cache, key: &Key, is_latest: bool, item: &Item) -> Result<Option<ItemOutcome>> {
    let Some(ask) = cache.ask(key)? else { return Ok(None) };
    let is_over = !is_latest || !request::is_about(&ask.user_text, item);
    let resolved = judged(cache, ask, item)?;
    Ok(Some(resolved).filter(|found| match &found.verdict {
        Verdict::Answer(_) | Verdict::Reject { .. } => true,
        // Items that could not be sent are stored under their individual request.
        Verdict::Missing { .. } => !found.is_unsent(),
        Verdict::Ask(_) => is_over && !found.replies.is_empty(),
    }))
}

/// The verdict on the stored replies to an item.
pub fn verdict(provider: Provider, content: &Content, replies: &[Reply]) -> Verdict {
    verdict::judge(provider, content, replies.iter().map(|reply| (reply.status, reply.body.as_ref())))
}

/// The same for an item that was asked about together with others.
fn verdict_of_sample(ask: &Ask, item: &Item, replies: &[Reply]) -> Verdict {
    let samples = Samples::read(&ask.user_text);
    match samples.and_then(|samples| Some((place_of(ask, &samples, item)?, samples))) {
        Some((place, samples)) => {
            let replies = replies.iter().map(|reply| (reply.status, reply.body.as_ref()));
            verdict::judge_sample(ask.provider, &samples.list, place, replies)
        }
        None => Verdict::Missing { reason: "malformed: the request asked about other samples".to_owned() },
    }
}

/// An item's verdict on some replies to a request, about it alone or about it and others.
pub fn verdict_on(ask: &Ask, item: &Item, replies: &[Reply]) -> Verdict {
    match &ask.members[..] {
        [] => verdict(ask.provider, &item.content, replies),
        _ if replies.is_empty() => Verdict::Ask(Vec::new()),
        _ => verdict_of_sample(ask, item, replies),
    }
}

/// An item's verdict on the replies to a request, about it alone or about it and others.
///
/// # Errors
/// If the cache cannot be read.
pub fn judged(cache: &Cache, ask: Ask, item: &Item) -> Result<ItemOutcome> {
    let replies = cache.replies(&ask.key)?;
    let verdict = verdict_on(&ask, item, &replies);
    Ok(ItemOutcome { ask, replies, verdict })
}

fn is_resolved(found: &ItemOutcome) -> bool {
    matches!(found.verdict, Verdict::Answer(_) | Verdict::Reject { .. })
}
