//! Tokens before anything is sent: OpenAI's models by their own tokenizer, others by that one times a factor.
//!
//! Anthropic publishes no tokenizer. Until replies of the model have told better, its texts count 1.15 times what o200k
//! makes of them; from twenty replies on, the factor is what their usage says. Servers of one's own are learned the same
//! way. Pictures count by each provider's published rule.

use crate::error::Result;
use crate::items::Kind;
use crate::request::prompt;
use crate::store::{Cache, Sample};
use crate::teacher;
use schemas::settings::Provider;
use tiktoken_rs::CoreBPE;

/// Tokens of a Claude model for each token of o200k on English prose, about.
const UNKNOWN_FACTOR: f64 = 1.15;
/// Replies that a factor is learned from, at least and at most.
const FEWEST_REPLIES: usize = 20;
const MOST_REPLIES: usize = 300;
/// Tokens that chat APIs put around each message, and before the reply.
const AROUND_MESSAGE: u64 = 4;
const BEFORE_REPLY: u64 = 3;

/// Counts the tokens of one kind of request to one model.
pub struct Counter {
    tokenizer: &'static CoreBPE,
    provider: Provider,
    model: String,
    head: u64,
    input_factor: f64,
    output_factor: f64,
    /// Output tokens of the longest of the earlier replies, where there are enough to go by.
    pub longest_output: Option<u64>,
    /// How tokens are counted, in words.
    pub how: String,
}

impl Counter {
    /// A counter that has learned from the replies in the cache.
    pub fn new(
        provider: Provider,
        model: &str,
        kind: Kind,
        scope: &str,
        system: &str,
        cache: Option<&Cache>,
    ) -> Result<Self> {
        let old =
            ["gpt-4-", "gpt-3.5", "gpt-35"].iter().any(|old| model.starts_with(old)) || model == "gpt-4";
        let tokenizer =
            if old { tiktoken_rs::cl100k_base_singleton() } else { tiktoken_rs::o200k_base_singleton() };
        let count = |text: &str| tokenizer.encode_ordinary(text).len() as u64;
        let name = if old { "cl100k" } else { "o200k" };
        let known = ["gpt-", "o1", "o3", "o4", "chatgpt"].iter().any(|known| model.starts_with(known));
        let (factor, how) = match (provider, known) {
            (Provider::Anthropic, _) => {
                (UNKNOWN_FACTOR, format!("by {name} × {UNKNOWN_FACTOR}: {model} has no public tokenizer"))
            }
            (_, true) => (1.0, format!("by the tokenizer {name}")),
            (_, false) => (1.0, format!("by the tokenizer {name}, which may not be that of {model}")),
        };
        let mut counter = Self {
            tokenizer,
            provider,
            model: model.to_owned(),
            head: count(system) + count(prompt::schema(kind)) + 2 * AROUND_MESSAGE + BEFORE_REPLY,
            input_factor: factor,
            output_factor: factor,
            longest_output: None,
            how,
        };
        if let Some(cache) = cache {
            counter.learn(&cache.samples(scope, model, MOST_REPLIES)?);
        }
        Ok(counter)
    }

    fn learn(&mut self, samples: &[Sample]) {
        if samples.len() < FEWEST_REPLIES {
            return;
        }
        self.longest_output = samples.iter().map(|sample| sample.output).max();
        (self.input_factor, self.output_factor) = (1.0, 1.0);
        let (mut input, mut output, mut counted, mut foretold) = (0.0, 0.0, 0.0, 0.0);
        for sample in samples {
            let Ok(envelope) = teacher::open(self.provider, &sample.body) else { continue };
            if envelope.text.is_empty() {
                continue;
            }
            input += sample.input as f64;
            output += sample.output as f64;
            counted += self.input(&sample.user_text);
            foretold += self.output(&sample.user_text);
        }
        if input > 0.0 && output > 0.0 && counted > 0.0 && foretold > 0.0 {
            (self.input_factor, self.output_factor) = (input / counted, output / foretold);
            self.how = format!(
                "by {} earlier replies of {}: {:.2} times what the tokenizer counts",
                samples.len(),
                self.model,
                self.input_factor
            );
        }
    }

    fn count(&self, text: &str) -> f64 {
        self.tokenizer.encode_ordinary(text).len() as f64
    }

    /// Input tokens of a request, its picture apart.
    pub fn input(&self, user_text: &str) -> f64 {
        (self.head as f64 + self.count(user_text)) * self.input_factor
    }

    /// Input tokens that all requests begin with.
    pub fn head(&self) -> f64 {
        self.head as f64 * self.input_factor
    }

    /// Output tokens of the usual reply to a request.
    pub fn output(&self, user_text: &str) -> f64 {
        self.count(&usual_reply(user_text)) * self.output_factor
    }
}

/// A reply of the usual length to a request.
fn usual_reply(user_text: &str) -> String {
    let block = |tag: &str| {
        let (_, rest) = user_text.rsplit_once(&format!("<{tag}>\n"))?;
        rest.split_once(&format!("\n</{tag}>")).map(|(block, _)| block)
    };
    if let Some(sentences) = block("sentences") {
        let scores: Vec<String> = (1..=sentences.lines().count())
            .map(|number| format!("{{\"sentence\":{number},\"score\":0.7}}"))
            .collect();
        return format!("{{\"scores\":[{}]}}", scores.join(","));
    }
    match block("rationale") {
        Some(rationale) => serde_json::json!({ "rationale": rationale }).to_string(),
        None => "{\"better\":\"A\"}".to_owned(),
    }
}

