//! The key of a request.

/// sha256 of a whole request.
pub type Key = [u8; 32];

/// Reads a key from 64 hexadecimal digits.
pub fn parse_key(hex: &str) -> Option<Key> {
    let bytes = hex.as_bytes();
    let mut key = [0; 32];
    for (place, pair) in key.iter_mut().zip(bytes.chunks_exact(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (bytes.len() == 64).then_some(key)
}
