//! Estimates tokens before anything is sent, with the tokenizer that the catalogue names for the model, times
//! its factor.
//!
//! Anthropic publishes no tokenizer, and the length of a model's thinking is not known beforehand. At first
//! the catalogue's factor and [`THINKING`] are used; after twenty replies, the estimate is fitted to their
//! usage. The same holds for self-hosted models. Pictures count by each provider's published rule.

use crate::items::Kind;
use crate::request::prompt::{self, SystemPrompt};
use crate::request::samples::{self, Samples};
use crate::teacher::catalogue::{Model, Tokenizer};
use crate::teacher::{self, Dialect};
use schemas::settings::{ImageDetail, Provider, ResponseFormat};
use tiktoken_rs::CoreBPE;

/// Minimum number of replies to learn a factor from.
const FEWEST_REPLIES: usize = 20;
/// Maximum number of replies that a counter learns from.
pub const MOST_REPLIES: usize = 300;
/// Tokens that chat APIs put around each message, and before the reply.
const AROUND_MESSAGE: u64 = 4;
const BEFORE_REPLY: u64 = 3;
/// Assumed thinking tokens of a reply, by effort; any other effort counts as medium.
pub const THINKING: [(&str, f64); 6] = [
    ("minimal", 32.0),
    ("low", 128.0),
    ("medium", 512.0),
    ("high", 1_536.0),
    ("xhigh", 4_096.0),
    ("max", 8_192.0),
];
/// Minimum bytes of instructions to mark them for a prompt cache that charges for writes.
const MARKED_BYTES: usize = teacher::openai::CACHED_BYTES;
/// OpenAI's caches keep prefixes in multiples of this many tokens.
const CACHE_STEP: f64 = 128.0;

/// A request whose usage is known.
pub struct Sample {
    /// The user's text.
    pub user_text: String,
    /// Input tokens, regardless of their price.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Body of the reply.
    pub body: Vec<u8>,
    /// Whether the request showed a picture.
    pub has_picture: bool,
}

impl Sample {
    /// Whether the request asked about several items.
    fn is_of_group(&self) -> bool {
        Samples::read(&self.user_text).is_some()
    }
}

/// Counts the tokens of one kind of request to one model.
pub struct Counter {
    tokenizer: &'static CoreBPE,
    provider: Provider,
    model: String,
    head: u64,
    input_factor: f64,
    output_factor: f64,
    /// Tokens of thinking before a reply.
    thinking: f64,
    cache: PromptCache,
    /// Whether replies give reasons.
    reasons: bool,
    /// Description of how tokens are counted.
    pub how: String,
}

/// What a provider's prompt cache keeps of requests with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PromptCache {
    /// Nothing.
    None,
    /// The instructions, if they have at least this many tokens; writing them costs a fee.
    Charged { minimum: f64 },
    /// The instructions, if they have at least this many tokens, in steps; writing them is free.
    Free { minimum: f64 },
    /// Every prompt with at least this many tokens is written for a fee, and nothing is read.
    Everything { minimum: f64 },
}

/// Input tokens of a job, by price.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Input {
    /// At the full price.
    pub plain: f64,
    /// Written to the prompt cache.
    pub written: f64,
    /// Read from it.
    pub read: f64,
}

