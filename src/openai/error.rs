//! An error in OpenAI's shape: what the gateway says when it answers itself.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

/// `{"error":{"message","type","param","code"}}` with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `type`: the error's class, such as `invalid_request_error`.
    pub kind: &'static str,
    /// `code`: the case, such as `invalid_json`.
    pub code: &'static str,
    /// `param`: the field of the request that is wrong.
    pub param: Option<Cow<'static, str>>,
    /// One sentence: what was wrong, where, and the cure.
    pub message: Cow<'static, str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl ApiError {
    /// A request that is wrong by itself: 400 `invalid_request_error`.
    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request_error", code, message)
    }

    /// Any case of the contract's table.
    pub fn new(
        status: u16,
        kind: &'static str,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, kind, code, param: None, message: message.into() }
    }

    /// The same, naming the request's field.
    #[must_use]
    pub fn param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Bytes {
        let inner = Inner {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.code,
        };
        serde_json::to_vec(&Envelope { error: inner }).unwrap_or_default().into()
    }
}
