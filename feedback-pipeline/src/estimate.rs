//! What a round would cost: requests, tokens, dollars and minutes, without sending any request.

use crate::cache::Cache;
use crate::collect::Context;
use crate::done::Done;
use crate::due::{Job, Problems};
use crate::error::Result;
use crate::image::Images;
use crate::money::Price;
use crate::prompt::{self, SystemPrompt};
use crate::teacher::{Template, Usage};
use schemas::settings::Provider;
use std::collections::HashSet;

/// What a job would take.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// Items that are due.
    pub items: u64,
    /// Requests that must be sent: distinct, and not in the cache.
    pub requests: u64,
    /// Items whose picture is missing or unreadable.
    pub without_image: u64,
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// True where token counts come from earlier replies of this model.
    pub measured: bool,
}

impl Estimate {
    /// Dollars at a price.
    pub fn dollars(&self, price: &Price) -> f64 {
        price.cost(&Usage { input: self.input_tokens, output: self.output_tokens, ..Usage::default() })
    }

    /// Minutes at an allowance; none where there is no limit.
    pub fn minutes(&self, limits: &schemas::settings::LimitSettings) -> Option<f64> {
        let at = |count: u64, limit: Option<u64>| limit.map(|limit| count as f64 / limit as f64);
        [
            at(self.requests, limits.requests_per_minute),
            at(self.input_tokens, limits.input_tokens_per_minute),
            at(self.output_tokens, limits.output_tokens_per_minute),
        ]
        .into_iter()
        .flatten()
        .max_by(f64::total_cmp)
    }
}

/// Estimates a job.
pub fn of(context: &Context, job: &Job) -> Result<Estimate> {
    let teacher = &context.settings.teacher;
    let system = SystemPrompt::load(job.kind, &teacher.prompts)?;
    let template = Template::new(teacher, job.kind, &system);
    let done = Done::find(&context.dataset, job, &context.model, &system.version)?;
    let problems = Problems::load(&context.dataset, teacher.provider)?;
    let images = Images::new(context.dataset.root());
    let path = context.dataset.feedback_path();
    let cache = if path.is_file() { Some(Cache::open(&path)?) } else { None };
    let mut estimate = Estimate::default();
    let (mut bytes, mut image_tokens, mut reply_bytes) = (0_u64, 0_u64, 0_u64);
    let mut keys = HashSet::new();
    for item in context.due(job, &problems, &done)? {
        let item = item?;
        estimate.items += 1;
        let image = match item.problem.image.as_deref().map(|path| images.get(path)).transpose() {
            Ok(image) => image,
            Err(_) => {
                estimate.without_image += 1;
                continue;
            }
        };
        let text = prompt::user_text(&item);
        let key = template.key(image.as_deref(), &text, &[]);
        if !keys.insert(key) || matches!(&cache, Some(cache) if !cache.replies(&key)?.is_empty()) {
            continue;
        }
        estimate.requests += 1;
        bytes += (template.head_len() + text.len()) as u64;
        image_tokens += image.as_ref().map_or(0, |image| image.tokens());
        reply_bytes += reply_len(&item);
    }
    // Four bytes of English a token, unless this model's own replies tell better.
    let (mut per_byte, mut per_reply_byte) = (0.25, 0.33);
    if let Some(cache) = &cache
        && let Some((input, output)) =
            cache.tokens_per_byte(&job.scope(), &context.model, template.head_len())?
    {
        (per_byte, per_reply_byte) = (input, output);
        estimate.measured = true;
    }
    if teacher.provider != Provider::Reference {
        estimate.input_tokens = (bytes as f64 * per_byte) as u64 + image_tokens;
        estimate.output_tokens = (reply_bytes as f64 * per_reply_byte) as u64;
    }
    Ok(estimate)
}

/// Bytes that a usual reply to an item has.
fn reply_len(item: &crate::due::Item) -> u64 {
    use crate::due::Content;
    let len = match &item.content {
        Content::Scores { sentences, .. } => 14 + 29 * sentences.len(),
        Content::Correction { rationale } => 16 + rationale.len(),
        Content::Judgement { .. } => 14,
    };
    len as u64
}
