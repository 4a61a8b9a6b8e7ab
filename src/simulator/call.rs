//! One request at the door: who asks, what its knobs are, and how its answer goes out.

use std::future::pending;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use crate::simulator::knobs::{Knobs, directive};
use crate::simulator::play::{Event, Play, beats};
use crate::simulator::refusal::Refusal;
use crate::simulator::world::World;

/// Largest JSON body that is read, in bytes.
const MAX_BODY: usize = 128 * 1024 * 1024;

/// A request let in, before its body is read.
pub(super) struct Call {
    pub(super) knobs: Knobs,
    accepts_gzip: bool,
}

/// A request let in, with its whole body.
pub(super) struct JsonCall {
    pub(super) call: Call,
    pub(super) body: Bytes,
}

impl FromRequestParts<Arc<World>> for Call {
    type Rejection = Response<Body>;

    async fn from_request_parts(
        parts: &mut Parts,
        world: &Arc<World>,
    ) -> Result<Self, Self::Rejection> {
        let call = Self::known(&parts.headers, world).map_err(IntoResponse::into_response)?;
        call.admitted(world).await
    }
}

impl FromRequest<Arc<World>> for JsonCall {
    type Rejection = Response<Body>;

    async fn from_request(request: Request, world: &Arc<World>) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        let mut call = Call::known(&parts.headers, world).map_err(IntoResponse::into_response)?;
        let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| too_large())?;
        if let Some(text) = directive(&body) {
            call.knobs.amend(text);
        }
        Ok(Self { call: call.admitted(world).await?, body })
    }
}

fn too_large() -> Response<Body> {
    Refusal::new(413, format!("The request body is cut short or larger than {MAX_BODY} bytes."))
        .into_response()
}

impl JsonCall {
    /// The body as a JSON object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Refusal> {
        serde_json::from_slice(&self.body).map_err(|_| Refusal::unparsable())
    }
}

impl Call {
    fn known(headers: &HeaderMap, world: &World) -> Result<Self, Refusal> {
        authenticate(headers)?;
        let mut knobs = world.knobs.clone();
        for value in headers.get_all("x-simulate") {
            knobs.amend(value.to_str().unwrap_or_default());
        }
        let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        Ok(Self { knobs, accepts_gzip: encodings.is_some_and(|list| list.contains("gzip")) })
    }

    /// Waits, hangs or refuses, as the knobs want it.
    async fn admitted(self, world: &World) -> Result<Self, Response<Body>> {
        if !self.knobs.latency.is_zero() {
            tokio::time::sleep(self.knobs.latency).await;
        }
        if self.knobs.stall {
            pending::<()>().await;
        }
        if self.knobs.drop {
            return Err(Response::new(Body::new(Play::nothing())));
        }
        if world.refuses(&self.knobs) { Err(self.staged_refusal()) } else { Ok(self) }
    }

    fn staged_refusal(&self) -> Response<Body> {
        let mut response = Refusal::staged(&self.knobs).into_response();
        if let Some(wait) = self.knobs.retry_after {
            let (seconds, millis) = (wait.as_millis().div_ceil(1000), wait.as_millis());
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, text_header(&seconds.to_string()));
            headers.insert("retry-after-ms", text_header(&millis.to_string()));
        }
        response
    }

    /// A JSON answer.
    pub(super) fn json(&self, mut value: Value) -> Response<Body> {
        if let (true, Some(object)) = (self.knobs.no_usage, value.as_object_mut()) {
            object.remove("usage");
        }
        let body = serde_json::to_vec(&value).unwrap_or_default();
        self.bytes("application/json", body.into())
    }

    /// An answer of any type that is not a stream.
    pub(super) fn bytes(&self, content_type: &'static str, body: Bytes) -> Response<Body> {
        let zipped = self.knobs.gzip && self.accepts_gzip;
        let body = if zipped { gzip(&body) } else { body };
        let length = body.len();
        let mut response = Response::new(self.whole(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CONTENT_LENGTH, length.into());
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    fn whole(&self, body: Bytes) -> Body {
        let knobs = &self.knobs;
        let plain = knobs.cut.is_none() && knobs.stall_after.is_none() && knobs.drip.is_zero();
        if plain { Body::from(body) } else { Body::new(Play::whole(body, knobs)) }
    }

    /// An answer as server-sent events.
    pub(super) fn events(&self, events: Vec<Event>) -> Response<Body> {
        let play = Play::new(beats(events, &self.knobs), self.knobs.drip);
        let mut response = Response::new(Body::new(play));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

fn authenticate(headers: &HeaderMap) -> Result<(), Refusal> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = bearer.and_then(bearer_token).or_else(|| web_socket_key(headers));
    match key {
        None => Err(Refusal::no_key()),
        Some(key) if key.starts_with("sk-invalid") => Err(Refusal::wrong_key(key)),
        Some(_) => Ok(()),
    }
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

/// Browsers cannot set headers on a WebSocket: OpenAI takes the key as a subprotocol too.
fn web_socket_key(headers: &HeaderMap) -> Option<&str> {
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    protocols.split(',').find_map(|name| name.trim().strip_prefix("openai-insecure-api-key."))
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

fn text_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Headers of every answer that never change.
const FIXED: [(HeaderName, HeaderValue); 6] = [
    (HeaderName::from_static("openai-version"), HeaderValue::from_static("2020-10-01")),
    (HeaderName::from_static("openai-organization"), HeaderValue::from_static("org-simulator")),
    (HeaderName::from_static("x-ratelimit-limit-requests"), HeaderValue::from_static("10000")),
    (HeaderName::from_static("x-ratelimit-limit-tokens"), HeaderValue::from_static("2000000")),
    (HeaderName::from_static("x-ratelimit-remaining-tokens"), HeaderValue::from_static("1999000")),
    (HeaderName::from_static("x-ratelimit-reset-tokens"), HeaderValue::from_static("30ms")),
];

/// Puts OpenAI's own headers on every answer.
pub(super) async fn stamp(
    State(world): State<Arc<World>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let began = Instant::now();
    let mut response = next.run(request).await;
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    let reset = response.headers().get(header::RETRY_AFTER).cloned();
    let headers = response.headers_mut();
    headers.extend(FIXED);
    headers.insert("x-request-id", text_header(&world.id("req_")));
    headers.insert("openai-processing-ms", text_header(&began.elapsed().as_millis().to_string()));
    headers.insert(
        "x-ratelimit-remaining-requests",
        HeaderValue::from_static(if limited { "0" } else { "9999" }),
    );
    let reset =
        reset.filter(|_| limited).and_then(|wait| wait.to_str().map(|s| format!("{s}s")).ok());
    headers.insert("x-ratelimit-reset-requests", text_header(reset.as_deref().unwrap_or("6ms")));
    response
}
