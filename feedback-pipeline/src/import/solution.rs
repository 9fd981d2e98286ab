//! Joins several rationales of a problem to one solution.

/// Joins rationales so that each ends as a sentence: without a final mark it would run into the next.
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
