//! The errors that the gateway makes itself: each case of the contract's table, once.

use std::time::Duration;

use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use crate::limits::Kind;
use crate::limits::Refusal;
use crate::metering::money::Usd;
use crate::openai::error::ApiError;
use crate::policy::Why;
use crate::upstream::Failure;

use super::relay::Reply;

const INVALID: &str = "invalid_request_error";

pub(super) fn no_key() -> ApiError {
    ApiError::new(
        401,
        INVALID,
        "invalid_api_key",
        "No API key was given. Send it as `Authorization: Bearer KEY`; OpenAI's clients do so when \
         OPENAI_API_KEY is set.",
    )
}

/// The same for every key that opens nothing: who guesses learns nothing.
pub(super) fn wrong_key() -> ApiError {
    ApiError::new(
        401,
        INVALID,
        "invalid_api_key",
        "Incorrect API key provided: this gateway does not know it, or it was revoked or has \
         expired. Check it for typos, or ask the gateway's operator for another one.",
    )
}

pub(super) fn keys_not_loaded() -> ApiError {
    let message = "The gateway cannot read its keys yet. Try again later.";
    ApiError::new(503, "api_error", "server_overloaded", message)
}

pub(super) fn model_not_allowed(model: &str) -> ApiError {
    let model: String = model.chars().take(100).collect();
    let message = format!(
        "This API key may not use the model `{model}`. Ask for another model, or the gateway's \
         operator for another key."
    );
    ApiError::new(403, INVALID, "model_not_allowed", message).param("model")
}

/// A key that some models are not for, where nothing says which model is wanted.
pub(super) fn model_not_told(path: &str) -> ApiError {
    let path: String = path.chars().take(100).collect();
    let message = format!(
        "This API key may use certain models only, and this request to {path} does not say, or not \
         clearly, which one it wants. Name one `model`."
    );
    ApiError::new(403, INVALID, "model_not_allowed", message).param("model")
}

pub(super) fn not_found(path: &str) -> ApiError {
    let message =
        format!("There is nothing at {path}. The OpenAI API is below /v1, such as /v1/models.");
    ApiError::new(404, INVALID, "unknown_url", message)
}

pub(super) fn store_off() -> ApiError {
    let message = "`store` is off: this gateway keeps nothing of its calls.";
    ApiError::new(404, INVALID, "store_off", message)
}

pub(super) fn method_not_allowed(method: &http::Method) -> ApiError {
    ApiError::new(405, INVALID, "method_not_allowed", format!("{method} is not served here."))
}

