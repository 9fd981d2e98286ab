//! Whole numbers as people read them.

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

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(super::grouped(7), "7");
        assert_eq!(super::grouped(1234_usize), "1,234");
        assert_eq!(super::grouped(50_904_000_u64), "50,904,000");
    }
}
