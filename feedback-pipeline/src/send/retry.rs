//! Whether a failed attempt is repeated, after how long, or what happens instead: a pure function, tested as a table.

use crate::teacher::{ServiceError, final_for_item};
use std::time::Duration;

/// First wait between two attempts; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait, unless the service requests a longer one.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Bound for services that always answer `retry-after: 0`.
const MOST_ATTEMPTS: u32 = 50;
/// A damaged body may have been charged: it is requested fewer times.
const MOST_BROKEN: u32 = 8;
/// A reply that did not arrive in time may have been charged, so it is requested fewer times.
const MOST_TIMED_OUT: u32 = 3;

/// How an attempt failed.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The service answered with an error.
    Status {
        /// HTTP status.
        status: u16,
        /// Retry information in the headers.
        hints: Hints,
        /// The body.
        error: ServiceError,
    },
    /// No connection.
    Unreachable(String),
    /// The request was sent, and no complete reply arrived in time.
    TimedOut,
    /// A truncated reply, or not a reply of this API.
    Broken(String),
    /// The item's picture cannot be read any more, or has changed; nothing was sent.
    Picture(String),
}

/// Retry information in the headers of an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// `retry-after` or `retry-after-ms`.
    pub retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// The attempts made so far for one request.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Attempts made, the failed one included.
    pub attempts: u32,
    /// Those of them that timed out.
    pub timed_out: u32,
    /// Those of them whose reply was damaged.
    pub broken: u32,
    /// Time spent waiting between them.
    pub waited: Duration,
    /// Longest total wait.
    pub patience: Duration,
    /// A number from 0 to 1 for jitter.
    pub jitter: f64,
    /// Attempts that failed because of our own load: not counted against the request.
    pub by_load: u32,
    /// Times that a request that left after a failure of this one had a good reply before the next failure.
    pub contradicted: u32,
    /// When this request failed last.
    pub failed_at: Option<tokio::time::Instant>,
}

impl Effort {
    /// Nothing was tried yet.
    pub fn new(patience: Duration) -> Self {
        Self {
            attempts: 0,
            timed_out: 0,
            broken: 0,
            waited: Duration::ZERO,
            patience,
            jitter: 0.0,
            by_load: 0,
            contradicted: 0,
            failed_at: None,
        }
    }

    /// Counts a failed attempt: whether our own load caused it, and whether another request succeeded in the
    /// meantime.
    pub fn failed(&mut self, failure: &Failure, is_load: bool, contradicted: bool) {
        self.contradicted += u32::from(contradicted);
        if is_load {
            self.by_load += 1;
            return;
        }
        self.timed_out += u32::from(matches!(failure, Failure::TimedOut));
        self.broken += u32::from(matches!(failure, Failure::Broken(_)));
    }
}

impl Effort {
    /// Attempts that count against the request.
    pub fn counted(&self) -> u32 {
        self.attempts.saturating_sub(self.by_load)
    }

    /// Whether a failure may be about this request alone, and not about an overloaded service.
    pub fn may_be_the_items(&self, failure: &Failure) -> bool {
        matches!(failure, Failure::Status { status, .. } if !matches!(status, 429 | 503 | 529))
    }
}

impl Failure {
    /// Whether it says that the content is refused, regardless of the format.
    pub fn is_about_the_input(&self) -> bool {
        matches!(self, Self::Status { error, .. } if error.is_moderation())
    }

    /// Whether it says that the key lacks a permission.
    pub fn is_about_rights(&self) -> bool {
        let Self::Status { error, .. } = self else { return false };
        let names = [&error.kind, &error.code].map(|name| name.to_ascii_lowercase());
        names.iter().any(|name| name.starts_with("permission") || name == "access_denied")
    }

