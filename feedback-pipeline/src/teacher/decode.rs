//! Decodes bodies: compressed, with a byte order mark, as an event stream, with invalid characters. The
//! stored bytes stay unchanged.

use super::{events, lenient};
use serde_json::Value;
use std::borrow::Cow;
use std::io::Read;

/// Maximum length of an unpacked reply; no genuine reply is longer.
const LONGEST: u64 = 64 << 20;

/// A body as text: decompressed if it is gzip, without a byte order mark, and with invalid characters
/// replaced by U+FFFD.
pub fn text(body: &[u8]) -> Cow<'_, str> {
    unpacked(body).unwrap_or_else(|_| String::from_utf8_lossy(body))
}

fn unpacked(body: &[u8]) -> Result<Cow<'_, str>, String> {
    let text = if body.starts_with(&[0x1f, 0x8b]) {
        let mut bytes = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(body).take(LONGEST).read_to_end(&mut bytes);
        read.map_err(|e| format!("broken gzip: {e}"))?;
        Cow::Owned(
            String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
        )
    } else {
        String::from_utf8_lossy(body)
    };
    Ok(match text.strip_prefix('\u{feff}') {
        None => text,
        Some(rest) => Cow::Owned(rest.to_owned()),
    })
}

/// The JSON in a body; an event stream is assembled into the reply that would have come in one piece.
///
/// # Errors
/// What is wrong with it.
pub(super) fn value(body: &[u8]) -> Result<Value, String> {
    let text = unpacked(body)?;
    match events::is_stream(&text) {
        true => events::reply(&text),
        false => lenient::whole(&text),
    }
}

#[cfg(test)]
pub(super) fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappings_are_taken_off() {
        assert_eq!(text(&gzip("\u{feff}{\"a\":1}")), "{\"a\":1}");
        assert_eq!(text(b"\xef\xbb\xbfx\xffy"), "x\u{fffd}y");
        assert_eq!(value(b"{\"a\":\"x\xffy\"}"), Ok(serde_json::json!({"a": "x\u{fffd}y"})));
        let mut cut = gzip("{\"a\":1}");
        cut.truncate(cut.len() - 9);
        assert!(value(&cut).unwrap_err().contains("gzip"));
    }
}
