//! `Idempotency-Key`: a POST that is sent twice is done once, whichever route it is for.
//!
//! A fine-tune job keeps its key in its own row, for good: training twice costs most.

use axum::body::Body;
use axum::body::Bytes;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::extract::State;
use axum::http::Method;
use axum::http::request;
use axum::middleware::Next;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::OpenApi;
use utoipa::openapi::Required;
use utoipa::openapi::path::ParameterBuilder;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::schema::Type;

use crate::openai::error::ApiError;
use crate::store::Asked;
use crate::store::Claim;
use crate::store::Idempotency;
use crate::store::Turn;
use crate::store::idempotency_key;

use super::Parts;
use super::reply;
use super::store_away;

const NAME: &str = "Idempotency-Key";
/// Who keeps its keys itself.
const FINE_TUNE: &str = "/api/fine-tune";
/// Who goes on while the store is away: a verdict is spooled, and its id comes from the key.
const FEEDBACK: &str = "/api/feedback";
/// Bytes of a body that comes with a key; none that is accepted without one is longer.
const LARGEST_BODY: usize = 16 << 20;

/// Lets a request through once for each key.
pub(super) async fn once(State(parts): State<Parts>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let guarded = path.starts_with("/api/") && path != FINE_TUNE;
    if request.method() != Method::POST || !guarded {
        return next.run(request).await;
    }
    let key = match idempotency_key(request.headers().get(NAME)) {
        Ok(key) => key.map(str::to_owned),
        Err(error) => return reply(&error),
    };
    let (Some(key), Some(idempotency)) = (key, parts.idempotency.clone()) else {
        return next.run(request).await;
    };
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        let message =
            format!("A body that comes with an Idempotency-Key has at most {LARGEST_BODY} bytes.");
        return reply(&ApiError::new(413, "invalid_request_error", "request_too_large", message));
    };
    let turn = idempotency.begin(&asked(&parts, &head, &key, &asked_for(&head, &body))).await;
    let request = Request::from_parts(head, Body::from(body));
    match turn {
        Ok(Turn::First(claim)) => run(idempotency, claim, request, next).await,
        Ok(Turn::Over(answer)) => answer.map(Body::from),
        Err(_) if request.uri().path() == FEEDBACK => next.run(request).await,
        Err(error) => store_away(&error),
    }
}

/// Says in the description that every POST takes a key.
pub(super) fn described(mut description: OpenApi) -> OpenApi {
    for (path, item) in &mut description.paths.paths {
        let Some(post) = item.post.as_mut().filter(|_| path != FINE_TUNE) else { continue };
        if path.starts_with("/api/") {
            let parameter = ParameterBuilder::new()
                .name(NAME)
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some("1 to 255 characters. For a day the same key and body is done once and answered the same again, with Idempotent-Replayed: true; another body, or one that is still running, is 409"))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            post.parameters.get_or_insert_default().push(parameter.build().into());
        }
    }
    description
}

fn asked<'a>(
    parts: &'a Parts,
    head: &'a request::Parts,
    key: &'a str,
    request: &'a [u8],
) -> Asked<'a> {
    let token = parts.token.as_ref().map_or("", |token| token.expose_secret());
    Asked { caller: "admin", route: head.uri.path(), key, token: token.as_bytes(), request }
}

/// All that tells two requests of a route apart.
fn asked_for(head: &request::Parts, body: &Bytes) -> Vec<u8> {
    [head.uri.query().unwrap_or_default().as_bytes(), body].join(&0)
}

/// Answers first. Goes on when the client has left: it may ask again what became of it.
async fn run(idempotency: Idempotency, claim: Claim, request: Request, next: Next) -> Response {
    let work = tokio::spawn(async move {
        let (head, body) = next.run(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let answer = Response::from_parts(head, body);
        if let Err(error) = idempotency.end(&claim, &answer).await {
            tracing::warn!(%error, "an answer is not kept: its Idempotency-Key is in use for a day");
        }
        answer.map(Body::from)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request stopped");
        let message = "The gateway has made a mistake; its log tells more.";
        reply(&ApiError::new(500, "api_error", "internal_error", message))
    })
}
