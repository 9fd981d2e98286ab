//! Refusals and errors, and how each service words them.

use crate::teacher_service::wire::Api;
use serde_json::{Value, json};

/// Why a request gets no answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    /// The error's type and code.
    pub(crate) kind: &'static str,
    pub(crate) code: &'static str,
    /// The offending field; it is counted under this name.
    pub(crate) field: String,
    /// Whether `param` names the field.
    pub(crate) tells_field: bool,
    pub(crate) message: String,
}

/// A body as it is sent.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    Json(Value),
    Text(String),
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Failure {
    /// A 400 about a field.
    pub(crate) fn bad(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", field, message)
    }

    /// A failure with a status and a type.
    pub(crate) fn new(
        status: u16,
        kind: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { status, kind, code: "", field: field.into(), tells_field: false, message: message.into() }
    }

    /// With a code.
    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    /// With `param`.
    pub(crate) fn param(self) -> Self {
        Self { tells_field: true, ..self }
    }

    fn told_field(&self) -> Value {
        if self.tells_field { json!(self.field) } else { Value::Null }
    }

    fn told_code(&self) -> Value {
        if self.code.is_empty() { Value::Null } else { json!(self.code) }
    }
}

/// Errors that clients of both APIs can read.
pub(crate) fn both(_: Api, failure: &Failure) -> Told {
    Told::Json(crate::teacher_service::wire::error(failure.kind, failure.code, &failure.message))
}

/// Anthropic's errors.
pub(crate) fn anthropic(_: Api, failure: &Failure) -> Told {
    Told::Json(json!({
        "type": "error", "error": {"type": failure.kind, "message": failure.message}, "request_id": "req_simulated",
    }))
}

/// OpenAI's errors.
pub(crate) fn openai(_: Api, failure: &Failure) -> Told {
    Told::Json(json!({"error": {
        "message": failure.message, "type": failure.kind, "param": failure.told_field(), "code": failure.told_code(),
    }}))
}

/// Each API's own errors, where a service speaks both.
pub(crate) fn by_api(api: Api, failure: &Failure) -> Told {
    match api {
        Api::Anthropic => anthropic(api, failure),
        Api::OpenAi => openai(api, failure),
    }
}

/// Google's errors: a list.
pub(crate) fn google(_: Api, failure: &Failure) -> Told {
    let status = match failure.status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    Told::Json(json!([{"error": {"code": failure.status, "message": failure.message, "status": status}}]))
}

/// Mistral's errors: no `error`; a list of details for fields.
pub(crate) fn mistral(_: Api, failure: &Failure) -> Told {
    let detail = || {
        json!([{
            "type": failure.code, "loc": ["body", failure.field], "msg": failure.message, "input": "max_tokens temperature",
        }])
    };
    Told::Json(match (failure.status, failure.code) {
        (401, _) => json!({"detail": failure.message}),
        (422, "extra_forbidden") => json!({
            "object": "error", "message": {"detail": detail()}, "type": "invalid_request_error", "param": null, "code": null,
        }),
        (422, _) => json!({"detail": detail()}),
        _ => json!({
            "object": "error", "message": failure.message, "type": failure.kind, "param": failure.told_field(),
            "code": "3051",
        }),
    })
}

/// xAI's errors: the code next to a text.
pub(crate) fn xai(_: Api, failure: &Failure) -> Told {
    let code = match failure.status {
        400 => "Client specified an invalid argument",
        401 | 403 => "The caller does not have permission to execute the specified operation",
        404 => "Some requested entity was not found",
        429 => "Some resource has been exhausted",
        _ => "Internal error",
    };
    Told::Json(json!({"code": code, "error": failure.message}))
}

/// OpenRouter's errors: the status as a code, and metadata.
pub(crate) fn openrouter(_: Api, failure: &Failure) -> Told {
    let metadata = if failure.status == 403 {
        json!({"reasons": ["violence"], "flagged_input": "…", "provider_name": "Simulated"})
    } else {
        json!({"provider_name": "Simulated"})
    };
    Told::Json(json!({"error": {"code": failure.status, "message": failure.message, "metadata": metadata}}))
}

/// Fireworks' errors: a text where the key is wrong, else an object.
pub(crate) fn fireworks(api: Api, failure: &Failure) -> Told {
    if failure.status == 401 {
        return Told::Json(json!({"error": failure.message}));
    }
    let Told::Json(mut value) = openai(api, failure) else { return openai(api, failure) };
    value["error"]["object"] = "error".into();
    Told::Json(value)
}

/// An error that is a text.
pub(crate) fn text(_: Api, failure: &Failure) -> Told {
    Told::Json(json!({"error": failure.message}))
}

/// vLLM's and SGLang's errors: status as code, no `error` around them in older versions.
pub(crate) fn vllm(api: Api, failure: &Failure) -> Told {
    if failure.status == 401 {
        return Told::Json(json!({"error": "Unauthorized"}));
    }
    let kind = match failure.status {
        404 => "NotFoundError",
        400 | 422 => "BadRequestError",
        _ => "InternalServerError",
    };
    match api {
        Api::Anthropic => anthropic(api, failure),
        Api::OpenAi => Told::Json(json!({"error": {
            "message": failure.message, "type": kind, "param": failure.told_field(), "code": failure.status,
        }})),
    }
}

/// SGLang's: the error itself is the body.
pub(crate) fn sglang(api: Api, failure: &Failure) -> Told {
    match (vllm(api, failure), api) {
        (Told::Json(value), Api::OpenAi) if value["error"].is_object() => {
            let mut error = value["error"].clone();
            error["object"] = "error".into();
            Told::Json(error)
        }
        (told, _) => told,
    }
}

/// llama.cpp's errors.
pub(crate) fn llama_cpp(_: Api, failure: &Failure) -> Told {
    Told::Json(json!({"error": {"code": failure.status, "message": failure.message, "type": failure.kind}}))
}

/// A gateway's errors: another service's words behind its own, and the status as a text.
pub(crate) fn gateway(_: Api, failure: &Failure) -> Told {
    Told::Json(json!({"error": {
        "message": format!("gateway.BadRequestError: ProviderException - {}", failure.message),
        "type": if failure.code.is_empty() { Value::Null } else { json!(failure.kind) },
        "param": null, "code": failure.status.to_string(),
    }}))
}

/// Plain-text errors of a simple server.
pub(crate) fn plain(_: Api, failure: &Failure) -> Told {
    Told::Text(failure.message.clone())
}
