//! What is in the place of an answer where a format is quoted.

use serde_json::Value;

/// True for what is in the place of an answer where a format is quoted: `…`, `<the text>`, an empty list.
pub(super) fn is_placeholder(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let text = text.trim();
            let is_named = text.starts_with('<') && text.ends_with('>') && text.matches('<').count() == 1;
            is_named || !text.contains(char::is_alphanumeric)
        }
        Value::Array(list) => list.iter().all(is_placeholder),
        _ => false,
    }
}
