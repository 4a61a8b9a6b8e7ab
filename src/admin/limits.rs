//! `GET /api/limits`: how every limit of the policy in force stands.

use axum::extract::Query;
use axum::extract::State;
use axum::response::Response;
use chrono::DateTime;
use chrono::SecondsFormat;
use serde_json::Value;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::Kind;
use crate::limits::LimitState;
use crate::limits::Now;
use crate::metering::money::Usd;

use super::Parts;
use super::fine_tune::Parameters;
use super::page::Page;
use super::reply;

pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new().routes(routes!(limits))
}

/// How every limit stands: a line for each subject and for each of requests, tokens, concurrent and
/// budget. A limit that has not met a request yet has lines without a subject.
#[utoipa::path(
    get,
    path = "/api/limits",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 100, 100 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "asc (by id) or desc"),
    ),
    responses((status = 400, description = "A parameter that cannot be used"), (status = 200, description = "A list: id, name, per, subject, kind, window, limit, used, reserved, remaining, resets_at. Budgets are decimal strings in USD, the others numbers", body = Object))
)]
async fn limits(State(parts): State<Parts>, Query(parameters): Parameters) -> Response {
    let page = match Page::by_name().read(&parameters) {
        Ok(page) => page,
        Err(error) => return reply(&error),
    };
    let now = Now::read();
    let policy = parts.policy.current();
    let data: Vec<Value> =
        parts.limits.states(policy.limits(), now).iter().map(|state| line(state, now)).collect();
    page.of(data, "id").unwrap_or_else(|error| reply(&error))
}

fn line(state: &LimitState, now: Now) -> Value {
    let amount = |amount: i128| match state.kind {
        Kind::Budget => json!(Usd::from_picodollars(amount)),
        _ => json!(i64::try_from(amount).unwrap_or(i64::MAX)),
    };
    let resets_at = state.resets_in.and_then(|left| {
        let left = u64::try_from(left.as_millis()).ok()?;
        let at = i64::try_from(now.unix_ms.checked_add(left)?).ok()?;
        Some(DateTime::from_timestamp_millis(at)?.to_rfc3339_opts(SecondsFormat::Millis, true))
    });
    let kind = state.kind.as_str();
    json!({
        "object": "limit",
        "id": format!("{}/{}/{kind}", state.limit, state.subject.as_deref().unwrap_or_default()),
        "name": &*state.limit,
        "per": state.per,
        "subject": state.subject,
        "kind": kind,
        "window": Some(state.every).filter(|window| !window.is_empty()),
        "limit": amount(state.most),
        "used": amount(state.used),
        "reserved": amount(state.reserved),
        "remaining": amount(state.remaining),
        "resets_at": resets_at,
    })
}
