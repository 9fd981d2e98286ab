//! Token prices.

use crate::teacher::Usage;
use serde::Deserialize;

/// Prices of one model, in US dollars per million tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Input tokens.
    pub input: f64,
    /// Output tokens, thinking included.
    pub output: f64,
    /// Input tokens written to the prompt cache.
    pub cache_write: f64,
    /// Input tokens read from the prompt cache.
    pub cache_read: f64,
    /// Factor on everything in batch mode.
    #[serde(default = "one")]
    pub batch_factor: f64,
    /// Prices of longer prompts.
    #[serde(default)]
    pub tiers: Vec<Tier>,
}

/// Factors on the prices of a whole request whose prompt is longer than a number of tokens, cached ones included.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The tier applies above this many prompt tokens.
    pub above_prompt_tokens: u64,
    /// Factor on the three prices of input tokens.
    pub input_factor: f64,
    /// Factor on the price of output tokens.
    pub output_factor: f64,
}

fn one() -> f64 {
    1.0
}

impl Price {
    /// Prices of the embedded Teacher.
    pub const FREE: Self = Self {
        input: 0.0,
        output: 0.0,
        cache_write: 0.0,
        cache_read: 0.0,
        batch_factor: 1.0,
        tiers: Vec::new(),
    };

    /// True if it costs nothing.
    pub fn is_free(&self) -> bool {
        self.input == 0.0 && self.output == 0.0 && self.cache_write == 0.0 && self.cache_read == 0.0
    }

    /// The same in batch mode.
    #[must_use]
    pub fn in_batch(&self) -> Self {
        Self { batch_factor: 1.0, ..self.times(self.batch_factor) }
    }

    /// Every price times a factor.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self {
            input: self.input * factor,
            output: self.output * factor,
            cache_write: self.cache_write * factor,
            cache_read: self.cache_read * factor,
            batch_factor: self.batch_factor,
            tiers: self.tiers.clone(),
        }
    }

    /// Dollars for the tokens of one reply.
    pub fn cost(&self, usage: &Usage) -> f64 {
        self.cost_of_all(usage, 1)
    }

    /// Dollars for the summed tokens of this many replies with prompts of similar length.
    pub fn cost_of_all(&self, usage: &Usage, replies: u64) -> f64 {
        let prompts = usage.input as f64 + usage.cache_write as f64 + usage.cache_read as f64;
        let (input, output) = self.factors(prompts / replies.max(1) as f64);
        (input
            * (usage.input as f64 * self.input
                + usage.cache_write as f64 * self.cache_write
                + usage.cache_read as f64 * self.cache_read)
            + output * usage.output as f64 * self.output)
            / 1e6
    }

    /// Maximum dollars of a request: as if its whole prompt were written to the prompt cache, if that costs
    /// more.
    pub fn most(&self, input_tokens: f64, output_tokens: f64) -> f64 {
        let (input, output) = self.factors(input_tokens);
        (input * input_tokens * self.input.max(self.cache_write) + output * output_tokens * self.output) / 1e6
    }

    /// Factors on input and output for a prompt of this many tokens.
    fn factors(&self, prompt_tokens: f64) -> (f64, f64) {
        let reached = self.tiers.iter().filter(|tier| prompt_tokens > tier.above_prompt_tokens as f64);
        let tier = reached.max_by_key(|tier| tier.above_prompt_tokens);
        tier.map_or((1.0, 1.0), |tier| (tier.input_factor, tier.output_factor))
    }

    /// Describes invalid prices.
    pub(super) fn mistake(&self) -> Option<String> {
        let mut numbers = vec![self.input, self.output, self.cache_write, self.cache_read, self.batch_factor];
        numbers.extend(self.tiers.iter().flat_map(|tier| [tier.input_factor, tier.output_factor]));
        let is_wrong = numbers.iter().any(|number| !number.is_finite() || *number < 0.0);
        is_wrong.then(|| format!("expected prices of at least 0, found {numbers:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        let tier = |above_prompt_tokens, input_factor, output_factor| Tier {
            above_prompt_tokens,
            input_factor,
            output_factor,
        };
        Price {
            input: 1.0,
            output: 10.0,
            cache_write: 1.25,
            cache_read: 0.1,
            batch_factor: 0.5,
            tiers: vec![tier(1_000, 3.0, 4.0), tier(100, 2.0, 1.5)],
        }
    }

    fn dollars(usage: Usage) -> f64 {
        price().cost(&usage) * 1e6
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        let usage = |input, cache_write, cache_read, output| Usage { input, cache_write, cache_read, output };
        for (usage, expected) in [
            (usage(10, 0, 0, 0), 10.0),
            (usage(0, 10, 0, 0), 12.5),
            (usage(0, 0, 10, 0), 1.0),
            (usage(0, 0, 0, 10), 100.0),
        ] {
            assert!((dollars(usage) - expected).abs() < 1e-9, "{usage:?}");
            assert!((price().in_batch().cost(&usage) * 2e6 - expected).abs() < 1e-9, "{usage:?} in a batch");
        }
        assert_eq!(price().in_batch().batch_factor, 1.0);
    }

    #[test]
    fn a_longer_prompt_changes_the_price_of_the_whole_request() {
        let usage = |input, cache_read| Usage { input, cache_write: 0, cache_read, output: 10 };
        assert!((dollars(usage(60, 40)) - (60.0 + 4.0 + 100.0)).abs() < 1e-9, "at the boundary");
        assert!((dollars(usage(60, 41)) - (120.0 + 8.2 + 150.0)).abs() < 1e-9, "cached tokens count");
        let many = price().cost_of_all(&usage(1_000, 0), 10);
        assert!(
            (many * 1e6 - (1_000.0 + 100.0)).abs() < 1e-9,
            "ten prompts of a hundred tokens are no long one"
        );
        assert!((dollars(usage(1_001, 0)) - (3_003.0 + 400.0)).abs() < 1e-9, "the highest tier reached");
    }

    #[test]
    fn the_most_is_never_below_the_bill() {
        let usage = Usage { input: 300, cache_write: 700, cache_read: 50, output: 90 };
        assert!(price().most(1_050.0, 90.0) >= price().cost(&usage));
        assert!((price().most(100.0, 10.0) * 1e6 - (125.0 + 100.0)).abs() < 1e-9);
        assert!((price().most(101.0, 10.0) * 1e6 - (2.0 * 101.0 * 1.25 + 150.0)).abs() < 1e-9);
    }
}