pub(super) fn bad_head(message: &'static str) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

pub(super) fn bad_framing() -> ApiError {
    bad_head(
        "The request says its length in two ways (Content-Length, Transfer-Encoding) or in an \
         unusual one, its lines do not end with CR LF, or its target holds a `#`. Send one length, CR LF, and no fragment.",
    )
}

pub(super) fn too_large(limit: u64) -> ApiError {
    let message = format!(
        "The request's body is larger than the gateway's limit of {limit} bytes \
         (`limits.body`). Send less, or upload it as a file."
    );
    ApiError::new(413, INVALID, "request_too_large", message)
}

pub(super) fn slow_body() -> ApiError {
    ApiError::new(
        408,
        INVALID,
        "request_timeout",
        "The request's body came too slowly and was given up. Send it again.",
    )
}

pub(super) fn broken_body(reason: &str) -> ApiError {
    ApiError::bad_request(
        "invalid_request",
        format!("The request's body could not be read to its end: {reason}."),
    )
}

pub(super) fn encoded_body(encoding: &str) -> ApiError {
    ApiError::new(
        415,
        INVALID,
        "unsupported_content_encoding",
        format!("The request's body is encoded as `{encoding}`. Send it as plain JSON."),
    )
}

pub(super) fn upstream_credentials(upstream: &str) -> ApiError {
    ApiError::new(
        502,
        "api_error",
        "upstream_credentials",
        format!(
            "The gateway's own key was refused by `{upstream}`, or it has none. Nothing is wrong \
             with your request; the gateway's operator has to set or renew that key."
        ),
    )
}

/// An answer whose rest did not come.
pub(super) fn answer_cut(reason: &str) -> ApiError {
    let message = format!("The upstream ended the answer early: {reason}.");
    ApiError::new(502, "api_error", "upstream_unavailable", message)
}

/// What a failed call is to the client.
pub(super) fn of_failure(failure: &Failure) -> ApiError {
    let message = format!("No answer from upstream: {failure}.");
    match failure {
        Failure::Connect { .. } | Failure::Closed { .. } => {
            ApiError::new(502, "api_error", "upstream_unavailable", message)
        }
        Failure::Timeout { .. } => ApiError::new(504, "api_error", "upstream_timeout", message),
        Failure::Full { .. } => ApiError::new(503, "api_error", "server_overloaded", message),
        Failure::ClientBody(reason) => broken_body(reason),
    }
}

/// The policy wants this call's record on disk before its answer, and that cannot be.
pub(super) fn not_recorded() -> ApiError {
    let message = "This request may only be answered once its record is on disk, and it cannot be \
                   written now. Try again later.";
    ApiError::new(503, "api_error", "server_overloaded", message)
}

/// What a client is told whom a rule refuses.
pub(super) fn refused(why: &Why, model: &str) -> ApiError {
    match why {
        Why::Denied(message) => ApiError::new(403, INVALID, "policy_denied", message.clone()),
        Why::UnknownModel => {
            let model: String = model.chars().take(100).collect();
            let message = format!(
                "The model `{model}` does not exist here. GET /v1/models lists those that do."
            );
            ApiError::new(404, INVALID, "model_not_found", message).param("model")
        }
        Why::NoneFits(reason) => ApiError::bad_request(
            "no_model_fits",
            format!("None of the models that may take this request can: {reason}."),
        ),
        Why::TooLong { tokens, longest } => ApiError::bad_request(
            "context_length_exceeded",
            format!(
                "The prompt has {tokens} tokens, and the longest of the models that may take it                  holds {longest}. Send less."
            ),
        ),
    }
}

/// What a client is told whom a limit refuses.
pub(super) fn limited(refusal: &Refusal) -> ApiError {
    let limit = &refusal.limit;
    let (most, wanted) = (refusal.most, refusal.wanted);
    let rate = |kind, what: &str| {
        let message = match refusal.retry_after {
            Some(after) => format!(
                "Rate limit `{limit}` of {most} {what} per minute is reached. Try again in {} s.",
                after.as_secs_f64()
            ),
            None => format!(
                "The request is too large: it may take {wanted} {what}, and limit `{limit}` is \
                 {most} per minute. Send less, or ask for a shorter answer."
            ),
        };
        ApiError::new(429, kind, "rate_limit_exceeded", message)
    };
    match refusal.kind {
        Some(Kind::Requests) => rate("requests", "requests"),
        Some(Kind::Tokens) => rate("tokens", "tokens"),
        Some(Kind::Concurrent) => {
            let message = format!(
                "Limit `{limit}` of {most} calls at the same time is reached. Try again when one \
                 of them has ended."
            );
            ApiError::new(429, "requests", "rate_limit_exceeded", message)
        }
        Some(Kind::Budget) => {
            let usd = Usd::from_picodollars(most);
            let message = format!(
                "Budget `{limit}` of {usd} USD is spent, or what is left of it does not pay for \
                 this request."
            );
            ApiError::new(429, "insufficient_quota", "budget_exceeded", message)
        }
        None => {
            let message = format!(
                "Limit `{limit}` cannot be checked now, and lets nothing pass then. Try again later."
            );
            ApiError::new(503, "api_error", "server_overloaded", message)
        }
    }
}

pub(super) fn refused_count() -> ApiError {
    ApiError::new(500, "api_error", "internal_error", "The prompt's tokens could not be counted.")
}

pub(super) fn deadline(after: Duration) -> ApiError {
    let message = format!("No answer within the route's deadline of {} s.", after.as_secs_f64());
    ApiError::new(504, "api_error", "upstream_timeout", message)
}

/// The answer that carries an error.
pub(super) fn reply(error: &ApiError) -> Response<Reply> {
    let body = error.to_json();
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() =
        StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error == &bad_framing() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if error.status == 503 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
