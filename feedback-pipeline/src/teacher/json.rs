//! JSON that is written piece by piece.

/// Appends a text as a JSON string.
pub(super) fn json_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text); // a text into memory cannot fail
}
