//! `/api/interactions`: what was captured, to be read and to be erased.

use axum::Json;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::response::Response;

use crate::openai::error::ApiError;
use crate::store::InteractionQuery;
use crate::store::Interactions;
use crate::store::Subject;
use crate::store::erase;

use super::Parts;
use super::bad_parameter;
use super::now;
use super::reply;
use super::store_away;
use super::store_off;

/// Pages of interactions, the newest first, without their bodies.
#[utoipa::path(
    get,
    path = "/api/interactions",
    params(
        ("since" = Option<String>, Query, description = "RFC 3339, or a duration before now such as 24h"),
        ("until" = Option<String>, Query, description = "The same; not part of the period"),
        ("route" = Option<String>, Query, description = "The rule that decided; likewise model, requested_model, response_model, response_id, upstream, key, team, session, endpoint, capture"),
        ("user" = Option<String>, Query, description = "The end user as the platform names it"),
        ("tag" = Option<String>, Query, description = "name:value; several must all hold"),
        ("status" = Option<u16>, Query, description = "HTTP status"),
        ("has_feedback" = Option<bool>, Query, description = "Whether somebody judged it"),
        ("q" = Option<String>, Query, description = "A text in the request or the answer, in whatever case. A page looks into 5,000 pairs; ask for the next one with after=last_id"),
        ("limit" = Option<u32>, Query, description = "1 to 1000, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of interactions", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
pub(super) async fn interactions(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let (Some(ledger), Some(recorder)) = (&parts.ledger, &parts.recorder) else {
        return store_off();
    };
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let hash = |user: &str| recorder.hash_user(user).to_string();
    let query = match InteractionQuery::parse(parameters, now(), hash) {
        Ok(query) => query,
        Err(error) => return bad_parameter(error),
    };
    match Interactions::of(ledger).page_in_use(&query).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => store_away(&error),
    }
}

/// One interaction with its bodies and what people think of it.
#[utoipa::path(
    get,
    path = "/api/interactions/{id}",
    params(("id" = String, Path, description = "An x-weir-id, or the answer's own id such as chatcmpl-…")),
    responses(
        (status = 200, description = "The interaction", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
pub(super) async fn interaction(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let Some(ledger) = &parts.ledger else { return store_off() };
    match Interactions::of(ledger).find(&id).await {
        Ok(Some(interaction)) => Json(interaction).into_response(),
        Ok(None) => {
            let id: String = id.chars().take(100).collect();
            let message = format!(
                "There is no interaction `{id}`. It may be on its way still, or not be kept."
            );
            reply(&ApiError::new(404, "invalid_request_error", "not_found", message))
        }
        Err(error) => store_away(&error),
    }
}

/// Erases what was said by a user, by a key or in a session until now: bodies, whose they were,
/// verdicts, lines of datasets. What it cost stays. What comes of it later from a spool is erased, too.
#[utoipa::path(
    delete,
    path = "/api/interactions",
    params(
        ("user" = Option<String>, Query, description = "The end user as the platform names it; exactly one of these three"),
        ("key" = Option<String>, Query, description = "The name of a key"),
        ("session" = Option<String>, Query, description = "A session"),
    ),
    responses(
        (status = 200, description = "What the erasure came to", body = serde_json::Value),
        (status = 400, description = "Not exactly one of the three"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store is away now. If it went away later, a gateway goes on with the erasure; asked once more, it is done again"),
    )
)]
pub(super) async fn erasure(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let (Some(ledger), Some(recorder)) = (&parts.ledger, &parts.recorder) else {
        return store_off();
    };
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let subject = Subject::parse(parameters, |user| recorder.hash_user(user).to_string());
    let subject = match subject {
        Ok(subject) => subject,
        Err(error) => return bad_parameter(error),
    };
    match erase(ledger.database(), &subject, now()).await {
        Ok(erasure) => {
            parts.metrics.capture_records("erased", erasure.erased);
            Json(erasure).into_response()
        }
        Err(error) => store_away(&error),
    }
}
