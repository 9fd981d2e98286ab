//! Formats whole numbers for people.

use std::fmt::Display;

/// A whole number without a sign, its digits grouped by thousands: 12726 as `12,726`.
pub fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, given in the singular: `1 reply`, `12,726 replies`.
pub fn counted(number: impl Display, one: &str) -> String {
    let number = number.to_string();
    let name = plural(&number, one);
    format!("{} {name}", grouped(number))
}

/// A noun, given in the singular, in the form for a count.
pub fn plural(number: impl Display, one: &str) -> String {
    match one.strip_suffix('y') {
        _ if number.to_string() == "1" => one.to_owned(),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if one.ends_with(['s', 'x']) || one.ends_with("sh") || one.ends_with("tch") => format!("{one}es"),
        _ => format!("{one}s"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(super::grouped(7), "7");
        assert_eq!(super::grouped(1234_usize), "1,234");
        assert_eq!(super::grouped(50_904_000_u64), "50,904,000");
    }

    #[test]
    fn one_thing_is_no_plural() {
        for (number, one, text) in [
            (1, "request", "1 request"),
            (0, "request", "0 requests"),
            (12_726, "reply", "12,726 replies"),
            (2, "batch", "2 batches"),
            (30, "epoch", "30 epochs"),
            (2, "key", "2 keys"),
        ] {
            assert_eq!(super::counted(number, one), text);
        }
    }
}
