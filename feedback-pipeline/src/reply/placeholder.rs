//! Placeholders in a quoted format.

use serde_json::Value;

/// True for a placeholder of a quoted format instead of an answer: `…`, `<the text>`, an empty list.
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
