//! `/api/webhooks`: where events are posted, what became of each, and once more.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::hooks::Message;
use crate::hooks::Receiver;
use crate::hooks::is_secret;
use crate::hooks::new_secret;
use crate::hooks::receivers;
use crate::openai::error::ApiError;
use crate::store::DeliveryQuery;
use crate::store::Endpoint;
use crate::store::StoreError;
use crate::store::Webhooks;
use crate::store::outbox::DeliveryCount;
use crate::store::outbox::Outbox;
use crate::store::outbox::message_id;

use super::Parts;
use super::fine_tune::Parameters;
use super::fine_tune::wrong;
use super::now;
use super::page::Page;
use super::reply;
use super::store_away;
use super::store_off;
use super::webhook_shape::Change;
use super::webhook_shape::Counts;
use super::webhook_shape::Given;
use super::webhook_shape::check;
use super::webhook_shape::delivery;
use super::webhook_shape::shown;

const TEST: &str = "webhook.test";
/// Characters of a URL.
const LONGEST_URL: usize = 2048;
/// Characters that are shown of what a receiver says.
const SHOWN: usize = 1000;
/// What comes in the way: an answer.
enum Refusal {
    Error(ApiError),
    Off,
    Store(StoreError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Refusal {
    fn answer(self) -> Response {
        match self {
            Self::Error(error) => reply(&error),
            Self::Off => store_off(),
            Self::Store(error) => store_away(&error),
        }
    }
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Parts> {
    OpenApiRouter::new()
        .routes(routes!(webhooks, create))
        .routes(routes!(webhook, change, delete))
        .routes(routes!(test))
        .routes(routes!(redeliver))
        .routes(routes!(deliveries))
}

/// Pages of webhooks, the newest first, then those of the policy.
#[utoipa::path(
    get,
    path = "/api/webhooks",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of webhooks, without their secrets", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn webhooks(State(parts): State<Parts>, parameters: Parameters) -> Response {
    page_of_webhooks(&parts, &parameters).await.unwrap_or_else(Refusal::answer)
}

/// One webhook.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}",
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "The webhook, without its secret", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn webhook(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let told = async {
        let receiver = found(&parts, &opened(&parts)?, &id).await?;
        Ok(Json(shown(&receiver, &counts(&parts).await?)).into_response())
    };
    told.await.unwrap_or_else(Refusal::answer)
}

/// Registers a receiver. Its `secret` is shown this once.
#[utoipa::path(
    post,
    path = "/api/webhooks",
    request_body(content = serde_json::Value, description = "url; events: names, or beginnings that end with *; secret: whsec_ and base64 of 24 to 64 bytes, made when left out; headers: fixed ones, for receivers that check no signature; enabled"),
    responses(
        (status = 201, description = "The webhook with its secret", body = serde_json::Value),
        (status = 400, description = "A field that cannot be used, such as a URL of a private address"),
        (status = 404, description = "The store is switched off"),
        (status = 503, description = "The store is away"),
    )
)]
async fn create(State(parts): State<Parts>, body: Bytes) -> Response {
    register(&parts, &body).await.unwrap_or_else(Refusal::answer)
}

/// Changes a webhook. Switched on again, it gets what happens from then on.
#[utoipa::path(
    patch,
    path = "/api/webhooks/{id}",
    params(("id" = String, Path, description = "The webhook's id")),
    request_body(content = serde_json::Value, description = "Any of url, events, headers, enabled"),
    responses(
        (status = 200, description = "The webhook as it is now", body = serde_json::Value),
        (status = 400, description = "A field that cannot be used"),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "It stands in the policy"),
        (status = 503, description = "The store is away"),
    )
)]
async fn change(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    let changed = async {
        let given: Change = parsed(&body)?;
        let webhooks = opened(&parts)?;
        let mut endpoint = registered(&parts, &webhooks, &id).await?;
        if let Some(url) = &given.url {
            check_url(&parts, url).await?;
        }
        given.apply(&mut endpoint);
        check(&endpoint)?;
        webhooks.put(&endpoint).await?;
        let receiver = Receiver::Endpoint(Box::new(endpoint));
        Ok(Json(shown(&receiver, &counts(&parts).await?)).into_response())
    };
    changed.await.unwrap_or_else(Refusal::answer)
}

/// Forgets a webhook and what waits for it.
#[utoipa::path(
    delete,
    path = "/api/webhooks/{id}",
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "It is deleted", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 409, description = "It stands in the policy"),
        (status = 503, description = "The store is away"),
    )
)]
async fn delete(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let deleted = async {
        let webhooks = opened(&parts)?;
        let endpoint = registered(&parts, &webhooks, &id).await?;
        webhooks.delete(endpoint.id).await?;
        let told = json!({ "object": "webhook.deleted", "id": endpoint.id, "deleted": true });
        Ok(Json(told).into_response())
    };
    deleted.await.unwrap_or_else(Refusal::answer)
}

