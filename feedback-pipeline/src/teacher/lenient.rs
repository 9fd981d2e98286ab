//! Lenient JSON for models and gateways: parsed strictly first and, if that fails, with tolerance for errors
//! whose meaning is clear.
//!
//! Accepted: a line break, tab or other control character inside a string, a trailing comma, half a surrogate
//! pair (it becomes U+FFFD), and a backslash that begins no escape, as in `\( x \)` (it is kept). Nothing is
//! guessed: truncated text, missing quotes and mismatched brackets remain errors.

use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// Reads the value that a text begins with, and its length in bytes.
///
/// # Errors
/// The strict parser's error if the text does not begin with a complete value.
pub(crate) fn prefix<T: DeserializeOwned>(text: &str) -> Result<(T, usize), String> {
    let mut strict = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let why = match strict.next() {
        Some(Ok(value)) => return Ok((value, strict.byte_offset())),
        Some(Err(why)) => why.to_string(),
        None => "no value".to_owned(),
    };
    let mut lenient = serde_json_lenient::Deserializer::from_slice_with_options(
        text.as_bytes(),
        true,
        true,
        true,
        false,
        false,
    );
    lenient.set_allow_comments(false);
    let mut lenient = lenient.into_iter::<T>();
    match lenient.next() {
        Some(Ok(value)) => Ok((value, lenient.byte_offset())),
        _ => Err(why),
    }
}

/// Reads a text that is one value.
///
/// # Errors
/// The strict parser's error.
pub(crate) fn whole<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let why = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(why) => why.to_string(),
    };
    let mended = with_whole_escapes(text);
    match prefix(&mended) {
        Ok((value, end)) if mended.get(end..).is_some_and(|rest| rest.trim().is_empty()) => Ok(value),
        _ => Err(why),
    }
}

/// A text in which every backslash begins a JSON escape: others are doubled, and half a surrogate pair
/// becomes `\ufffd`. Valid JSON is unchanged.
pub(crate) fn with_whole_escapes(text: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find('\\')) {
        let at = from + found;
        let rest = text.get(at..).unwrap_or_default();
        let (length, instead) = match rest.as_bytes().get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => (2, None),
            Some(b'u') => match (unit(rest), rest.get(6..).and_then(unit)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
                (Some(0xd800..=0xdfff), _) => (6, Some("\\ufffd")),
                (Some(_), _) => (6, None),
                (None, _) => (1, Some("\\\\")),
            },
            _ => (1, Some("\\\\")),
        };
        if let Some(instead) = instead {
            mended.push_str(text.get(copied..at).unwrap_or_default());
            mended.push_str(instead);
            copied = at + length;
        }
        from = at + length;
    }
    match copied {
        0 => Cow::Borrowed(text),
        copied => Cow::Owned(mended + text.get(copied..).unwrap_or_default()),
    }
}

/// The UTF-16 unit of a text that begins with `\uXXXX`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn faults_whose_meaning_is_plain_are_read() {
        let table = [
            ("{\"a\":\"one\ntwo\tthree\"}", json!({"a": "one\ntwo\tthree"})),
            (r#"{"a":[1,2,],}"#, json!({"a": [1, 2]})),
            (r#"{"a":"\( x \) \underline"}"#, json!({"a": "\\( x \\) \\underline"})),
            (r#"{"a":"half \ud83d end"}"#, json!({"a": "half \u{fffd} end"})),
            (r#"{"a":"\ud83dA\ude00\ud83d\u0041"}"#, json!({"a": "\u{fffd}A\u{fffd}\u{fffd}A"})),
            (r#"{"a":"\ud83d\ude00 \\( \\ud83d"}"#, json!({"a": "\u{1f600} \\( \\ud83d"})),
        ];
        for (text, value) in table {
            assert_eq!(whole::<Value>(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            "",
            "{",
            r#"{"a":1"#,
            r#"{"a":"x}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":"say "go" now"}"#,
            r#"{"a": …}"#,
            r#"{a:1}"#,
            r#"{'a':1}"#,
            "{\"a\":1 // note\n}",
            r#"{"a":NaN}"#,
            r#"{"a":1} {"b":2}"#,
            r#"{"a":1]"#,
            r#"{"a":[1,,2]}"#,
        ] {
            assert!(whole::<Value>(text).is_err(), "{text}");
        }
        assert!(whole::<Value>(&"[".repeat(100_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn valid_json_stays_as_it_is(text in ".{0,60}") {
            let json = serde_json::to_string(&text).unwrap();
            proptest::prop_assert!(matches!(with_whole_escapes(&json), Cow::Borrowed(_)));
            proptest::prop_assert_eq!(whole::<String>(&json), Ok(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"[\\"u0-9a-fdD{}\[\]:,é\n ]{0,40}"#) {
            let _ = whole::<Value>(&text);
            let _ = prefix::<Value>(&text);
        }
    }
}