    /// In words.
    pub fn why(&self) -> String {
        match self {
            Self::Status { status, error, .. } => format!("HTTP {status}, {error}"),
            Self::Unreachable(why) | Self::Broken(why) | Self::Picture(why) => why.clone(),
            Self::TimedOut => "no reply in time (teacher.timeout_secs)".to_owned(),
        }
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The same request again after a wait.
    Again {
        /// How long to wait.
        after: Duration,
    },
    /// This item is rejected; others are not affected.
    Reject {
        /// Why.
        reason: String,
    },
    /// Either the key is not permitted, or this item is blocked: other requests decide.
    Forbidden {
        /// Why.
        why: String,
        /// What to do if the key is at fault.
        hint: &'static str,
    },
    /// The run stops.
    Stop {
        /// Why.
        why: String,
        /// What the user can do.
        hint: Option<&'static str>,
    },
    /// Retries are exhausted: the item is at fault if others succeed, the service if none does.
    GiveUp {
        /// The last failure.
        why: String,
        /// False if it is certainly not the item's fault: no connection, or a limit of the account.
        may_be_the_items: bool,
    },
}

/// Decides what a failed attempt leads to.
pub fn decide(failure: &Failure, effort: Effort) -> Decision {
    let give_up = |why: String| Decision::GiveUp { why, may_be_the_items: true };
    match failure {
        Failure::Status { status, hints, error } => decide_status(*status, *hints, error, effort),
        Failure::Unreachable(why) => again(None, effort, why, false),
        Failure::TimedOut if effort.timed_out >= MOST_TIMED_OUT => {
            give_up(format!("no reply in time in {MOST_TIMED_OUT} attempts (teacher.timeout_secs)"))
        }
        Failure::TimedOut => again(None, effort, "no reply in time", true),
        Failure::Broken(why) if effort.broken >= MOST_BROKEN => give_up(why.clone()),
        Failure::Broken(why) => again(None, effort, why, true),
        Failure::Picture(why) => Decision::Reject { reason: why.clone() },
    }
}

fn decide_status(status: u16, hints: Hints, error: &ServiceError, effort: Effort) -> Decision {
    let why = format!("HTTP {status}, {error}");
    if let Some(hint) = final_for_all(error.effective_status(status), error) {
        return Decision::Stop { why, hint: Some(hint) };
    }
    if status == 403 {
        return match final_for_item(status, error) {
            Some(reason) => Decision::Reject { reason },
            None => Decision::Forbidden { why, hint: FORBIDDEN },
        };
    }
    if let Some(reason) = final_for_item(status, error)
        && hints.should_retry != Some(true)
    {
        return Decision::Reject { reason };
    }
    let retryable = matches!(status, 408 | 409 | 429 | 500..=599);
    match hints.should_retry.unwrap_or(retryable) {
        true => again(hints.retry_after, effort, &why, status != 429),
        false if retryable => Decision::GiveUp { why, may_be_the_items: status != 429 },
        false => {
            Decision::Stop { why, hint: Some("check --base-url: this is not a reply of the expected API") }
        }
    }
}

const KEY: &str = "check the key in ANTHROPIC_API_KEY or OPENAI_API_KEY";
const FORBIDDEN: &str = "the key may not use this model or this service";

/// Credit, keys and names: no request of this run can succeed.
fn final_for_all(status: u16, error: &ServiceError) -> Option<&'static str> {
    const MONEY: &str = "raise the limit or add credit at the provider, then run the same command again; nothing is paid for twice";
    const MONEY_CODES: [&str; 9] = [
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "enforced_spend_limit_reached",
        "spend_limit_reached",
        "spend_limit_exceeded",
        "quota_exceeded",
    ];
    const MONEY_WORDS: [&str; 8] = [
        "credit balance",
        "insufficient credit",
        "insufficient balance",
        "insufficient funds",
        "spend limit",
        "spending limit",
        "api usage limits",
        "enforced_spend_limit_reached",
    ];
    let code = |known: &str| error.code == known || error.kind == known;
    let message = error.message.to_ascii_lowercase();
    if status == 402
        || MONEY_CODES.iter().any(|known| code(known))
        || (matches!(status, 400 | 403 | 429) && MONEY_WORDS.iter().any(|words| message.contains(words)))
    {
        return Some(MONEY);
    }
    match status {
        401 => Some(KEY),
        404 => Some("check --model and --base-url"),
        400 if code("model_not_found") => Some("check --model"),
        _ => None,
    }
}

