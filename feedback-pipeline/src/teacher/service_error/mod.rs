//! Errors of all services in a common form, and the status that they mean.

mod read;

/// An error, in the form common to all services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceError {
    /// For instance `rate_limit_error` or `RESOURCE_EXHAUSTED`; empty if there is none.
    pub kind: String,
    /// For instance `insufficient_quota`; empty if there is none.
    pub code: String,
    /// The field of the request that was refused; empty if none is named.
    pub param: String,
    /// In words.
    pub message: String,
    /// HTTP status that the error names itself.
    pub status: Option<u16>,
    /// True if a moderation service flagged the request.
    pub is_flagged: bool,
}

impl ServiceError {
    /// An error of which only the message is known.
    pub(super) fn saying(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// The error with a kind.
    pub(super) fn of_kind(self, kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..self }
    }

    /// True if the content of the request was refused, not its form or its key: a fault of one item.
    pub fn is_moderation(&self) -> bool {
        const CODES: [&str; 10] = [
            "content_filter",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "data_inspection_failed",
            "moderation_blocked",
            "moderation_error",
            "content_moderation",
            "moderation",
            "prohibited_content",
            "invalid_prompt",
        ];
        const WORDS: [&str; 7] = [
            "flagged",
            "moderation",
            "content policy",
            "content filter",
            "content management policy",
            "violates usage guidelines",
            "inappropriate content",
        ];
        self.is_flagged || self.names(&CODES) || self.says(&WORDS)
    }

    /// True if the key was not accepted.
    fn is_bad_key(&self) -> bool {
        let wrong =
            ["valid", "incorrect", "missing", "expired", "not found", "provide", "required", "revoked"];
        self.names(&[
            "authentication_error",
            "unauthenticated",
            "unauthorized",
            "invalid_api_key",
            "api_key_invalid",
            "invalid_authentication",
            "account_deactivated",
        ]) || (self.says(&["api key", "api-key", "api_key", "apikey"]) && self.says(&wrong))
    }

    /// The effective status: that of the reply, except for errors inside a 2xx, whose named status is used,
    /// and for keys refused with 400 or 403.
    pub fn effective_status(&self, http_status: u16) -> u16 {
        let status = match http_status {
            200..=299 => self.named_status(),
            other => other,
        };
        if matches!(status, 400 | 403) && self.is_bad_key() { 401 } else { status }
    }

    /// The status that an error names by number, kind or words; 502 if it names none.
    fn named_status(&self) -> u16 {
        if let Some(status) = self.status {
            return status;
        }
        const BY_NAME: [(u16, &[&str]); 11] = [
            (
                402,
                &[
                    "insufficient_quota",
                    "billing_error",
                    "billing_not_active",
                    "billing_hard_limit_reached",
                    "insufficient_balance",
                    "insufficient_credits",
                    "payment_required",
                    "quota_exceeded",
                ],
            ),
            (
                429,
                &[
                    "rate_limit_error",
                    "rate_limit_exceeded",
                    "rate_limit",
                    "rate_limited",
                    "too_many_requests",
                    "resource_exhausted",
                    "throttling",
                    "throttlingexception",
                    "tokens",
                    "requests",
                ],
            ),
            (529, &["overloaded_error", "overloaded"]),
            (
                503,
                &[
                    "unavailable",
                    "service_unavailable",
                    "service_unavailable_error",
                    "engine_overloaded_error",
                    "engine_overloaded",
                    "server_overloaded",
                    "insufficient_system_resource",
                    "model_loading",
                ],
            ),
            (
                401,
                &[
                    "authentication_error",
                    "invalid_api_key",
                    "unauthenticated",
                    "unauthorized",
                    "api_key_invalid",
                ],
            ),
            (403, &["permission_error", "permission_denied", "forbidden", "access_denied"]),
            (404, &["not_found_error", "not_found", "model_not_found"]),
            (413, &["request_too_large"]),
            (504, &["timeout_error", "deadline_exceeded", "gateway_timeout", "timeout", "request_timeout"]),
            (500, &["api_error", "internal", "internal_error", "server_error", "internal_server_error"]),
            (
                400,
                &[
                    "invalid_request_error",
                    "invalid_argument",
                    "bad_request",
                    "failed_precondition",
                    "context_length_exceeded",
                    "invalid_prompt",
                    "content_filter",
                    "unsupported_value",
                    "unsupported_parameter",
                ],
            ),
        ];
        const BY_WORDS: [(u16, &[&str]); 6] = [
            (
                402,
                &[
                    "insufficient credit",
                    "insufficient balance",
                    "insufficient funds",
                    "credit balance",
                    "payment required",
                ],
            ),
            (429, &["rate limit", "rate-limit", "too many requests", "quota exceeded"]),
            (503, &["overloaded", "at capacity", "unavailable", "try again later"]),
            (504, &["timed out", "timeout", "deadline"]),
            (401, &["unauthorized", "authentication failed", "not authenticated"]),
            (404, &["model not found", "no such model", "not found, try pulling"]),
        ];
        if self.is_moderation() {
            return 403;
        }
        let by_name = BY_NAME.iter().find(|(_, names)| self.names(names));
        let by_words = || BY_WORDS.iter().find(|(_, words)| self.says(words));
        match by_name.or_else(by_words) {
            Some((status, _)) => *status,
            None if self.is_bad_key() => 401,
            None => 502,
        }
    }