impl Counter {
    /// A counter for a model in a dialect that learns from `samples`, earlier replies of the model to requests of the kind.
    pub fn new(
        model: &Model,
        dialect: &Dialect,
        kind: Kind,
        system: &SystemPrompt,
        samples: &[Sample],
    ) -> Self {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| !sample.is_of_group()).collect();
        let schema = prompt::schema(kind, system.reasons);
        Self::with(model, dialect, schema, system, &samples)
    }

    /// The same for requests about several samples of a problem; `system` are the instructions for scores.
    pub fn grouped(model: &Model, dialect: &Dialect, system: &SystemPrompt, samples: &[Sample]) -> Self {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.is_of_group()).collect();
        let schema = samples::schema(system.reasons);
        Self::with(model, &dialect.grouped(), schema, &system.for_samples(), &samples)
    }

    fn with(
        model: &Model,
        dialect: &Dialect,
        schema: &str,
        system: &SystemPrompt,
        samples: &[&Sample],
    ) -> Self {
        let (system, reasons) = (system.text.as_str(), system.reasons);
        let (tokenizer, name) = match model.tokenizer {
            Tokenizer::Cl100k => (tiktoken_rs::cl100k_base_singleton(), "cl100k"),
            Tokenizer::O200k => (tiktoken_rs::o200k_base_singleton(), "o200k"),
        };
        let count = |text: &str| tokenizer.encode_ordinary(text).len() as u64;
        let factor = model.tokenizer_factor;
        let is_known =
            ["gpt-", "o1", "o3", "o4", "chatgpt"].iter().any(|known| model.name.starts_with(known));
        let mut how = match (factor == 1.0, is_known) {
            (false, _) => format!("by {name} × {factor}: {} has no public tokenizer", model.name),
            (true, true) => format!("by the tokenizer {name}"),
            (true, false) => format!("by the tokenizer {name}, which may not be that of {}", model.name),
        };
        let effort = dialect.effort.as_deref();
        let thinking = if model.thinks(effort) {
            let effort = effort.or(model.default_effort.as_deref()).unwrap_or("medium");
            THINKING.iter().find(|(known, _)| *known == effort).map_or(512.0, |(_, tokens)| *tokens)
        } else {
            0.0
        };
        if thinking > 0.0 {
            how.push_str(&format!("; {thinking} tokens of thinking per reply are assumed"));
        }
        let schema = match dialect.response_format {
            ResponseFormat::JsonSchema => count(schema),
            _ => 0,
        };
        let mut counter = Self {
            tokenizer,
            provider: dialect.provider,
            model: model.name.clone(),
            head: count(system) + schema + 2 * AROUND_MESSAGE + BEFORE_REPLY,
            input_factor: factor,
            output_factor: factor,
            thinking,
            cache: PromptCache::of(model, dialect, system),
            reasons,
            how,
        };
        counter.learn(samples);
        counter
    }

    fn learn(&mut self, samples: &[&Sample]) {
        if samples.len() < FEWEST_REPLIES {
            return;
        }
        let fit: Vec<&Sample> = samples
            .iter()
            .copied()
            .filter(|sample| {
                teacher::open(self.provider, &sample.body).is_ok_and(|envelope| !envelope.text.is_empty())
            })
            .collect();
        let sum =
            |samples: &[&Sample], of: &dyn Fn(&Sample) -> f64| samples.iter().map(|one| of(one)).sum::<f64>();
        let output = sum(&fit, &|sample| sample.output as f64);
        let replies = sum(&fit, &|sample| self.count(&usual_reply(&sample.user_text, self.reasons)));
        // The usage does not separate the tokens of the picture from those of the text.
        let plain: Vec<&Sample> = fit.iter().copied().filter(|sample| !sample.has_picture).collect();
        let input = sum(&plain, &|sample| sample.input as f64);
        let texts = sum(&plain, &|sample| self.head as f64 + self.count(&sample.user_text));
        let mut learned = Vec::new();
        if plain.len() >= FEWEST_REPLIES && input > 0.0 {
            self.input_factor = input / texts;
            learned.push(format!("{:.2} times what the tokenizer counts", self.input_factor));
        }
        if fit.len() >= FEWEST_REPLIES && output > 0.0 && replies > 0.0 {
            if self.thinking > 0.0 {
                self.output_factor = self.input_factor;
                self.thinking = ((output - replies * self.output_factor) / fit.len() as f64).max(0.0);
                learned.push(format!("{:.0} tokens of thinking per reply", self.thinking));
            } else {
                self.output_factor = output / replies;
                learned.push(format!("{:.2} times a typical reply", self.output_factor));
            }
        }
        if !learned.is_empty() {
            self.how = format!("by {} earlier replies of {}: {}", fit.len(), self.model, learned.join(", "));
        }
    }

    fn count(&self, text: &str) -> f64 {
        self.tokenizer.encode_ordinary(text).len() as f64
    }

    /// Input tokens of a request, without its picture.
    pub fn input(&self, user_text: &str) -> f64 {
        (self.head as f64 + self.count(user_text)) * self.input_factor
    }

    /// Input tokens of the common prefix of all requests.
    pub fn head(&self) -> f64 {
        self.head as f64 * self.input_factor
    }

    /// Output tokens of a typical reply to a request, thinking included.
    pub fn output(&self, user_text: &str) -> f64 {
        self.count(&usual_reply(user_text, self.reasons)) * self.output_factor + self.thinking
    }

    /// The input tokens of this many requests, by price, if they follow each other soon enough for the prompt
    /// cache.
    pub fn by_price(&self, tokens: f64, requests: u64) -> Input {
        if requests == 0 {
            return Input::default();
        }
        let (head, later) = (self.head(), requests as f64 - 1.0);
        let (written, read) = match self.cache {
            PromptCache::Charged { minimum } if head >= minimum => (head, head * later),
            PromptCache::Free { minimum } if head >= minimum => {
                (0.0, (head / CACHE_STEP).floor() * CACHE_STEP * later)
            }
            PromptCache::Everything { minimum } if tokens / requests as f64 >= minimum => (tokens, 0.0),
            _ => (0.0, 0.0),
        };
        Input { plain: (tokens - written - read).max(0.0), written, read }
    }
}

