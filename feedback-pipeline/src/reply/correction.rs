//! Corrections: `{"rationale":"…"}`, not empty.

use serde_json::{Map, Value};

pub(super) fn read(object: &Map<String, Value>) -> Result<String, String> {
    let rationale = object.get("rationale").ok_or("`rationale` is missing")?;
    let rationale = rationale.as_str().ok_or("`rationale` is no text")?.trim();
    if rationale.is_empty() {
        return Err("`rationale` is empty".to_owned());
    }
    Ok(rationale.to_owned())
}