/// Posts the event webhook.test at once, and answers with what the receiver said.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/test",
    params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "delivered; status and body of the receiver's answer, or an error", body = serde_json::Value),
        (status = 404, description = "There is none, or the store is switched off"),
        (status = 503, description = "The store is away"),
    )
)]
async fn test(State(parts): State<Parts>, Path(id): Path<String>) -> Response {
    let tested = async {
        let webhooks = opened(&parts)?;
        let receiver = found(&parts, &webhooks, &id).await?;
        Ok(Json(tried(&parts, &receiver).await).into_response())
    };
    tested.await.unwrap_or_else(Refusal::answer)
}

/// Posts again what was given up, and at once what waits for another try.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/redeliver",
    params(("id" = String, Path, description = "The webhook's id")),
    request_body(content = serde_json::Value, description = "delivery: the id of one, which may have been delivered, too. The body may be left out"),
    responses(
        (status = 202, description = "How many are posted again", body = serde_json::Value),
        (status = 400, description = "A body that cannot be used"),
        (status = 404, description = "There is no such webhook or delivery, or the store is switched off"),
        (status = 409, description = "The webhook is switched off"),
        (status = 503, description = "The store is away"),
    )
)]
async fn redeliver(State(parts): State<Parts>, Path(id): Path<String>, body: Bytes) -> Response {
    send_again(&parts, &id, &body).await.unwrap_or_else(Refusal::answer)
}

/// Pages of deliveries, the newest first; those that were given up with `state=dead`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/deliveries",
    params(
        ("id" = String, Path, description = "The webhook's id"),
        ("state" = Option<String>, Query, description = "pending, delivered or dead"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 when left out"),
        ("after" = Option<String>, Query, description = "last_id of the page before"),
        ("order" = Option<String>, Query, description = "desc (the newest first) or asc"),
    ),
    responses(
        (status = 200, description = "A list of deliveries", body = serde_json::Value),
        (status = 400, description = "A parameter that cannot be used"),
        (status = 404, description = "There is no such webhook, or the store is switched off"),
        (status = 503, description = "The store cannot be read now"),
    )
)]
async fn deliveries(
    State(parts): State<Parts>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Response {
    let listed = async {
        let (page, query) = asked(&parameters)?;
        let webhooks = opened(&parts)?;
        let receiver = found(&parts, &webhooks, &id).await?;
        let rows = webhooks.deliveries(&receiver.id(), &query).await?;
        Ok(page.shown(rows.iter().map(delivery).collect(), "id"))
    };
    listed.await.unwrap_or_else(Refusal::answer)
}

async fn register(parts: &Parts, body: &[u8]) -> Result<Response, Refusal> {
    let given: Given = parsed(body)?;
    let webhooks = opened(parts)?;
    let secret = match given.secret {
        Some(secret) if is_secret(&secret) => secret,
        Some(_) => {
            let message =
                "has to be whsec_ and base64 of 24 to 64 bytes; leave it out, and one is made";
            return Err(wrong("secret", message).into());
        }
        None => new_secret().ok_or_else(|| {
            let message = "The system gives no random bytes for a secret.";
            ApiError::new(500, "api_error", "internal_error", message)
        })?,
    };
    let endpoint = Endpoint {
        id: Uuid::now_v7(),
        created_at: now(),
        url: given.url,
        secret,
        headers: given.headers,
        events: given.events,
        enabled: given.enabled.unwrap_or(true),
        disabled_reason: None,
    };
    check(&endpoint)?;
    check_url(parts, &endpoint.url).await?;
    webhooks.put(&endpoint).await?;
    let made = endpoint.secret.clone();
    let mut told = shown(&Receiver::Endpoint(Box::new(endpoint)), &Counts::new());
    told["secret"] = made.into();
    let secret = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, secret, Json(told)).into_response())
}

/// Says where a URL must not lead.
async fn check_url(parts: &Parts, url: &str) -> Result<(), ApiError> {
    if url.len() > LONGEST_URL {
        return Err(wrong("url", &format!("has at most {LONGEST_URL} characters")));
    }
    let leads = parts.sender.outside().check(url).await;
    leads.map_err(|refused| wrong("url", &refused.to_string()))
}

async fn page_of_webhooks(parts: &Parts, parameters: &Parameters) -> Result<Response, Refusal> {
    let page = Page::newest().read(parameters)?;
    let (webhooks, counts) = (opened(parts)?, counts(parts).await?);
    let all = receivers(&parts.policy.current(), webhooks.list().await?);
    let mut all: Vec<Value> = all.iter().map(|receiver| shown(receiver, &counts)).collect();
    all.reverse();
    Ok(page.of(all, "id")?)
}

