//! Usage reported by a reply, in each service's way of counting. Impossible counts are ignored: the cost is
//! then unknown, not zero.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tokens of one reply, as the provider bills them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens at the full price.
    pub input: u64,
    /// Input tokens written to the provider's prompt cache.
    pub cache_write: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Output tokens, thinking included.
    pub output: u64,
}

/// More tokens than any real reply has.
const MOST: u64 = 100_000_000;

/// Maximum plausible output tokens that are known only from a total.
const MOST_UNNAMED: u64 = 1_000_000;

/// Error for an impossible count.
struct Impossible;

type Counted = Result<Option<u64>, Impossible>;

impl Usage {
    /// Usage of a chat completion. If the total exceeds the sum of its parts, the rest is thinking that is
    /// not in `completion_tokens` but billed as output.
    pub(super) fn of_completion(usage: Option<&Value>) -> Option<Self> {
        completion(usage?).ok().flatten()
    }

    /// Usage of a Messages reply.
    pub(super) fn of_message(usage: Option<&Value>) -> Option<Self> {
        message(usage?).ok().flatten()
    }

    /// Usage in either of the two formats.
    pub(super) fn of_either(usage: Option<&Value>) -> Option<Self> {
        match usage?.get("prompt_tokens") {
            Some(_) => Self::of_completion(usage),
            None => Self::of_message(usage),
        }
    }

    /// `None` if no real reply can have it, because no input was read.
    fn plausible(self) -> Option<Self> {
        (self.input + self.cache_write + self.cache_read > 0).then_some(self)
    }
}

fn completion(usage: &Value) -> Result<Option<Usage>, Impossible> {
    let prompt = first(usage, &["/prompt_tokens", "/input_tokens"])?;
    let said = first(usage, &["/completion_tokens", "/output_tokens"])?;
    let Some(prompt) = prompt else { return Ok(None) };
    let total = count(usage, "/total_tokens").unwrap_or(None);
    let read = largest(
        usage,
        &[
            "/prompt_tokens_details/cached_tokens",
            "/input_tokens_details/cached_tokens",
            "/prompt_cache_hit_tokens",
            "/cache_read_input_tokens",
            "/cached_tokens",
        ],
    )?;
    let written = largest(
        usage,
        &[
            "/prompt_tokens_details/cache_write_tokens",
            "/prompt_tokens_details/cache_creation_tokens",
            "/input_tokens_details/cache_write_tokens",
            "/cache_creation_input_tokens",
            "/cache_write_tokens",
        ],
    )?;
    let thinking = largest(
        usage,
        &[
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
            "/reasoning_tokens",
        ],
    )?;
    // Most services include cached tokens in the prompt's; some do not, which the totals reveal.
    let all_apart = prompt + read + written;
    let is_apart = |part: u64| {
        part > 0
            && (part > prompt || total.is_some_and(|total| Some(total) == said.map(|said| all_apart + said)))
    };
    let input = match (is_apart(read), is_apart(read + written)) {
        (true, _) => prompt,
        (false, true) => prompt - read,
        (false, false) => prompt - read - written,
    };
    let rest = total.and_then(|total| total.checked_sub(input + read + written));
    // A part cannot exceed the whole: if thinking is more than the output, it is not included in it.
    let own = said.map(|said| if thinking > said { said + thinking } else { said });
    let output = match (said, own, rest) {
        (Some(said), Some(own), Some(rest)) if rest > own => {
            let is_thinking = match thinking {
                0 => rest - said <= MOST_UNNAMED,
                thinking => rest <= said + thinking,
            };
            if is_thinking { rest } else { own }
        }
        (_, Some(own), _) => own,
        (_, None, Some(rest)) => rest,
        (_, None, None) => return Ok(None),
    };
    Ok(Usage { input, cache_write: written, cache_read: read, output }.plausible())
}

