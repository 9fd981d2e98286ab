//! Learns from replies how many tokens a kind of request uses.

use crate::items::Kind;
use crate::teacher::Usage;

/// Assumed output tokens of a reply before the first one, if the limit allows as many.
const FIRST_OUTPUT_TOKENS: u32 = 150;
/// Assumed input tokens per byte of text before the first reply.
const FIRST_TOKENS_PER_BYTE: f64 = 0.25;

/// Tokens that one attempt will probably use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reservation {
    pub(super) kind: Kind,
    pub(super) text_bytes: f64,
    pub(super) image_tokens: f64,
    pub(super) input: f64,
    pub(super) output: f64,
}

/// Lengths learned from replies of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub(super) input_tokens_per_byte: f64,
    pub(super) output_tokens: f64,
    seen: u32,
}

impl Lengths {
    pub(super) fn new(max_output_tokens: u32) -> Self {
        Self {
            input_tokens_per_byte: FIRST_TOKENS_PER_BYTE,
            output_tokens: f64::from(max_output_tokens.min(FIRST_OUTPUT_TOKENS)),
            seen: 0,
        }
    }

    pub(super) fn learn(&mut self, reservation: &Reservation, usage: &Usage) {
        self.seen = self.seen.saturating_add(1);
        let weight = (1.0 / f64::from(self.seen)).max(0.02);
        let input = (usage.input + usage.cache_write + usage.cache_read) as f64 - reservation.image_tokens;
        let ratio = (input / reservation.text_bytes.max(1.0)).clamp(0.02, 2.0);
        self.input_tokens_per_byte += weight * (ratio - self.input_tokens_per_byte);
        self.output_tokens += weight * (usage.output as f64 - self.output_tokens);
    }
}
