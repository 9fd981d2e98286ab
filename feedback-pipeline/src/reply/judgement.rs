//! Judgements: `{"better":"A"}`, `"B"` or `"tie"`.

use serde_json::{Map, Value};

/// Which of two rationales is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rationale A.
    A,
    /// Rationale B.
    B,
    /// Neither.
    Tie,
}

impl Better {
    /// The candidate's result: win, tie or loss.
    pub fn verdict(self, candidate_shown_first: bool) -> &'static str {
        match (self, candidate_shown_first) {
            (Self::Tie, _) => "tie",
            (Self::A, true) | (Self::B, false) => "win",
            (Self::A, false) | (Self::B, true) => "loss",
        }
    }
}

/// The three answers as listed in the instructions, which some models repeat before they answer.
pub(super) const EXAMPLES: [Better; 3] = [Better::A, Better::B, Better::Tie];

pub(super) fn read(object: &Map<String, Value>) -> Result<Better, String> {
    let better = object.get("better").ok_or("`better` is missing")?;
    match better.as_str().map(|better| better.trim().to_ascii_lowercase()).as_deref() {
        Some("a") => Ok(Better::A),
        Some("b") => Ok(Better::B),
        Some("tie") => Ok(Better::Tie),
        _ => Err(format!("`better` is {better}, not \"A\", \"B\" or \"tie\"")),
    }
}
