//! One pass over the pending items: which are sent in batches, and which individually.

use super::chunk::{Chunk, Written};
use super::run::{MOST_TRIES, Run, name_of};
use crate::error::Result;
use crate::reply::verdict::Verdict;
use crate::request::Question;
use crate::request::tokens::{self, Counter};
use crate::send::Next;
use crate::store::{Batch, Entry, outcome};
use crate::teacher::{Dialect, FollowUp};
use schemas::TimestampMs;
use schemas::number::counted;

/// Number of replies to this prompt after which the longest one predicts the length of others.
const ENOUGH_REPLIES: u64 = 20;

/// The result of a pass over the pending items.
#[derive(Default)]
pub(super) struct Wave {
    /// Requests sent in batches.
    pub(super) sent: usize,
    /// Number of requests given up after too many batches without an answer.
    pub(super) given_up: usize,
    /// Dollars of the first request that exceeded the budget.
    pub(super) too_dear: Option<f64>,
}

/// Estimators of the cost of a batch's requests: of those about one item and, if there are any, about
/// several.
struct Prices {
    one: Priced,
    grouped: Option<Priced>,
}

struct Priced {
    counter: Counter,
    /// Output tokens that a reply is unlikely to exceed.
    output: f64,
}

impl Run<'_> {
    /// Sends pending items that are in no batch yet.
    pub(super) async fn wave(&mut self, plan: impl Iterator<Item = Result<Next>>) -> Result<Wave> {
        let session = self.session;
        let mut wave = Wave::default();
        for key in std::mem::take(&mut self.met) {
            self.collected.remove(&key);
        }
        // Repeated for each wave: earlier replies improve the estimate.
        let prices = self.prices()?;
        let mut room = session.budget.room();
        // Requests about one item and about several have separate dialects.
        let mut chunks: [Option<(Chunk, f64)>; 2] = [None, None];
        let mut claims = Vec::new(); // held until the wave ends
        for next in plan {
            self.service.check_stop()?;
            let (mut question, replies, claim) = match next? {
                Next::Send(question, replies, claim) => (question, replies, claim),
                other => {
                    self.note(other).await?;
                    continue;
                }
            };
            // In each wave: if the budget ended one early, the next gets further.
            session.remember(&question)?;
            claims.push(claim);
            let has_picture = question.image().is_some();
            if !session.known.is_listed && !session.dialects.is_accepted(has_picture) {
                // The first request determines the format, before thousands are refused for the same reason.
                session.resolve(&question, replies, None).await;
                room = room.min(session.budget.room());
                continue;
            }
            let Verdict::Ask(follow_ups) = session.judge(&question.item, &replies) else { continue };
            let (lessons, template) = session.template(question.is_group());
            let sent_key = session.sent_key(&question, &follow_ups, lessons, &template);
            if self.tries.get(&sent_key).is_some_and(|tries| *tries >= MOST_TRIES) {
                wave.given_up += 1;
                continue;
            }
            let dollars = self.likely_dollars(prices.as_ref(), &question, &follow_ups);
            if dollars > room {
                wave.too_dear = Some(dollars);
                break;
            }
            let body = template.body(question.image(), &question.text, &follow_ups);
            let chunk = &mut chunks[usize::from(question.is_group())];
            if let Some((full, likely)) = chunk.take_if(|(chunk, _)| !chunk.has_room(&body)) {
                wave.sent += self.send(full, likely).await?;
            }
            let (chunk, likely) = match chunk {
                Some(chunk) => chunk,
                none => {
                    let written = Written { lessons, dialect: template.dialect().to_string() };
                    none.insert((Chunk::new(session.teacher.provider, written)?, 0.0))
                }
            };
            let entry = Entry { sent_key, ask: session.ask_row(&question), turn: follow_ups.len() as u32 };
            if let Err(error) = chunk.push(&body, entry)? {
                let members = std::mem::take(&mut question.members);
                let items = if members.is_empty() { vec![question] } else { members };
                for mut item in items {
                    item.unsent = Some(error.to_string());
                    session.note(Next::Unsendable(item), true).await?;
                }
                continue;
            }
            room -= dollars;
            *likely += dollars;
        }
        self.service.check_stop()?;
        for (chunk, likely) in chunks.into_iter().flatten().filter(|(chunk, _)| !chunk.is_empty()) {
            wave.sent += self.send(chunk, likely).await?;
        }
        Ok(wave)
    }

    /// Records the outcome of an item for which nothing is sent.
    async fn note(&mut self, next: Next) -> Result<()> {
        let session = self.session;
        let is_news = match &next {
            Next::Unsendable(question) => session.cache.replies(&question.key)?.is_empty(),
            // Results of this run's batches.
            Next::Shared(question) if self.collected.remove(&question.key) => {
                let replies = session.cache.replies(&question.key)?;
                session.count(&session.judge(&question.item, &replies));
                false
            }
            Next::Answered(question, key) if self.collected.contains(key) => {
                if let Some(ask) = session.cache.ask(key)? {
                    let replies = session.cache.replies(key)?;
                    session.count(&outcome::verdict_on(&ask, &question.item, &replies));
                }
                self.met.push(*key); // other items may have it too
                false
            }
            _ => self.first, // later waves process it again
        };
        session.note(next, is_news).await
    }

    /// Estimators of the requests' cost; `None` if the model is free or has no price.
    fn prices(&self) -> Result<Option<Prices>> {
        let session = self.session;
        if self.price.as_ref().is_none_or(|price| price.is_free()) {
            return Ok(None);
        }
        let dialect = session.dialects.spoken().dialect;
        let (scope, system) = (session.job.scope(), &session.prompt);
        let samples = session.cache.samples(&scope, &session.known.name)?;
        let one = Counter::new(&session.known, &dialect, session.job.kind, system, &samples);
        let grouped = match session.questions.grouped {
            Some(_) => {
                let counter = Counter::grouped(&session.known, &dialect, system, &samples);
                Some(self.priced(counter, &dialect.grouped(), true)?)
            }
            None => None,
        };
        let of_one = if session.is_long(false) { dialect.grouped() } else { dialect.as_ref().clone() };
        Ok(Some(Prices { one: self.priced(one, &of_one, false)?, grouped }))
    }

    fn priced(&self, counter: Counter, dialect: &Dialect, is_group: bool) -> Result<Priced> {
        let session = self.session;
        let limit = session.reply_limit(is_group);
        // Another prompt or effort gives replies of other lengths.
        let (kind, dialect) = (session.job.kind, dialect.to_string());
        let (replies, longest) =
            session.cache.longest_output(kind, &session.model, &session.prompt.version, &dialect)?;
        let output = if replies < ENOUGH_REPLIES { limit } else { (longest as f64 * 1.25 + 8.0).min(limit) };
        Ok(Priced { counter, output })
    }

    /// Dollars that a request is unlikely to exceed: a tenth more input than is counted, and a quarter more
    /// output than the longest reply to this prompt; 0 if the model has no price.
    fn likely_dollars(&self, prices: Option<&Prices>, question: &Question, follow_ups: &[FollowUp]) -> f64 {
        let (Some(price), Some(prices)) = (&self.price, prices) else { return 0.0 };
        let grouped = prices.grouped.as_ref().filter(|_| question.is_group());
        let Priced { counter, output } = grouped.unwrap_or(&prices.one);
        let dialect = self.session.dialects.spoken().dialect;
        let image =
            question.image().map_or(0, |image| tokens::of_picture(&self.session.known, &dialect, image.size));
        let more: String =
            follow_ups.iter().flat_map(|more| [more.reply.as_str(), &more.complaint]).collect();
        let input = counter.input(&(question.text.clone() + &more)) + image as f64;
        price.most(1.1 * input, *output)
    }

    /// Records a batch, sends it, and records its id.
    async fn send(&mut self, chunk: Chunk, likely_usd: f64) -> Result<usize> {
        let session = self.session;
        let written = chunk.dialect().clone();
        let (plan, spooled, entries) = chunk.finish()?;
        let count = entries.len();
        let mut batch = Batch {
            plan,
            provider: session.teacher.provider,
            model: session.model.clone(),
            address: self.service.address(),
            requests: count as u64,
            planned_at_ms: TimestampMs::now().0,
            likely_usd,
            file_id: None,
            batch_id: None,
            dialect: Some(written.dialect),
        };
        session.cache.plan_batch(batch.clone(), entries)?;
        self.lessons.insert(batch.plan.clone(), written.lessons);
        session.budget.pay(likely_usd); // until it is collected
        let megabytes = spooled.len() as f64 / 1e6;
        let id = self.service.submit(&mut batch, Some(&spooled)).await?;
        session.cache.batch_sent(&batch.plan, &id)?;
        batch.batch_id = Some(id);
        (0..count).for_each(|_| session.progress.sent());
        let name = name_of(&batch);
        session.progress.say(&format!("batch {name} sent: {}, {megabytes:.1} MB", counted(count, "request")));
        Ok(count)
    }
}
