//! What reply headers say: limits of the account, and when to try again.

use crate::send::retry::Hints;
use std::time::{Duration, SystemTime};

/// Longest wait that a header can ask for; beyond it, the number is nonsense.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Limits a minute that a service told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: Option<u64>,
    /// Input tokens, counted apart.
    pub input_tokens: Option<u64>,
    /// Output tokens, counted apart.
    pub output_tokens: Option<u64>,
    /// Input and output tokens together.
    pub tokens: Option<u64>,
}

/// Reads the limits out of a reply's headers (lower-case names), of either provider.
pub fn limits<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Limits {
    let mut limits = Limits::default();
    for (name, value) in headers {
        let place = match name {
            "anthropic-ratelimit-requests-limit" | "x-ratelimit-limit-requests" => &mut limits.requests,
            "anthropic-ratelimit-input-tokens-limit" => &mut limits.input_tokens,
            "anthropic-ratelimit-output-tokens-limit" => &mut limits.output_tokens,
            "x-ratelimit-limit-tokens" => &mut limits.tokens,
            _ => continue,
        };
        *place = value.trim().parse().ok().filter(|limit| *limit > 0);
    }
    limits
}

/// Reads when to try again. A moment is compared with the service's own clock where it tells it.
pub fn hints<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>, now: SystemTime) -> Hints {
    let mut hints = Hints::default();
    let mut exact = None;
    let (mut date, mut moment) = (None, None);
    for (name, value) in headers {
        let value = value.trim();
        match name {
            "retry-after-ms" => exact = number(value, 1e-3),
            "retry-after" => {
                hints.retry_after = number(value, 1.0);
                moment = httpdate::parse_http_date(value).ok();
            }
            "date" => date = httpdate::parse_http_date(value).ok(),
            "x-should-retry" => hints.should_retry = value.parse().ok(),
            _ => {}
        }
    }
    let until =
        |moment: SystemTime| moment.duration_since(date.unwrap_or(now)).unwrap_or_default().min(LONGEST);
    hints.retry_after = exact.or(hints.retry_after).or(moment.map(until));
    hints
}

fn number(value: &str, unit_secs: f64) -> Option<Duration> {
    let secs = value.parse::<f64>().ok()? * unit_secs;
    (0.0..=LONGEST.as_secs_f64()).contains(&secs).then(|| Duration::from_secs_f64(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_providers() {
        let anthropic = limits([
            ("anthropic-ratelimit-requests-limit", "4000"),
            ("anthropic-ratelimit-input-tokens-limit", "400000"),
            ("anthropic-ratelimit-output-tokens-limit", "80000"),
        ]);
        assert_eq!(
            (anthropic.requests, anthropic.input_tokens, anthropic.output_tokens),
            (Some(4_000), Some(400_000), Some(80_000))
        );
        let openai =
            limits([("x-ratelimit-limit-requests", "500"), ("x-ratelimit-limit-tokens", "nonsense")]);
        assert_eq!((openai.requests, openai.tokens), (Some(500), None));
        assert_eq!(limits([("x-ratelimit-limit-requests", "0")]), Limits::default());
    }

    #[test]
    fn times_to_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let wait = |name, value| hints([(name, value)], now).retry_after.map(|wait| wait.as_millis());
        assert_eq!(wait("retry-after", "2"), Some(2_000));
        assert_eq!(wait("retry-after", "0.5"), Some(500));
        assert_eq!(wait("retry-after-ms", "250"), Some(250));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(7_000));
        let of_a_service_that_is_late = hints(
            [("retry-after", "Sun, 06 Nov 1994 08:44:37 GMT"), ("date", "Sun, 06 Nov 1994 08:44:33 GMT")],
            now,
        );
        assert_eq!(of_a_service_that_is_late.retry_after, Some(Duration::from_secs(4)));
        for nonsense in ["", "-1", "NaN", "inf", "1e30", "soon"] {
            assert_eq!(wait("retry-after", nonsense), None, "{nonsense}");
        }
        let both = hints([("retry-after-ms", "10"), ("retry-after", "9"), ("x-should-retry", "false")], now);
        assert_eq!(both, Hints { retry_after: Some(Duration::from_millis(10)), should_retry: Some(false) });
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(name in "(retry-after|retry-after-ms|x-should-retry|x-ratelimit-limit-tokens)", value in ".{0,40}") {
            let _ = hints([(name.as_str(), value.as_str())], SystemTime::now());
            let _ = limits([(name.as_str(), value.as_str())]);
        }
    }
}
