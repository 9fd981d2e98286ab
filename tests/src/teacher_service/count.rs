//! Counting tokens as providers do: text by a tokenizer, the reply's schema, pictures, and a prompt cache.
//!
//! OpenAI's texts are counted with o200k. Anthropic's tokenizer is not public; it is replaced by cl100k plus
//! a fifth, so clients have to learn from the usage of replies, as with the real service.

use super::wire::Api;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Prompts seen so far.
#[derive(Default)]
pub(crate) struct PromptCache(Mutex<HashSet<String>>);

impl PromptCache {
    /// Adds a prompt; true if it is new.
    pub(super) fn is_new(&self, prompt: String) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(prompt)
    }
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(super) plain: u64,
    pub(super) written: u64,
    pub(super) read: u64,
}

/// Tokens of a text.
pub(super) fn text(api: Api, text: &str) -> u64 {
    match api {
        Api::OpenAi => tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64,
        Api::Anthropic => tiktoken_rs::cl100k_base_singleton().encode_ordinary(text).len() as u64 * 6 / 5,
    }
}

/// Tokens of a request's body.
pub(super) fn request(api: Api, body: &Value, cache: &PromptCache) -> Counted {
    let (schema, mut head) = match api {
        Api::OpenAi => (&body["response_format"]["json_schema"]["schema"], 0),
        Api::Anthropic => (&body["output_config"]["format"]["schema"], 0),
    };
    let mut head_text = String::new();
    if !schema.is_null() {
        head_text.push_str(&schema.to_string());
    }
    for block in body["system"].as_array().into_iter().flatten() {
        head_text.push_str(block["text"].as_str().unwrap_or_default());
    }
    let mut rest = 3;
    for message in body["messages"].as_array().into_iter().flatten() {
        rest += 4;
        match &message["content"] {
            Value::String(content) if message["role"] == "system" => head_text.push_str(content),
            Value::String(content) => rest += text(api, content),
            Value::Array(blocks) => rest += blocks.iter().map(|block| part(api, body, block)).sum::<u64>(),
            _ => {}
        }
    }
    head += text(api, &head_text);
    let kept = match api {
        Api::OpenAi if head >= 1_024 => head / 128 * 128,
        Api::Anthropic if head >= 1_024 => head,
        _ => 0,
    };
    if kept == 0 {
        return Counted { plain: head + rest, ..Counted::default() };
    }
    let name = format!("{} {head_text}", body["model"]);
    let is_new = cache.is_new(name);
    match (api, is_new) {
        (Api::OpenAi, true) => Counted { plain: head + rest, ..Counted::default() },
        (Api::Anthropic, true) => Counted { plain: head - kept + rest, written: kept, read: 0 },
        (_, false) => Counted { plain: head - kept + rest, written: 0, read: kept },
    }
}

fn part(api: Api, body: &Value, block: &Value) -> u64 {
    if let Some(content) = block["text"].as_str() {
        return text(api, content);
    }
    let data =
        block["source"]["data"].as_str().or_else(|| block["image_url"]["url"].as_str()?.split(',').nth(1));
    let Some((width, height)) = data.and_then(png_size) else { return 0 };
    let (width, height) = (width as f64, height as f64);
    match api {
        Api::Anthropic => (width * height / 750.0).ceil().min(1_600.0) as u64,
        Api::OpenAi => {
            let fit = (2_048.0 / width.max(height)).min(1.0);
            let (width, height) = (width * fit, height * fit);
            let fit = (768.0 / width.min(height)).min(1.0);
            let tiles = (width * fit / 512.0).ceil() * (height * fit / 512.0).ceil();
            let mini = body["model"].as_str().is_some_and(|model| model.starts_with("gpt-4o-mini"));
            let (base, tile) = if mini { (2_833.0, 5_667.0) } else { (85.0, 170.0) };
            (base + tile * tiles) as u64
        }
    }
}

/// Width and height in a PNG's header.
fn png_size(base64: &str) -> Option<(u32, u32)> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64.get(..32)?).ok()?;
    let number = |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
    Some((number(16)?, number(20)?))
}