async fn tried(parts: &Parts, receiver: &Receiver) -> Value {
    let data = json!({ "webhook_id": receiver.id(), "message": "A test: nothing has happened." });
    let message = Message::new(message_id(), TEST, now(), &data);
    let said = parts.sender.post(receiver, &message).await;
    let delivered = said.as_ref().is_ok_and(|said| said.status.is_success());
    parts.metrics.hook_delivery(TEST, if delivered { "delivered" } else { "failed" });
    let (status, body, error) = match said {
        Ok(said) => {
            let body: String = String::from_utf8_lossy(&said.body).chars().take(SHOWN).collect();
            (Some(said.status.as_u16()), Some(body), None)
        }
        Err(reason) => (None, None, Some(reason)),
    };
    json!({
        "object": TEST, "message_id": message.id, "delivered": delivered,
        "status": status, "body": body, "error": error,
    })
}

async fn send_again(parts: &Parts, id: &str, body: &[u8]) -> Result<Response, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Which {
        delivery: Option<Uuid>,
    }
    let which: Which = if body.is_empty() { Which::default() } else { parsed(body)? };
    let webhooks = opened(parts)?;
    let receiver = found(parts, &webhooks, id).await?;
    if let Receiver::Endpoint(endpoint) = &receiver
        && !endpoint.enabled
    {
        let message =
            format!("The webhook `{id}` is switched off; PATCH it with enabled: true first.");
        return Err(ApiError::new(409, "invalid_request_error", "webhook_disabled", message).into());
    }
    let count = webhooks.redeliver(&receiver.id(), which.delivery, now()).await?;
    if let (0, Some(delivery)) = (count, which.delivery) {
        return Err(missing("delivery", &delivery.to_string()).into());
    }
    let told = json!({ "object": "webhook.redelivery", "id": id, "redelivered": count });
    Ok((StatusCode::ACCEPTED, Json(told)).into_response())
}

fn opened(parts: &Parts) -> Result<Webhooks, Refusal> {
    let database = parts.database.as_ref().ok_or(Refusal::Off)?;
    Ok(Webhooks::of(database)?)
}

/// One that the policy names, or that was registered.
async fn found(parts: &Parts, webhooks: &Webhooks, id: &str) -> Result<Receiver, Refusal> {
    let all = receivers(&parts.policy.current(), webhooks.list().await?);
    let found = all.into_iter().find(|receiver| receiver.id() == id);
    found.ok_or_else(|| missing("webhook", id).into())
}

async fn registered(parts: &Parts, webhooks: &Webhooks, id: &str) -> Result<Endpoint, Refusal> {
    match found(parts, webhooks, id).await? {
        Receiver::Endpoint(endpoint) => Ok(*endpoint),
        Receiver::Policy(..) => {
            let message = format!("The webhook `{id}` stands in the policy; change it there.");
            Err(ApiError::new(409, "invalid_request_error", "webhook_of_policy", message).into())
        }
    }
}

/// How many deliveries wait or are given up, by receiver and state.
async fn counts(parts: &Parts) -> Result<Counts, Refusal> {
    let database = parts.database.as_ref().ok_or(Refusal::Off)?;
    let counts = Outbox::of(database)?.counts().await?.into_iter();
    let counts = counts.map(|DeliveryCount { receiver, state, count }| ((receiver, state), count));
    Ok(counts.collect())
}

/// What is asked of a list of deliveries; one more than its page has.
fn asked(parameters: &[(String, String)]) -> Result<(Page, DeliveryQuery), ApiError> {
    let (mut page, mut query) = (Page::newest(), DeliveryQuery::default());
    for (name, value) in parameters {
        match name.as_str() {
            "state" if ["pending", "delivered", "dead"].contains(&value.as_str()) => {
                query.state = Some(value.clone());
            }
            "state" => return Err(wrong(name, "is pending, delivered or dead")),
            _ if page.set(name, value)? => {}
            _ => {
                return Err(wrong(
                    name,
                    "is no parameter; there are state, limit, after and order",
                ));
            }
        }
    }
    if let Some(after) = &page.after {
        let id = Uuid::try_parse(after).map_err(|_| wrong("after", "is no delivery's id"))?;
        query.after = Some(id);
    }
    (query.limit, query.ascending) = (page.limit + 1, page.ascending);
    Ok((page, query))
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| wrong("body", &error.to_string()))
}

fn missing(what: &str, id: &str) -> ApiError {
    let id: String = id.chars().take(100).collect();
    let message = format!("There is no {what} `{id}`.");
    ApiError::new(404, "invalid_request_error", "not_found", message)
}