    /// True if kind or code is one of these.
    fn names(&self, known: &[&str]) -> bool {
        [&self.kind, &self.code].iter().any(|name| known.iter().any(|known| name.eq_ignore_ascii_case(known)))
    }

    /// True if the message holds any of these words.
    fn says(&self, words: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        words.iter().any(|words| message.contains(words))
    }
}

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        let message: String = message.chars().take(300).collect();
        match (self.kind.is_empty(), message.is_empty()) {
            (true, true) => f.write_str("no explanation"),
            (true, false) => f.write_str(&message),
            (false, true) => f.write_str(&self.kind),
            (false, false) => write!(f, "{}: {message}", self.kind),
        }
    }
}

/// Reject reason of a request that no service would accept.
pub const TOO_LARGE: &str = "request too large";

/// Errors of one request. Also classifies a stored error reply.
pub fn final_for_item(status: u16, error: &ServiceError) -> Option<String> {
    let too_large = status == 413
        || error.names(&["context_length_exceeded", "request_too_large"])
        || error.says(&["prompt is too long", "maximum context length", "context window"]);
    match status {
        400 | 413 | 422 if too_large => Some(TOO_LARGE.to_owned()),
        400 | 403 | 422 | 451 if error.is_moderation() => Some(format!("refusal: {error}")),
        400 | 422 if !error.is_bad_key() => Some(format!("bad request: {error}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_200_stand_for_the_status_they_name() {
        let table = [
            (r#"{"error":{"message":"Provider returned error","code":429}}"#, 429),
            (r#"{"error":{"message":"slow down","code":"429"}}"#, 429),
            (r#"{"error":{"message":"No credit left","code":402}}"#, 402),
            (r#"{"error":{"message":"Insufficient balance","code":"1113"}}"#, 402),
            (r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota"}}"#, 402),
            (r#"{"type":"error","error":{"type":"rate_limit_error","message":"m"}}"#, 429),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#, 529),
            (r#"{"type":"error","error":{"type":"timeout_error","message":"m"}}"#, 504),
            (r#"{"type":"error","error":{"type":"authentication_error","message":"m"}}"#, 401),
            (r#"{"type":"error","error":{"type":"api_error","message":"m"}}"#, 500),
            (r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]"#, 429),
            (r#"[{"error":{"message":"m","status":"UNAVAILABLE"}}]"#, 503),
            (
                r#"{"error":{"code":400,"message":"API key not valid. Please pass one.","status":"INVALID_ARGUMENT"}}"#,
                401,
            ),
            (r#"{"error":"Rate limit reached for requests"}"#, 429),
            (r#"{"error":"The model is overloaded"}"#, 503),
            (r#"{"error":"Request timed out"}"#, 504),
            (r#"{"error":"Invalid API key provided"}"#, 401),
            (r#"{"error":{"code":403,"message":"Your input was flagged for \"x\"."}}"#, 403),
            (r#"{"error":{"message":"m","type":"invalid_request_error","param":"temperature"}}"#, 400),
            (r#"{"detail":"Not authenticated"}"#, 401),
            (r#"{"error":"hm"}"#, 502),
            (r#"{"error":{"code":1302,"message":"hm"}}"#, 502),
        ];
        for (body, status) in table {
            assert_eq!(ServiceError::read(body.as_bytes()).effective_status(200), status, "{body}");
        }
        let key = ServiceError::read(
            br#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]"#,
        );
        assert_eq!((key.effective_status(400), key.effective_status(503)), (401, 503));
        assert_eq!(ServiceError::saying("messages: bad").effective_status(400), 400);
    }

    #[test]
    fn flagged_items_are_refused_alone() {
        let flagged = [
            (
                403,
                r#"{"error":{"code":403,"message":"m","metadata":{"reasons":["violence"],"flagged_input":"the text"}}}"#,
            ),
            (
                400,
                r#"{"error":{"code":"content_filter","message":"filtered","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            ),
            (400, r#"{"error":{"code":"data_inspection_failed","message":"m"}}"#),
            (403, r#"{"code":"x","error":"Content violates usage guidelines."}"#),
        ];
        for (status, body) in flagged {
            let error = ServiceError::read(body.as_bytes());
            let reason = final_for_item(status, &error).unwrap();
            assert!(error.is_moderation() && reason.starts_with("refusal: "), "{body}: {reason}");
            assert!(!reason.contains("the text"), "{reason}");
        }
        let other = ServiceError::read(
            br#"{"error":{"type":"permission_error","message":"The key may not use this model"}}"#,
        );
        assert_eq!((other.is_moderation(), final_for_item(403, &other)), (false, None));
    }
}