impl PromptCache {
    fn of(model: &Model, dialect: &Dialect, system: &str) -> Self {
        let Some(minimum) = model.prompt_cache_minimum.map(|tokens| tokens as f64) else { return Self::None };
        match (dialect.provider, dialect.prompt_cache) {
            (Provider::Anthropic, true) => Self::Charged { minimum },
            (Provider::Anthropic, false) | (Provider::Reference, _) => Self::None,
            (Provider::OpenAi, _) if !model.charges_cache_writes => Self::Free { minimum },
            (Provider::OpenAi, true) if system.len() >= MARKED_BYTES => Self::Charged { minimum },
            (Provider::OpenAi, true) => Self::None,
            (Provider::OpenAi, false) => Self::Everything { minimum },
        }
    }
}

/// Tokens that the model charges for a picture of `size` (width, height in pixels) as it is sent.
pub fn of_picture(model: &Model, dialect: &Dialect, size: (u32, u32)) -> u64 {
    model.picture.tokens(size, dialect.image_detail.unwrap_or(ImageDetail::Auto))
}

/// A reason of typical length, as it appears in a reply.
const USUAL_REASON: &str = r#""reason":"It is true and names what the answer follows from, but not why the other options are wrong.","#;

/// A reply of typical length to a request.
fn usual_reply(user_text: &str, reasons: bool) -> String {
    let reason = if reasons { USUAL_REASON } else { "" };
    let block = |tag: &str| {
        let (_, rest) = user_text.rsplit_once(&format!("<{tag}>\n"))?;
        rest.split_once(&format!("\n</{tag}>")).map(|(block, _)| block)
    };
    if let Some(samples) = Samples::read(user_text) {
        let scores: Vec<String> = samples
            .asked_for()
            .map(|(sample, number)| {
                format!("{{\"sample\":{sample},\"sentence\":{number},{reason}\"score\":0.7}}")
            })
            .collect();
        return format!("{{\"scores\":[{}]}}", scores.join(","));
    }
    if let Some(sentences) = block("sentences") {
        let scores: Vec<String> = (1..=sentences.lines().count())
            .map(|number| format!("{{\"sentence\":{number},{reason}\"score\":0.7}}"))
            .collect();
        return format!("{{\"scores\":[{}]}}", scores.join(","));
    }
    match block("rationale") {
        Some(rationale) => serde_json::json!({ "rationale": rationale }).to_string(),
        None => "{\"better\":\"A\"}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::catalogue::{Catalogue, Service};
    use schemas::settings::TeacherSettings;

    fn counter(provider: Provider, name: &str, system: &str) -> Counter {
        let settings = TeacherSettings { provider, ..TeacherSettings::default() };
        let catalogue = Catalogue::load("", "").unwrap();
        let model = catalogue.model_or_unlisted(name);
        let dialect = Dialect::new(&settings, &model, &Service::default());
        let system = SystemPrompt { text: system.to_owned(), version: String::new(), reasons: false };
        Counter::new(&model, &dialect, Kind::Judgements, &system, &[])
    }

    fn sample(input: f64, output: u64, has_picture: bool) -> Sample {
        let body = br#"{"content":[{"type":"text","text":"{}"}],"stop_reason":"end_turn"}"#.to_vec();
        Sample { user_text: "hello world".into(), input: input as u64, output, body, has_picture }
    }

    #[test]
    fn counts_are_those_of_the_tokenizer_until_replies_tell_better() {
        let openai = counter(Provider::OpenAi, "gpt-4o", "Be fair.");
        assert_eq!(openai.input("hello world") - openai.head(), 2.0);
        assert_eq!(openai.how, "by the tokenizer o200k");
        let mut anthropic = counter(Provider::Anthropic, "claude-haiku-4-5", "Be fair.");
        assert!((anthropic.input("hello world") - anthropic.head() - 2.3).abs() < 1e-9);
        let newer = counter(Provider::Anthropic, "claude-opus-5-5", "Be fair.");
        assert!((newer.input("hello world") - newer.head() - 3.0).abs() < 1e-9);
        let plain = openai.input("hello world");
        let replies: Vec<_> = (0..20).map(|_| sample(plain * 2.0, 10, false)).collect();
        anthropic.learn(&replies.iter().collect::<Vec<_>>());
        assert!((anthropic.input("hello world") / plain - 2.0).abs() < 0.02, "{}", anthropic.how);
        assert_eq!(anthropic.output("hello world").round(), 10.0);
    }

    #[test]
    fn thinking_is_guessed_by_effort_and_then_learned() {
        let mut thinking = counter(Provider::Anthropic, "claude-opus-5-5", "Be fair.");
        let reply = thinking.count(&usual_reply("hello world", false));
        assert!((thinking.output("hello world") - reply * 1.5 - 128.0).abs() < 1e-9, "at effort low");
        assert_eq!(counter(Provider::OpenAi, "gpt-6-luna", "Be fair.").output("hello world"), reply);
        let plain = thinking.input("hello world");
        // Replies to requests with pictures show how long the model thinks, but not how its texts are
        // tokenized.
        let replies: Vec<_> = (0..20).map(|_| sample(9_000.0, 300, true)).collect();
        thinking.learn(&replies.iter().collect::<Vec<_>>());
        assert_eq!(thinking.input("hello world"), plain);
        assert_eq!(thinking.output("hello world").round(), 300.0, "{}", thinking.how);
    }

    #[test]
    fn prompt_caches_by_model() {
        let by_price = |provider, model, words: usize| {
            let counter = counter(provider, model, &"word ".repeat(words));
            let (head, tokens) = (counter.head(), 10.0 * (counter.head() + 100.0));
            (counter.by_price(tokens, 10), head, tokens)
        };
        for (model, words) in [("claude-haiku-5-5", 330), ("claude-haiku-4-5", 3_580)] {
            let (input, head, tokens) = by_price(Provider::Anthropic, model, words + 50);
            assert_eq!((input.written, input.read), (head, head * 9.0), "{model}");
            assert_eq!(input.plain, tokens - 10.0 * head);
            let (input, head, tokens) = by_price(Provider::Anthropic, model, words - 70);
            assert_eq!(input, Input { plain: tokens, ..Input::default() }, "{model}: {head}");
        }
        let (input, head, _) = by_price(Provider::OpenAi, "gpt-4.1", 1_100);
        assert_eq!((input.written, input.read), (0.0, (head / 128.0).floor() * 128.0 * 9.0));
        let (input, head, _) = by_price(Provider::OpenAi, "gpt-6-luna", 1_100);
        assert_eq!((input.written, input.read), (head, head * 9.0), "marked");
        let (input, _, tokens) = by_price(Provider::OpenAi, "gpt-6-luna", 700);
        assert_eq!(input.plain, tokens, "nothing is written that is not marked");
        assert_eq!(by_price(Provider::OpenAi, "my-llama", 2_000).0.read, 0.0, "not known");
        let mut refused = counter(Provider::OpenAi, "gpt-6-luna", "Be fair.");
        refused.cache = PromptCache::Everything { minimum: 1_024.0 };
        assert_eq!(refused.by_price(20_480.0, 20).written, 20_480.0);
        assert_eq!(refused.by_price(20_479.0, 20).written, 0.0);
    }

    #[test]
    fn replies_of_the_usual_length() {
        let text = "<problem>\nx\n</problem>\n<sentences>\n1: a\n2: b\n</sentences>";
        assert_eq!(
            usual_reply(text, false),
            r#"{"scores":[{"sentence":1,"score":0.7},{"sentence":2,"score":0.7}]}"#
        );
        let several = "<problem>\nx\n</problem>\n<samples>\n1.1: a\n2.1-2.1 = 1.1-1.1\n2.2: b\n</samples>";
        assert_eq!(
            usual_reply(several, false),
            r#"{"scores":[{"sample":1,"sentence":1,"score":0.7},{"sample":2,"sentence":2,"score":0.7}]}"#
        );
        assert_eq!(usual_reply("<rationale>\na\n</rationale>", false), r#"{"rationale":"a"}"#);
        assert_eq!(usual_reply("<rationale_a>\n…", false), r#"{"better":"A"}"#);
    }
}
