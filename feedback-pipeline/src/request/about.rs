//! Whether an earlier request asked about what an item says now.

use super::prompt::{content_block, squeezed};
use super::samples::Samples;
use crate::items::{Content, Item};

/// Whether a request's text block was about the item's current text. Items are identified by position (problem, round,
/// sample), and a repeated stage has other texts under the same id. White space is ignored, and so is the escaping of
/// tags, which earlier versions did differently.
pub fn is_about(user_text: &str, item: &Item) -> bool {
    let mut content = String::with_capacity(1024);
    content_block(&mut content, &item.content);
    if squeezed(user_text).contains(&squeezed(&content)) {
        return true;
    }
    match &item.content {
        Content::Scores { sentences, .. } => {
            Samples::read(user_text).is_some_and(|samples| samples.place_of(sentences).is_some())
        }
        Content::Correction { .. } | Content::Judgement { .. } => false,
    }
}
