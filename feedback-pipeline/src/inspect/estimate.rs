//! What a round would cost: requests, tokens, dollars and minutes, without sending any request.

use crate::collect::{Context, Plan};
use crate::error::Result;
use crate::items::{Job, Problems};
use crate::request::image::Shown;
use crate::request::prompt::SystemPrompt;
use crate::request::tokens::{self, Counter};
use crate::send::Next;
use crate::store::Cache;
use crate::store::outcome::{self, AskedWith};
use crate::teacher::Usage;
use crate::teacher::catalogue::Price;
use schemas::opinions::Opinion;
use schemas::settings::Provider;

/// The first requests, up to this many, are all tokenized; after them, only every [`STRIDE`]th, and the
/// others are estimated by length.
const COUNTED: u64 = 4_000;
const STRIDE: u64 = 10;

/// The estimated requests and cost of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// Items, including completed ones.
    pub all: usize,
    /// Items that are pending.
    pub items: u64,
    /// Requests that must be sent: distinct, and not in the cache.
    pub requests: u64,
    /// Items whose picture is missing or unreadable.
    pub without_image: u64,
    /// Items whose picture the source never had; their requests have no picture.
    pub never_there: u64,
    /// Tokens, as charged for single requests.
    pub usage: Usage,
    /// How tokens were counted; empty if there are none.
    pub how: String,
}

impl Estimate {
    /// All input tokens, regardless of their price.
    pub fn input_tokens(&self) -> u64 {
        self.usage.input + self.usage.cache_write + self.usage.cache_read
    }

    /// Dollars at a price, for single requests.
    pub fn dollars(&self, price: &Price) -> f64 {
        price.cost_of_all(&self.usage, self.requests)
    }

    /// Dollars in batch mode, in which hits of the provider's prompt cache are not guaranteed.
    pub fn dollars_in_batches(&self, price: &Price) -> f64 {
        let usage = Usage { input: self.input_tokens(), output: self.usage.output, ..Usage::default() };
        price.in_batch().cost_of_all(&usage, self.requests)
    }

    /// Minutes at the rate limits; `None` if there are none. Tokens read from a prompt cache do not count
    /// towards the limits.
    pub fn minutes(&self, limits: &schemas::settings::LimitSettings) -> Option<f64> {
        let at = |count: u64, limit: Option<u64>| limit.map(|limit| count as f64 / limit as f64);
        [
            at(self.requests, limits.requests_per_minute),
            at(self.usage.input + self.usage.cache_write, limits.input_tokens_per_minute),
            at(self.usage.output, limits.output_tokens_per_minute),
        ]
        .into_iter()
        .flatten()
        .max_by(f64::total_cmp)
    }
}

/// Estimates a job.
pub fn of(context: &Context, job: &Job) -> Result<Estimate> {
    let teacher = &context.settings.teacher;
    let (provider, model) = (teacher.provider, &context.model);
    let asked = context.asked()?;
    let dialect = asked.dialects.first();
    let system = SystemPrompt::load(job.kind, teacher)?;
    let questions = context.questions(job, &system)?;
    let problems = Problems::load(&context.dataset, provider)?;
    let completed = context.completed(job, &problems, &system.version)?;
    let path = context.dataset.feedback_path();
    let cache = if path.is_file() { Some(Cache::look(&path)?) } else { None };
    let samples = match &cache {
        // A repeat takes as much as the first scoring.
        Some(cache) => {
            let first = Job { opinion: None, ..job.clone() }.scope();
            let own = Opinion { teacher: model.clone(), repeat: 0 };
            let again = Job::opinion(job.round, own).scope();
            let mut samples = cache.samples(&job.scope(), &asked.model.name)?;
            for scope in [first, again].iter().filter(|_| job.repeat() > 0) {
                if samples.is_empty() {
                    samples = cache.samples(scope, &asked.model.name)?;
                }
            }
            samples
        }
        None => Vec::new(),
    };
    let counters = [
        Counter::new(&asked.model, dialect, job.kind, &system, &samples),
        Counter::grouped(&asked.model, dialect, &system, &samples),
    ];
    let mut estimate = Estimate::default();
    // Counters for requests about one item, and about several.
    let mut sums = [Sum::default(), Sum::default()];
    let asked_with = AskedWith { model, prompt_version: &system.version };
    let plan = Plan::new(context, job, &questions, asked_with, cache.as_ref())?;
    let mut claims = Vec::new(); // a later item with the same request shares it
    estimate.all = context.count(job, &problems, &completed)?.0;
    let mut failed = None;
    let mut pending = 0;
    let items = context.pending_together(job, &questions, &problems, &completed)?.filter(|item| {
        let Ok(item) = item else { return true };
        pending += 1;
        // Answers bought from another model by an interrupted run are kept.
        let Some(cache) = cache.as_ref().filter(|_| !completed.stale.contains(item.id())) else {
            return true;
        };
        match outcome::latest(cache, job, item, None) {
            Ok(found) => found.is_none_or(|found| found.ask.model == *model),
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    for next in plan.steps(items) {
        let question = match next? {
            Next::Send(question, _, claim) => {
                claims.push(claim);
                question
            }
            Next::Unsendable(_) => {
                estimate.without_image += 1;
                continue;
            }
            Next::Answered(..) | Next::Shared(_) | Next::InBatch(_) => continue,
        };
        estimate.requests += 1;
        if matches!(question.shown, Shown::Remark) {
            estimate.never_there += question.members.len().max(1) as u64;
        }
        if provider == Provider::Reference {
            continue;
        }
        let form = usize::from(question.is_group());
        sums[form].image_tokens +=
            question.image().map_or(0, |image| tokens::of_picture(&asked.model, dialect, image.size));
        sums[form].add(&counters[form], &question.text);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    estimate.items = pending;
    if provider == Provider::Reference {
        estimate.how = "the embedded Teacher takes none".into();
        return Ok(estimate);
    }
    for (sum, counter) in sums.iter().zip(counters) {
        let (input, output) = sum.tokens(&counter);
        let input = counter.by_price(input + sum.image_tokens as f64, sum.requests);
        estimate.usage.input += input.plain as u64;
        estimate.usage.cache_write += input.written as u64;
        estimate.usage.cache_read += input.read as u64;
        estimate.usage.output += output as u64;
        if sum.requests > 0 || estimate.how.is_empty() {
            estimate.how = counter.how;
        }
    }
    Ok(estimate)
}

/// Counted tokens, and the lengths for extrapolating to requests that were not counted.
#[derive(Default)]
struct Sum {
    requests: u64,
    bytes: u64,
    counted_bytes: u64,
    /// Tokens of user messages and replies, for the requests that were counted.
    input: f64,
    output: f64,
    image_tokens: u64,
}

impl Sum {
    fn add(&mut self, counter: &Counter, text: &str) {
        self.requests += 1;
        self.bytes += text.len() as u64;
        if self.requests <= COUNTED || self.requests.is_multiple_of(STRIDE) {
            self.counted_bytes += text.len() as u64;
            self.input += counter.input(text) - counter.head();
            self.output += counter.output(text);
        }
    }

    fn tokens(&self, counter: &Counter) -> (f64, f64) {
        let more = self.bytes as f64 / self.counted_bytes.max(1) as f64;
        (counter.head() * self.requests as f64 + self.input * more, self.output * more)
    }
}