/// Tokens that a provider counts for a picture.
pub fn of_image(provider: Provider, model: &str, size: (u32, u32)) -> u64 {
    let (width, height) = (f64::from(size.0.max(1)), f64::from(size.1.max(1)));
    let scaled = |scale: f64| (width * scale.min(1.0), height * scale.min(1.0));
    if provider != Provider::OpenAi {
        // Scaled to 1568 pixels and about 1.2 megapixels, then a token for 750 pixels.
        let scale = (1_568.0 / width.max(height)).min((1_600.0 * 750.0 / (width * height)).sqrt());
        let (width, height) = scaled(scale);
        return ((width * height / 750.0).ceil() as u64).clamp(1, 1_600);
    }
    // Smaller models count patches of 32 pixels, at most 1536 of them, each as some tokens.
    let by_patch = [
        ("gpt-4.1-mini", 1.62),
        ("gpt-4.1-nano", 2.46),
        ("gpt-5-mini", 1.62),
        ("gpt-5-nano", 2.46),
        ("o4-mini", 1.72),
    ];
    if let Some((_, factor)) = by_patch.iter().find(|(name, _)| model.starts_with(name)) {
        let patches = (width / 32.0).ceil() * (height / 32.0).ceil();
        return (patches.min(1_536.0) * factor).ceil() as u64;
    }
    // The others: scaled into a square of 2048 pixels, then to a shorter side of 768, counted in tiles of 512.
    let (width, height) = scaled(2_048.0 / width.max(height));
    let scale = (768.0 / width.min(height)).min(1.0);
    let tiles = (width * scale / 512.0).ceil() * (height * scale / 512.0).ceil();
    let (base, tile) = match model {
        model if model.starts_with("gpt-4o-mini") => (2_833.0, 5_667.0),
        model if model.starts_with("gpt-5") => (70.0, 140.0),
        model if model.starts_with("o1") || model.starts_with("o3") => (75.0, 150.0),
        _ => (85.0, 170.0),
    };
    (base + tile * tiles) as u64
}

/// Tokens at the front of every request that the provider keeps in its prompt cache; 0 where they are too few for that.
pub fn kept_in_prompt_cache(provider: Provider, model: &str, head: f64) -> f64 {
    match provider {
        Provider::Anthropic if head >= 1_024.0 => head,
        // OpenAI keeps prefixes from 1024 tokens on, in steps of 128, without being asked.
        Provider::OpenAi if head >= 1_024.0 => (head / 128.0).floor() * 128.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_by_each_providers_rule() {
        let openai = |model, size| of_image(Provider::OpenAi, model, size);
        assert_eq!(openai("gpt-4o", (1_024, 1_024)), 765, "the provider's own example");
        assert_eq!(openai("gpt-4o", (2_048, 4_096)), 1_105, "the provider's own example");
        assert_eq!(openai("gpt-4o-mini", (200, 100)), 8_500);
        assert_eq!(openai("gpt-4.1-mini", (1_024, 1_024)), 1_659);
        assert_eq!(of_image(Provider::Anthropic, "claude-haiku-4-5", (200, 200)), 54);
        assert_eq!(of_image(Provider::Anthropic, "claude-haiku-4-5", (3_000, 3_000)), 1_600);
    }

    #[test]
    fn counts_are_those_of_the_tokenizer_until_replies_tell_better() {
        let new = |provider, model| {
            Counter::new(provider, model, Kind::Judgements, "judgements/base", "Be fair.", None).unwrap()
        };
        let openai = new(Provider::OpenAi, "gpt-4o");
        assert_eq!(openai.input("hello world") - openai.head(), 2.0);
        assert_eq!(openai.how, "by the tokenizer o200k");
        let mut anthropic = new(Provider::Anthropic, "claude-haiku-4-5");
        assert!((anthropic.input("hello world") - anthropic.head() - 2.3).abs() < 1e-9);
        let body = br#"{"content":[{"type":"text","text":"{}"}],"stop_reason":"end_turn"}"#.to_vec();
        let plain = openai.input("hello world");
        let sample = || Sample {
            user_text: "hello world".into(),
            input: (plain * 2.0) as u64,
            output: 10,
            body: body.clone(),
        };
        anthropic.learn(&(0..20).map(|_| sample()).collect::<Vec<_>>());
        assert!((anthropic.input("hello world") / plain - 2.0).abs() < 0.02, "{}", anthropic.how);
        assert_eq!(anthropic.output("hello world").round(), 10.0);
    }

    #[test]
    fn replies_of_the_usual_length() {
        let text = "<problem>\nx\n</problem>\n<sentences>\n1: a\n2: b\n</sentences>";
        assert_eq!(
            usual_reply(text),
            r#"{"scores":[{"sentence":1,"score":0.7},{"sentence":2,"score":0.7}]}"#
        );
        assert_eq!(usual_reply("<rationale>\na\n</rationale>"), r#"{"rationale":"a"}"#);
        assert_eq!(usual_reply("<rationale_a>\n…"), r#"{"better":"A"}"#);
    }
}
