//! Refusals in OpenAI's words: status, type, param and code of every error body the stand-in sends.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::simulator::knobs::Knobs;

/// An error answer. Unlike the gateway's own errors, OpenAI's often have `code: null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind: "invalid_request_error", message, param: None, code: None }
    }

    /// 400 `invalid_request_error`.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub(super) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(super) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// The body as a JSON value, as batches embed it.
    pub(super) fn to_value(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }

    pub(super) fn unparsable() -> Self {
        Self::bad(
            "We could not parse the JSON body of your request. (HINT: This likely means you \
             aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but \
             what was sent was not valid JSON. If you have trouble figuring out how to fix this, \
             please contact us through our help center at help.openai.com.)",
        )
    }

    pub(super) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::bad(format!("Missing required parameter: '{param}'."))
            .param(param)
            .code("missing_required_parameter")
    }

    pub(super) fn wrong_type(param: impl Into<String>, expected: &str, got: &Value) -> Self {
        let (param, got) = (param.into(), kind_of(got));
        Self::bad(format!(
            "Invalid type for '{param}': expected {expected}, but got {got} instead."
        ))
        .param(param)
        .code("invalid_type")
    }

    /// 404 for an object of ours that is not there: a file, a job, a response.
    pub(super) fn no_such(what: &str, id: &str) -> Self {
        Self::new(404, format!("No such {what} object: {id}")).param("id")
    }

    pub(super) fn no_model(model: &str) -> Self {
        let message =
            format!("The model `{model}` does not exist or you do not have access to it.");
        Self::new(404, message).code("model_not_found")
    }

    pub(super) fn no_key() -> Self {
        Self::new(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization \
             header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the password \
             field (with blank username) if you're accessing the API from your browser and are \
             prompted for a username and password. You can obtain an API key from \
             https://platform.openai.com/account/api-keys.",
        )
    }

    /// The key is shown as OpenAI shows it: its ends only.
    pub(super) fn wrong_key(key: &str) -> Self {
        let tail: String = key.chars().rev().take(4).collect();
        let tail: String = tail.chars().rev().collect();
        let message = format!(
            "Incorrect API key provided: sk-inval{}{tail}. You can find your API key at \
             https://platform.openai.com/account/api-keys.",
            "*".repeat(12)
        );
        Self::new(401, message).code("invalid_api_key")
    }

    pub(super) fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!(
            "Unknown request URL: {method} {path}. Please check the URL for typos, or see the \
             docs at https://platform.openai.com/docs/api-reference/."
        );
        Self::new(404, message).code("unknown_url")
    }

    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!(
            "Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP \
             method?)"
        );
        Self::new(405, message).code("method_not_supported")
    }

    /// The failure that a knob asks for, in the words OpenAI has for that status and code.
    pub(super) fn staged(knobs: &Knobs) -> Self {
        let base = staged_by_status(knobs.status.unwrap_or(500), knobs.retry_after_s());
        match knobs.code.as_deref() {
            None => base,
            Some("insufficient_quota") => Self::new(
                base.status,
                "You exceeded your current quota, please check your plan and billing details. \
                 For more information on this error, read the docs: \
                 https://platform.openai.com/docs/guides/error-codes/api-errors.",
            )
            .kind("insufficient_quota")
            .code("insufficient_quota"),
            Some("context_length_exceeded") => Self::new(
                base.status,
                "This model's maximum context length is 128000 tokens. However, your messages \
                 resulted in 131072 tokens. Please reduce the length of the messages.",
            )
            .param("messages")
            .code("context_length_exceeded"),
            Some(code) => base.code(code),
        }
    }
}

fn staged_by_status(status: u16, retry_after_s: f64) -> Refusal {
    match status {
        401 => Refusal::wrong_key("sk-invalid"),
        403 => Refusal::new(403, "You have insufficient permissions for this operation."),
        404 => Refusal::new(404, "The requested resource does not exist."),
        408 => Refusal::new(408, "Request timed out.").kind("server_error").code("timeout"),
        409 => Refusal::new(409, "The resource is locked by another request. Please try again.")
            .code("conflict"),
        429 => Refusal::new(
            429,
            format!(
                "Rate limit reached for requests in organization org-simulator on requests per \
                 min (RPM): Limit 10000, Used 10000, Requested 1. Please try again in \
                 {retry_after_s}s. Visit https://platform.openai.com/account/rate-limits to learn \
                 more."
            ),
        )
        .kind("requests")
        .code("rate_limit_exceeded"),
        503 => Refusal::new(
            503,
            "The server is currently overloaded with other requests. Sorry about that! You can \
             retry your request, or contact us through our help center at help.openai.com if the \
             error persists.",
        )
        .kind("server_error"),
        400..500 => Refusal::new(status, "The request was refused, as its knobs asked."),
        _ => Refusal::new(
            status,
            "The server had an error while processing your request. Sorry about that!",
        )
        .kind("server_error"),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec_pretty(&self.to_value()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
