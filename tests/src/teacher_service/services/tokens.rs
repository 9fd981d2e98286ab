//! Tokens of requests to a service: texts, schema, pictures, and the effect of its prompt cache.

use super::failure::Failure;
use super::{Profile, Sent};
use crate::teacher_service::answer;
use crate::teacher_service::count::{Counted, PromptCache};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a prompt cache keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Nothing.
    None,
    /// The instructions, where they are marked and this long; writes are reported separately.
    Marked(u64),
    /// The instructions, where they are this long; writing is free.
    Free(u64),
    /// The whole prompt, where it is this long; writing costs.
    Whole(u64),
}

/// Tokens of a text: by a tokenizer, or approximately.
pub(crate) fn text(profile: &Profile, model: &str, text: &str, by_tokenizer: bool) -> u64 {
    let tokens = if by_tokenizer {
        tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
    } else {
        answer::tokens(text)
    };
    (tokens as f64 * (profile.text_factor)(model)).ceil() as u64
}

/// Tokens of a request.
pub(crate) fn request(
    profile: &Profile,
    sent: &Sent<'_>,
    by_tokenizer: bool,
    cache: &PromptCache,
) -> Result<Counted, Failure> {
    let count = |words: &str| text(profile, sent.model, words, by_tokenizer);
    let mut instructions = String::new();
    for schema in [
        &sent.body["response_format"]["json_schema"]["schema"],
        &sent.body["output_config"]["format"]["schema"],
    ] {
        if !schema.is_null() {
            instructions.push_str(&schema.to_string());
        }
    }
    push_texts(&sent.body["system"], &mut instructions);
    let (mut others, mut rest) = (String::new(), 3);
    for message in sent.body["messages"].as_array().into_iter().flatten() {
        let is_system = message["role"] == "system" || message["role"] == "developer";
        push_texts(&message["content"], if is_system { &mut instructions } else { &mut others });
        rest += 4;
    }
    rest += count(&others);
    for picture in sent.pictures {
        rest += (profile.picture)(sent, picture)?;
    }
    let head = count(&instructions);
    let named = |words: &str| format!("{} {:x?}", sent.model, Sha256::digest(words.as_bytes()));
    let plain = Counted { plain: head + rest, ..Counted::default() };
    Ok(match (profile.caching)(sent) {
        Caching::Marked(least) if head >= least => {
            let known = !cache.is_new(named(&instructions));
            let (written, read) = if known { (0, head) } else { (head, 0) };
            Counted { plain: rest, written, read }
        }
        Caching::Free(least) if head >= least => {
            let read = if cache.is_new(named(&instructions)) { 0 } else { head / 128 * 128 };
            Counted { plain: head + rest - read, written: 0, read }
        }
        Caching::Whole(least) if head + rest >= least => {
            let known = !cache.is_new(named(&sent.body["messages"].to_string()));
            let (written, read) = if known { (0, head + rest) } else { (head + rest, 0) };
            Counted { plain: 0, written, read }
        }
        _ => plain,
    })
}

/// The texts of a content or of a list of blocks.
fn push_texts(content: &Value, texts: &mut String) {
    texts.push_str(content.as_str().unwrap_or_default());
    for block in content.as_array().into_iter().flatten() {
        texts.push_str(block["text"].as_str().unwrap_or_default());
    }
}
