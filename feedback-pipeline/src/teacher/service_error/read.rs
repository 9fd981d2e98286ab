//! Parses errors in the formats of all services.

use super::ServiceError;
use crate::teacher::{decode, lenient};
use serde_json::{Map, Value};

/// Maximum nesting of errors within errors.
const DEEPEST: u32 = 6;
/// Maximum length of the message kept from a body of unknown format.
const LONGEST: usize = 300;

impl ServiceError {
    /// Parses the body of an error; if it is not JSON, the body is the message.
    pub fn read(body: &[u8]) -> Self {
        match decode::value(body) {
            Ok(value) => Self::of(&value),
            Err(_) => {
                let text = decode::text(body);
                let text = text.trim();
                let mut error = Self::default();
                error.say(text, 0);
                if error.message == text {
                    error.message = text.chars().take(LONGEST).collect();
                }
                error
            }
        }
    }

    /// Parses an error; if none of its fields are known, it is shown unchanged.
    pub(in crate::teacher) fn of(value: &Value) -> Self {
        let mut error = Self::default();
        error.fill(value, 0);
        if error.message.is_empty() && error.kind.is_empty() {
            error.message = value.to_string().chars().take(LONGEST).collect();
        }
        error
    }

    /// Fills in unknown fields from a value. Deeper values are closer to the cause and are read first.
    /// `input`, which echoes the request, is never read.
    fn fill(&mut self, value: &Value, depth: u32) {
        if depth > DEEPEST {
            return;
        }
        match value {
            Value::String(text) => self.say(text, depth),
            Value::Array(list) if list.iter().any(|entry| entry.get("msg").is_some()) => {
                self.violations(list)
            }
            Value::Array(list) => {
                if let Some(first) = list.first() {
                    self.fill(first, depth + 1);
                }
            }
            Value::Object(fields) => self.object(fields, depth),
            _ => {}
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, depth: u32) {
        let inner = [
            "error",
            "errors",
            "choices",
            "detail",
            "innererror",
            "message",
            "msg",
            "error_message",
            "Message",
        ];
        for inner in inner.iter().filter_map(|name| fields.get(*name)) {
            self.fill(inner, depth + 1);
        }
        let text = |name: &str| fields.get(name).map(as_text).unwrap_or_default();
        set(&mut self.kind, Some(text("type")).filter(|kind| kind != "error").unwrap_or_default());
        for code in ["code", "status", "status_code"].map(text) {
            self.status = self.status.or(code.parse().ok().filter(|status| (400..600).contains(status)));
        }
        // Google names the kind `status`.
        if text("status").parse::<u32>().is_err() {
            set(&mut self.kind, text("status"));
        }
        set(&mut self.code, text("code"));
        set(&mut self.param, text("param"));
        self.is_flagged |= self.code.eq_ignore_ascii_case("ResponsibleAIPolicyViolation");
        match fields.get("details") {
            // Anthropic puts finer codes there.
            Some(Value::Object(details)) => {
                set(&mut self.code, details.get("error_code").map(as_text).unwrap_or_default())
            }
            Some(Value::Array(details)) => details.iter().for_each(|detail| self.google_detail(detail)),
            _ => {}
        }
        if let Some(metadata) = fields.get("metadata") {
            self.is_flagged |= metadata.get("reasons").is_some() || metadata.get("flagged_input").is_some();
            self.upstream(metadata);
        }
    }

    /// What the service behind a gateway says.
    fn upstream(&mut self, metadata: &Value) {
        let Some(raw) = metadata.get("raw") else { return };
        let mut upstream = Self::default();
        upstream.fill(raw, 1);
        if !upstream.message.is_empty() && !self.message.contains(&upstream.message) {
            let separator = if self.message.is_empty() { "" } else { ": " };
            self.message = format!("{}{separator}{}", self.message, upstream.message);
        }
        self.adopt(upstream);
    }

    fn google_detail(&mut self, detail: &Value) {
        if let Some(reason) = detail.get("reason").and_then(Value::as_str) {
            reason.clone_into(&mut self.code);
        }
        let field = detail.pointer("/fieldViolations/0/field").map(as_text).unwrap_or_default();
        set(&mut self.param, field);
    }

    /// Fields that a validator refused: `[{"type", "loc": ["body", "field"], "msg"}]`.
    fn violations(&mut self, list: &[Value]) {
        let mut words = Vec::new();
        for entry in list.iter().filter(|entry| entry.is_object()) {
            let place = entry.get("loc").and_then(Value::as_array);
            let named = place.into_iter().flatten().filter_map(Value::as_str).next_back().unwrap_or_default();
            set(&mut self.param, named.to_owned());
            set(&mut self.code, entry.get("type").map(as_text).unwrap_or_default());
            let told = entry.get("msg").map(as_text).unwrap_or_default();
            words.push(if named.is_empty() { told } else { format!("{named}: {told}") });
        }
        set(&mut self.message, words.join("; "));
    }

    /// Takes a message, which may contain another error as JSON if a gateway forwarded it.
    fn say(&mut self, text: &str, depth: u32) {
        let text = text.trim();
        if text.is_empty() || !self.message.is_empty() {
            return;
        }
        if depth < DEEPEST
            && let Some(start) = text.find(['{', '['])
            && let Some((before, json)) = text.split_at_checked(start)
            && let Ok((value, _)) = lenient::prefix::<Value>(json)
        {
            let mut inner = Self::default();
            inner.fill(&value, depth + 1);
            if !inner.message.is_empty() {
                self.message = format!("{before}{}", inner.message);
                self.adopt(inner);
                return;
            }
        }
        text.clone_into(&mut self.message);
    }

    /// Fills in unknown fields, except for the message.
    fn adopt(&mut self, other: Self) {
        set(&mut self.kind, other.kind);
        set(&mut self.code, other.code);
        set(&mut self.param, other.param);
        self.status = self.status.or(other.status);
        self.is_flagged |= other.is_flagged;
    }
}

/// Fills a field that is empty.
fn set(field: &mut String, text: String) {
    if field.is_empty() {
        *field = text;
    }
}

/// A text or number as text.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_services_words_are_shown() {
        let table = [
            // Body; kind, code, param, message.
            (
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"r"}"#,
                ["rate_limit_error", "enforced_spend_limit_reached", "", "m"],
            ),
            (
                r#"{"error":{"message":"m","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}"#,
                ["invalid_request_error", "unsupported_value", "temperature", "m"],
            ),
            (
                r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]"#,
                ["INVALID_ARGUMENT", "400", "", "API key not valid."],
            ),
            (
                r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"},{"fieldViolations":[{"field":"response_format"}]}]}}"#,
                ["INVALID_ARGUMENT", "API_KEY_INVALID", "response_format", "m"],
            ),
            (
                r#"{"object":"error","message":"m","type":"invalid_model","param":null,"code":"1500"}"#,
                ["invalid_model", "1500", "", "m"],
            ),
            (
                r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"not permitted","input":"temperature"}]},"type":"invalid_request_error","param":null,"code":null}"#,
                [
                    "invalid_request_error",
                    "extra_forbidden",
                    "max_completion_tokens",
                    "max_completion_tokens: not permitted",
                ],
            ),
            (
                r#"{"detail":[{"loc":["body","messages",1,"content"],"msg":"expected a string","type":"string_type"},{"loc":["body","n"],"msg":"too many"}]}"#,
                ["", "string_type", "content", "content: expected a string; n: too many"],
            ),
            (r#"{"detail":"Not authenticated"}"#, ["", "", "", "Not authenticated"]),
            (r#"{"detail":{"error":"no such model"}}"#, ["", "", "", "no such model"]),
            (
                r#"{"code":"invalid-argument","error":"Model not found: x"}"#,
                ["", "invalid-argument", "", "Model not found: x"],
            ),
            (r#"{"error":"m","request_id":"r"}"#, ["", "", "", "m"]),
            (
                r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"temperature is not supported\",\"param\":\"temperature\"}}","provider_name":"p"}}}"#,
                ["", "400", "temperature", "Provider returned error: temperature is not supported"],
            ),
            (
                r#"{"error":{"message":"AnthropicException - {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}","type":null,"param":null,"code":"500"}}"#,
                ["overloaded_error", "500", "", "AnthropicException - Overloaded"],
            ),
            (
                r#"{"error":{"message":"{\"error\":{\"message\":\"inner\",\"code\":404}}"}}"#,
                ["", "404", "", "inner"],
            ),
            (r#"{"message":"Unauthorized","statusCode":401}"#, ["", "", "", "Unauthorized"]),
            (
                r#"{"errors":[{"code":7003,"message":"no route"}],"success":false}"#,
                ["", "7003", "", "no route"],
            ),
            (
                r#"{"type":"error","error":{"type":"error","error":{"type":"api_error","message":"m"}}}"#,
                ["api_error", "", "", "m"],
            ),
            (
                r#"{"choices":[{"error":{"code":502,"message":"lost"},"finish_reason":"error"}]}"#,
                ["", "502", "", "lost"],
            ),
            (r#"{"status":"failed"}"#, ["failed", "", "", ""]),
            (r#"{"ok":0}"#, ["", "", "", r#"{"ok":0}"#]),
            ("messages[1]: expected a string", ["", "", "", "messages[1]: expected a string"]),
            ("data: {\"error\":{\"message\":\"m\",\"code\":500}}\n\n", ["", "500", "", "m"]),
            ("", ["", "", "", ""]),
        ];
        for (body, expected) in table {
            let error = ServiceError::read(body.as_bytes());
            assert_eq!(
                [&error.kind, &error.code, &error.param, &error.message].map(String::as_str),
                expected,
                "{body}"
            );
            assert_eq!(error.to_string() == "no explanation", body.is_empty(), "{body}");
            let packed = decode::gzip(body);
            assert_eq!(ServiceError::read(&packed), error, "packed: {body}");
        }
    }

    #[test]
    fn deep_errors_end() {
        let deep = "{\"error\":".repeat(100) + "1" + &"}".repeat(100);
        assert!(!ServiceError::read(deep.as_bytes()).to_string().is_empty());
    }
}
