//! Parses reply headers: limits of the account, and when to retry.

use crate::send::retry::Hints;
use std::time::{Duration, SystemTime};

/// Maximum plausible wait in a header.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Limits per minute reported by a service.
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

/// Whether a host is known to count `x-ratelimit-limit-requests` by the minute; Groq, for one, counts it by the day.
pub fn counts_by_the_minute(host: &str) -> bool {
    ["openai.com", "azure.com"]
        .iter()
        .any(|domain| host.strip_suffix(domain).is_some_and(|name| name.is_empty() || name.ends_with('.')))
}

/// Reads the limits out of a reply's headers (lower-case names), of either provider. `x-ratelimit-limit-requests` counts
/// where the service `believes_requests` are counted by the minute, or the time until it is reset says so.
pub fn limits<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>, believes_requests: bool) -> Limits {
    let mut limits = Limits::default();
    let (mut requests, mut remaining, mut reset) = (None, None, None);
    for (name, value) in headers {
        let count = || value.trim().parse().ok().filter(|limit| *limit > 0);
        match name {
            "anthropic-ratelimit-requests-limit" => limits.requests = count(),
            "anthropic-ratelimit-input-tokens-limit" => limits.input_tokens = count(),
            "anthropic-ratelimit-output-tokens-limit" => limits.output_tokens = count(),
            "x-ratelimit-limit-tokens" => limits.tokens = count(),
            "x-ratelimit-limit-requests" => requests = count(),
            "x-ratelimit-remaining-requests" => remaining = value.trim().parse::<u64>().ok(),
            "x-ratelimit-reset-requests" => reset = duration(value.trim()),
            _ => {}
        }
    }
    if let Some(limit) = requests
        && (believes_requests || remaining.zip(reset).is_some_and(|told| is_by_the_minute(limit, told)))
    {
        limits.requests = Some(limit);
    }
    limits
}

/// Whether the used part of a limit is restored at the rate of a per-minute limit.
fn is_by_the_minute(limit: u64, (remaining, reset): (u64, Duration)) -> bool {
    let used = limit.saturating_sub(remaining);
    let minute = reset.as_secs_f64() * limit as f64 / used.max(1) as f64;
    used > 0 && (30.0..=120.0).contains(&minute)
}

/// Parses when to retry. A date is compared with the service's own clock if it reports one.
pub fn hints<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>, now: SystemTime) -> Hints {
    let mut hints = Hints::default();
    let mut exact = None;
    let (mut date, mut moment) = (None, None);
    for (name, value) in headers {
        let value = value.trim();
        match name {
            "retry-after-ms" | "x-ms-retry-after-ms" => exact = number(value, 1e-3),
            "retry-after" => {
                hints.retry_after = number(value, 1.0).or_else(|| duration(value));
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

/// A duration such as `6m0s`, `1.5s` or `250ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut secs = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, more) = rest.split_at(digits);
        let letters = more.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(more.len());
        let (unit, more) = more.split_at(letters);
        let unit_secs = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        secs += count.parse::<f64>().ok()? * unit_secs;
        rest = more;
    }
    number(&secs.to_string(), 1.0).filter(|_| !text.is_empty())
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
        let anthropic = limits(
            [
                ("anthropic-ratelimit-requests-limit", "4000"),
                ("anthropic-ratelimit-input-tokens-limit", "400000"),
                ("anthropic-ratelimit-output-tokens-limit", "80000"),
                ("anthropic-priority-input-tokens-limit", "10"),
                ("anthropic-priority-output-tokens-limit", "10"),
            ],
            false,
        );
        assert_eq!(
            (anthropic.requests, anthropic.input_tokens, anthropic.output_tokens),
            (Some(4_000), Some(400_000), Some(80_000))
        );
        let openai =
            limits([("x-ratelimit-limit-requests", "500"), ("x-ratelimit-limit-tokens", "nonsense")], true);
        assert_eq!((openai.requests, openai.tokens), (Some(500), None));
        assert_eq!(limits([("x-ratelimit-limit-requests", "0")], true), Limits::default());
    }

    #[test]
    fn a_limit_by_the_day_is_not_taken_for_one_by_the_minute() {
        let told = |limit, remaining, reset| {
            let pairs = [
                ("x-ratelimit-limit-requests", limit),
                ("x-ratelimit-remaining-requests", remaining),
                ("x-ratelimit-reset-requests", reset),
                ("x-ratelimit-limit-tokens", "18000"),
            ];
            let limits = limits(pairs, false);
            assert_eq!(limits.tokens, Some(18_000));
            limits.requests
        };
        assert_eq!(told("14400", "14370", "2m59.56s"), None, "by the day");
        assert_eq!(told("14400", "14399", "6s"), None, "by the day");
        assert_eq!(told("500", "499", "120ms"), Some(500), "by the minute");
        assert_eq!(told("60", "0", "1m0s"), Some(60), "by the minute");
        for (remaining, reset) in [("500", "0s"), ("499", ""), ("499", "soon"), ("", "120ms")] {
            assert_eq!(told("500", remaining, reset), None, "{remaining} {reset}");
        }
        for host in ["api.openai.com", "eu.api.openai.com", "mine.openai.azure.com", "openai.com"] {
            assert!(counts_by_the_minute(host), "{host}");
        }
        for host in ["api.groq.com", "notopenai.com", "openai.com.example.org", "127.0.0.1", ""] {
            assert!(!counts_by_the_minute(host), "{host}");
        }
    }

    #[test]
    fn times_to_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let wait = |name, value| hints([(name, value)], now).retry_after.map(|wait| wait.as_millis());
        assert_eq!(wait("retry-after", "2"), Some(2_000));
        assert_eq!(wait("retry-after", "0.5"), Some(500));
        assert_eq!(wait("retry-after", "6m0s"), Some(360_000));
        assert_eq!(wait("retry-after", "1.5s"), Some(1_500));
        assert_eq!(wait("retry-after-ms", "250"), Some(250));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(7_000));
        let of_a_service_that_is_late = hints(
            [("retry-after", "Sun, 06 Nov 1994 08:44:37 GMT"), ("date", "Sun, 06 Nov 1994 08:44:33 GMT")],
            now,
        );
        assert_eq!(of_a_service_that_is_late.retry_after, Some(Duration::from_secs(4)));
        for nonsense in ["", "-1", "NaN", "inf", "1e30", "soon", "s", "5 s", "1x", "9999999h"] {
            assert_eq!(wait("retry-after", nonsense), None, "{nonsense}");
        }
        let both = hints([("retry-after-ms", "10"), ("retry-after", "9"), ("x-should-retry", "false")], now);
        assert_eq!(both, Hints { retry_after: Some(Duration::from_millis(10)), should_retry: Some(false) });
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(name in "(retry-after|retry-after-ms|x-should-retry|x-ratelimit-(limit|remaining|reset)-requests)", value in "([0-9.]{0,4}[a-z]{0,2}){0,3}|.{0,40}") {
            let _ = hints([(name.as_str(), value.as_str())], SystemTime::now());
            let _ = limits([(name.as_str(), value.as_str())], true);
        }
    }
}
