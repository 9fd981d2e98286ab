//! Corrections: `{"rationale":"…"}`, with a text that has words.

use serde_json::{Map, Value};

pub(super) fn read(object: &Map<String, Value>) -> Result<String, String> {
    let rationale = object.get("rationale").ok_or("`rationale` is missing")?;
    let text = rationale.as_str().ok_or("`rationale` is no text")?.trim();
    if text.is_empty() {
        return Err("`rationale` is empty".to_owned());
    }
    if super::placeholder::is_placeholder(rationale) {
        return Err(format!("`rationale` is {rationale}, a placeholder"));
    }
    // Half-escaped LaTeX: JSON reads `\frac` and `\beta` as escapes of control characters, which texts never
    // contain.
    Ok(text.replace('\u{c}', "\\f").replace('\u{8}', "\\b"))
}