fn message(usage: &Value) -> Result<Option<Usage>, Impossible> {
    let (Some(input), Some(output)) = (count(usage, "/input_tokens")?, count(usage, "/output_tokens")?)
    else {
        return Ok(None);
    };
    let split = ["/cache_creation/ephemeral_5m_input_tokens", "/cache_creation/ephemeral_1h_input_tokens"];
    let mut written = 0;
    for part in split {
        written += count(usage, part)?.unwrap_or(0);
    }
    let cache_write = written.max(count(usage, "/cache_creation_input_tokens")?.unwrap_or(0));
    let cache_read = count(usage, "/cache_read_input_tokens")?.unwrap_or(0);
    Ok(Usage { input, cache_write, cache_read, output }.plausible())
}

/// A count, written as an integer, a decimal, or a text; `None` if it is not a number.
fn count(usage: &Value, pointer: &str) -> Counted {
    let number = match usage.pointer(pointer) {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else { return Ok(None) };
    if number.fract() != 0.0 || !(0.0..=MOST as f64).contains(&number) {
        return Err(Impossible);
    }
    Ok(Some(number as u64))
}

fn first(usage: &Value, pointers: &[&str]) -> Counted {
    for pointer in pointers {
        if let Some(found) = count(usage, pointer)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn largest(usage: &Value, pointers: &[&str]) -> Result<u64, Impossible> {
    let mut most = 0;
    for pointer in pointers {
        most = most.max(count(usage, pointer)?.unwrap_or(0));
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usage(input: u64, cache_write: u64, cache_read: u64, output: u64) -> Option<Usage> {
        Some(Usage { input, cache_write, cache_read, output })
    }

    #[test]
    fn completions_of_all_services() {
        let table = [
            ("plain", json!({"prompt_tokens": 210, "completion_tokens": 31}), usage(210, 0, 0, 31)),
            ("texts", json!({"prompt_tokens": "210", "completion_tokens": " 31 "}), usage(210, 0, 0, 31)),
            ("decimals", json!({"prompt_tokens": 210.0, "completion_tokens": "31.0"}), usage(210, 0, 0, 31)),
            (
                "OpenAI's prompt cache",
                json!({"prompt_tokens": 2_000, "completion_tokens": 31, "total_tokens": 2_031,
                    "prompt_tokens_details": {"cached_tokens": 1_200, "cache_write_tokens": 700}}),
                usage(100, 700, 1_200, 31),
            ),
            (
                "DeepSeek",
                json!({"prompt_tokens": 2_000, "completion_tokens": 31, "prompt_cache_hit_tokens": 1_984, "prompt_cache_miss_tokens": 16}),
                usage(16, 0, 1_984, 31),
            ),
            (
                "xAI: thinking is not in completion_tokens",
                json!({"prompt_tokens": 210, "completion_tokens": 9, "total_tokens": 419,
                    "completion_tokens_details": {"reasoning_tokens": 200}}),
                usage(210, 0, 0, 209),
            ),
            (
                "xAI without a total",
                json!({"prompt_tokens": 210, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 200}}),
                usage(210, 0, 0, 209),
            ),
            (
                "xAI: cached tokens are not in prompt_tokens",
                json!({"prompt_tokens": 50, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 160}}),
                usage(50, 0, 160, 9),
            ),
            (
                "apart, as the total shows",
                json!({"prompt_tokens": 500, "completion_tokens": 9, "total_tokens": 669, "prompt_tokens_details": {"cached_tokens": 160}}),
                usage(500, 0, 160, 9),
            ),
            (
                "Gemini: thinking is in the total alone",
                json!({"prompt_tokens": 210, "completion_tokens": 9, "total_tokens": 519}),
                usage(210, 0, 0, 309),
            ),
            (
                "OpenAI: thinking is in completion_tokens",
                json!({"prompt_tokens": 210, "completion_tokens": 209, "total_tokens": 419,
                    "completion_tokens_details": {"reasoning_tokens": 200}}),
                usage(210, 0, 0, 209),
            ),
            (
                "LiteLLM with Claude",
                json!({"prompt_tokens": 3_000, "completion_tokens": 31, "total_tokens": 3_031, "cache_creation_input_tokens": 900,
                    "cache_read_input_tokens": 2_000, "prompt_tokens_details": {"cached_tokens": 2_000, "cache_creation_tokens": 900}}),
                usage(100, 900, 2_000, 31),
            ),
            (
                "the total tells the rest",
                json!({"prompt_tokens": 210, "total_tokens": 241}),
                usage(210, 0, 0, 31),
            ),
            (
                "details as texts",
                json!({"prompt_tokens": 210, "completion_tokens": 31, "prompt_tokens_details": "none"}),
                usage(210, 0, 0, 31),
            ),
            (
                "a total that is wrong",
                json!({"prompt_tokens": 210, "completion_tokens": 31, "total_tokens": 1}),
                usage(210, 0, 0, 31),
            ),
            (
                "a total beyond all bounds",
                json!({"prompt_tokens": 210, "completion_tokens": 31, "total_tokens": 1e15}),
                usage(210, 0, 0, 31),
            ),
            ("empty", json!({}), None),
            ("a list", json!([]), None),
            ("a text", json!("none"), None),
            ("zeros", json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), None),
            ("half", json!({"prompt_tokens": 210}), None),
            ("no numbers", json!({"prompt_tokens": "many", "completion_tokens": true}), None),
            ("negative", json!({"prompt_tokens": -1, "completion_tokens": 31}), None),
            ("parts", json!({"prompt_tokens": 210.5, "completion_tokens": 31}), None),
            ("2^64 - 1", json!({"prompt_tokens": u64::MAX, "completion_tokens": 31}), None),
            ("beyond f64", json!({"prompt_tokens": "1e999", "completion_tokens": 31}), None),
            ("NaN", json!({"prompt_tokens": "NaN", "completion_tokens": 31}), None),
            ("too many", json!({"prompt_tokens": 210, "completion_tokens": 100_000_001}), None),
            (
                "too many cached",
                json!({"prompt_tokens": 210, "completion_tokens": 31, "cached_tokens": i64::MAX}),
                None,
            ),
        ];
        for (name, value, expected) in table {
            assert_eq!(Usage::of_completion(Some(&value)), expected, "{name}");
        }
        assert_eq!(Usage::of_completion(None), None);
    }

    #[test]
    fn messages() {
        let table = [
            (
                json!({"input_tokens": 7, "output_tokens": "2", "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4, "inference_geo": "us"}),
                usage(7, 3, 4, 2),
            ),
            (
                json!({"input_tokens": 7, "output_tokens": 2,
                    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 5}}),
                usage(7, 8, 0, 2),
            ),
            (json!({"input_tokens": 0, "output_tokens": 2, "cache_read_input_tokens": 4}), usage(0, 0, 4, 2)),
            (json!({"input_tokens": 0, "output_tokens": 0}), None),
            (json!({"input_tokens": 7}), None),
            (json!({"input_tokens": 7, "output_tokens": 9_007_199_254_740_993_u64}), None),
            (json!([]), None),
        ];
        for (value, expected) in table {
            assert_eq!(Usage::of_message(Some(&value)), expected, "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_counts_overflow(counts in proptest::collection::vec(proptest::num::u64::ANY, 6), small in 0..7_u32) {
            let at = |place: usize| counts[place] >> (small * 9);
            let value = json!({
                "prompt_tokens": at(0), "completion_tokens": at(1), "total_tokens": at(2), "input_tokens": at(0),
                "output_tokens": at(1), "cache_read_input_tokens": at(3), "cache_creation_input_tokens": at(4),
                "reasoning_tokens": at(5),
            });
            for usage in [Usage::of_completion(Some(&value)), Usage::of_message(Some(&value))].into_iter().flatten() {
                proptest::prop_assert!(usage.input + usage.cache_write + usage.cache_read + usage.output <= 5 * MOST);
            }
        }
    }
}
