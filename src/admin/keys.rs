//! `/api/keys`: virtual keys, made, listed, renewed and revoked. A secret is in the answer that
//! makes it, and in no other.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openai::error::ApiError;
use crate::store::BadParameter;
use crate::store::IssuedKey;
use crate::store::KeyError;
use crate::store::KeyQuery;
use crate::store::NewKey;
use crate::store::create_key;
use crate::store::grace;
use crate::store::page_of_keys;
use crate::store::revoke_key;
use crate::store::rotate_key;

use super::Parts;
use super::bad_parameter;
use super::now;
use super::reply;
use super::store_away;
use super::store_off;

/// For how long an old secret stays valid where nobody says so.
const GRACE: &str = "24h";

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(keys, create))
        .routes(routes!(revoke))
        .routes(routes!(rotate))
}

/// Pages of keys, the newest first, without their secrets.
#[utoipa::path(
    get,
    path = "/api/keys",
    params(
        ("revoked" = Option<bool>, Query, description = "true: those that are revoked, too"),
        ("limit" = Option<u32>, Query, description = "1 to 1000, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of keys", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn keys(
    State(parts): State<Parts>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let Some(database) = &parts.database else { return store_off() };
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = match KeyQuery::parse(parameters) {
        Ok(query) => query,
        Err(error) => return bad_parameter(error),
    };
    match page_of_keys(database, &query, now()).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => store_away(&error),
    }
}

/// Makes a key. Its secret, `key`, is shown this once. Gateways take it within 2 s.
#[utoipa::path(
    post,
    path = "/api/keys",
    request_body(content = serde_json::Value, description = "name; team; tags; models: patterns such as gpt-*; consent: none, log or train; importance: low, normal or high; expires: 90d or a time"),
    responses(
        (status = 201, description = "The key with its secret", body = serde_json::Value),
        (status = 400, description = "A body that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 409, description = "A living key has this name"),
        (status = 503, description = "The store is away"),
    )
)]
async fn create(State(parts): State<Parts>, body: Bytes) -> Response {
    let Some(database) = &parts.database else { return store_off() };
    let made = match NewKey::parse(&body) {
        Ok(new) => create_key(database, &new, now()).await,
        Err(error) => return bad_parameter(error),
    };
    issued(made)
}

/// Revokes a key: gateways refuse it within 2 s.
#[utoipa::path(
    delete,
    path = "/api/keys/{id}",
    params(("id" = String, Path, description = "An id, or a name: then all living keys of that name")),
    responses(
        (status = 200, description = "The key as it is now", body = serde_json::Value),
        (status = 404, description = "No living key is called so, or the store is switched off"),
        (status = 503, description = "The store is away"),
    )
)]
async fn revoke(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let Some(database) = &parts.database else { return store_off() };
    match revoke_key(database, &id, now()).await {
        // The last one is the one in force; older ones of its name were in their grace.
        Ok(mut revoked) => Json(revoked.pop()).into_response(),
        Err(error) => refused(error),
    }
}

/// Renews a key's secret: a new key of the same name and grant. The old secret stays valid for
/// `grace`.
#[utoipa::path(
    post,
    path = "/api/keys/{id}/rotate",
    params(("id" = String, Path, description = "An id or a name")),
    request_body(content = serde_json::Value, description = "grace: such as 24h, which it is when left out; 0 for none. The body may be left out, too"),
    responses(
        (status = 201, description = "The new key with its secret", body = serde_json::Value),
        (status = 400, description = "A body that cannot be used"),
        (status = 404, description = "No living key is called so, or the store is switched off"),
        (status = 503, description = "The store is away"),
    )
)]
async fn rotate(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    let Some(database) = &parts.database else { return store_off() };
    let grace = match grace_of(&body) {
        Ok(grace) => grace,
        Err(error) => return bad_parameter(error),
    };
    issued(rotate_key(database, &id, grace, now()).await)
}

fn grace_of(body: &[u8]) -> Result<std::time::Duration, BadParameter> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        grace: Option<String>,
    }
    if body.is_empty() {
        return grace(GRACE);
    }
    let given: Given = serde_json::from_slice(body).map_err(|error| BadParameter {
        name: "body".to_owned(),
        message: format!(r#"{error}; write {{"grace": "24h"}}, or nothing"#),
    })?;
    grace(given.grace.as_deref().unwrap_or(GRACE))
}

fn issued(made: Result<IssuedKey, KeyError>) -> Response {
    match made {
        Ok(key) => {
            let secret = [(header::CACHE_CONTROL, "no-store")];
            (StatusCode::CREATED, secret, Json(key)).into_response()
        }
        Err(error) => refused(error),
    }
}

fn refused(error: KeyError) -> Response {
    const INVALID: &str = "invalid_request_error";
    match error {
        KeyError::Wrong(error) => bad_parameter(error),
        KeyError::Taken(_) => {
            reply(&ApiError::new(409, INVALID, "name_taken", error.to_string()).param("name"))
        }
        KeyError::Unknown(_) => reply(&ApiError::new(404, INVALID, "not_found", error.to_string())),
        KeyError::Store(error) => store_away(&error),
        KeyError::Randomness => {
            reply(&ApiError::new(500, "api_error", "internal_error", error.to_string()))
        }
    }
}