fn again(asked: Option<Duration>, effort: Effort, why: &str, may_be_the_items: bool) -> Decision {
    let attempts = effort.counted().max(1);
    let doublings = (attempts - 1).min(16);
    let backoff =
        FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT).mul_f64(0.5 + 0.5 * effort.jitter);
    // A wait named by the service is respected, plus a few per cent of jitter; but not if it always says
    // "immediately".
    let least = backoff.min(FIRST_WAIT).mul_f64(if attempts > 1 { 1.0 } else { 0.0 });
    let after = asked
        .map_or(backoff, |asked| (asked + asked.min(FIRST_WAIT).mul_f64(0.2 * effort.jitter)).max(least));
    if attempts >= MOST_ATTEMPTS || effort.waited + after > effort.patience {
        return Decision::GiveUp { why: why.to_owned(), may_be_the_items };
    }
    Decision::Again { after }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effort(attempts: u32) -> Effort {
        Effort { attempts, jitter: 1.0, ..Effort::new(Duration::from_secs(600)) }
    }

    fn status(status: u16, hints: Hints, kind: &str, code: &str, message: &str) -> Failure {
        let error = ServiceError {
            kind: kind.into(),
            code: code.into(),
            message: message.into(),
            ..ServiceError::default()
        };
        Failure::Status { status, hints, error }
    }

    fn name(decision: &Decision) -> &'static str {
        match decision {
            Decision::Again { .. } => "again",
            Decision::Reject { .. } => "reject",
            Decision::Stop { .. } => "stop",
            Decision::Forbidden { .. } => "forbidden",
            Decision::GiveUp { .. } => "give up",
        }
    }

    #[test]
    fn table_of_statuses() {
        let none = Hints::default();
        let yes = Hints { should_retry: Some(true), ..none };
        let no = Hints { should_retry: Some(false), ..none };
        let table = [
            (status(408, none, "timeout_error", "", ""), "again"),
            (status(409, none, "", "", ""), "again"),
            (status(429, none, "rate_limit_error", "", "slow down"), "again"),
            (status(429, none, "", "rate_limit_exceeded", ""), "again"),
            (status(500, none, "api_error", "", ""), "again"),
            (status(502, none, "", "", "<html>"), "again"),
            (status(503, none, "", "", ""), "again"),
            (status(529, none, "overloaded_error", "", ""), "again"),
            (status(529, no, "overloaded_error", "", ""), "give up"),
            (status(429, no, "rate_limit_error", "", ""), "give up"),
            (status(400, yes, "invalid_request_error", "", "try again"), "again"),
            (status(418, yes, "", "", ""), "again"),
            (status(418, none, "", "", ""), "stop"),
            (status(301, none, "", "", ""), "stop"),
            (status(401, none, "authentication_error", "", ""), "stop"),
            (status(403, none, "permission_error", "", ""), "forbidden"),
            (status(403, none, "", "403", "Your input was flagged for \"violence\"."), "reject"),
            (status(403, none, "", "invalid_api_key", ""), "stop"),
            (status(403, none, "", "", "Insufficient credits"), "stop"),
            (status(400, none, "", "400", "API key not valid. Please pass a valid API key."), "stop"),
            (status(404, none, "not_found_error", "", "model: nope"), "stop"),
            (status(402, none, "billing_error", "", ""), "stop"),
            (status(429, none, "", "insufficient_quota", ""), "stop"),
            (status(429, yes, "", "insufficient_quota", ""), "stop"),
            (status(429, none, "insufficient_quota", "", ""), "stop"),
            (status(429, none, "rate_limit_error", "enforced_spend_limit_reached", ""), "stop"),
            (status(429, none, "rate_limit_error", "", "enforced_spend_limit_reached"), "stop"),
            (
                status(
                    400,
                    none,
                    "invalid_request_error",
                    "",
                    "Your credit balance is too low to access the API",
                ),
                "stop",
            ),
            (
                status(
                    400,
                    none,
                    "invalid_request_error",
                    "",
                    "You have reached your specified API usage limits.",
                ),
                "stop",
            ),
            (status(400, none, "", "model_not_found", ""), "stop"),
            (status(400, none, "invalid_request_error", "", "messages: bad"), "reject"),
            (status(400, none, "", "context_length_exceeded", ""), "reject"),
            (status(400, none, "invalid_request_error", "", "prompt is too long: 9 tokens"), "reject"),
            (status(413, none, "request_too_large", "", ""), "reject"),
            (status(422, none, "", "", "unprocessable"), "reject"),
            (Failure::Unreachable("refused".into()), "again"),
            (Failure::Broken("cut off".into()), "again"),
            (Failure::TimedOut, "again"),
        ];
        for (failure, expected) in table {
            assert_eq!(name(&decide(&failure, effort(1))), expected, "{failure:?}");
        }
    }

    #[test]
    fn reasons_of_rejects() {
        let error = ServiceError { message: "prompt is too long".into(), ..ServiceError::default() };
        assert_eq!(final_for_item(400, &error), Some("request too large".into()));
        let error = ServiceError { kind: "x".into(), message: "y".into(), ..ServiceError::default() };
        assert_eq!(final_for_item(400, &error), Some("bad request: x: y".into()));
        assert_eq!(final_for_item(500, &error), None);
    }

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let wait = |attempts| match decide(&Failure::Unreachable(String::new()), effort(attempts)) {
            Decision::Again { after } => after.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(1), wait(2), wait(3), wait(8), wait(40)), (500, 1_000, 2_000, 60_000, 60_000));
        assert_eq!(name(&decide(&Failure::Unreachable(String::new()), effort(50))), "give up");
        let failures = |failures: &[(Failure, u32)]| {
            let mut effort = effort(0);
            for (failure, times) in failures {
                (0..*times).for_each(|_| effort.failed(failure, false, false));
                effort.attempts += times;
            }
            name(&decide(&failures.last().expect("a failure").0, effort))
        };
        let (broken, late) = (|| Failure::Broken(String::new()), || Failure::TimedOut);
        let refused = || status(429, Hints::default(), "", "", "slow down");
        assert_eq!(failures(&[(broken(), 8)]), "give up");
        assert_eq!(failures(&[(late(), 3)]), "give up");
        assert_eq!(failures(&[(refused(), 9), (broken(), 7)]), "again", "refusals are no broken replies");
        assert_eq!(failures(&[(broken(), 2), (refused(), 3), (late(), 2)]), "again");
        let late = Effort { waited: Duration::from_secs(600), ..effort(2) };
        assert_eq!(name(&decide(&Failure::Unreachable(String::new()), late)), "give up");
    }

    #[test]
    fn service_names_the_wait() {
        let hints = Hints { retry_after: Some(Duration::from_secs(7)), should_retry: None };
        let calm = Effort { jitter: 0.0, ..effort(1) };
        assert_eq!(
            decide(&status(429, hints, "", "", ""), calm),
            Decision::Again { after: Duration::from_secs(7) }
        );
        let too_long = Hints { retry_after: Some(Duration::from_secs(3_600)), should_retry: None };
        for (code, fault) in [(429, false), (503, true)] {
            let Decision::GiveUp { may_be_the_items, .. } = decide(&status(code, too_long, "", "", ""), calm)
            else {
                panic!("{code} waits");
            };
            assert_eq!(may_be_the_items, fault, "{code}");
        }
    }
}
