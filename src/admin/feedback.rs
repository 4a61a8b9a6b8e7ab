//! `POST /api/feedback`: a verdict on a pair, for those who hold the control plane's token.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::response::Response;

use crate::redact::Kinds;
use crate::store::Verdict;

use super::Parts;
use super::bad_parameter;
use super::store_off;

/// Says what an answer was worth. The last verdict of each name counts. It may come before the
/// interaction is stored.
#[utoipa::path(
    post,
    path = "/api/feedback",
    request_body(content = serde_json::Value, description = "id: an x-weir-id, the answer's own id (chatcmpl-…, resp_…) or a session; name; value: a bool, a number, a text, or {demonstration: message}"),
    responses(
        (status = 200, description = "The verdict", body = serde_json::Value),
        (status = 400, description = "The body cannot be used"),
        (status = 404, description = "The store is switched off"),
    )
)]
pub(super) async fn feedback(
    State(parts): State<Parts>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(recorder) = &parts.recorder else { return store_off() };
    // Looked at before: see `idempotent`.
    let idempotency = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    match Verdict::parse(&body, "admin", idempotency) {
        Ok(mut verdict) => {
            let pii = parts.policy.current().redacts_pii();
            recorder.judge(&mut verdict, Kinds { secrets: true, pii });
            Json(verdict.to_json()).into_response()
        }
        Err(error) => bad_parameter(error),
    }
}
