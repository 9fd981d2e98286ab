//! Several rationales of a problem as one solution.

/// Rationales one after the other, each a sentence of its own: one without a mark at its end would run on into the next.
pub(super) fn as_sentences(rationales: &[String]) -> String {
    let mut joined = String::new();
    for rationale in rationales.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        joined.push_str(if joined.is_empty() { "" } else { " " });
        joined.push_str(rationale);
        let ends = |c: char| matches!(c, '.' | '!' | '?' | '…');
        let closes = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '”' | '’');
        if !rationale.trim_end_matches(closes).ends_with(ends) {
            joined.push('.');
        }
    }
    joined
}
