//! `POST /api/search` for apps: what the operator's documents say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::header;
use http::request::Parts;
use http_body::Body;
use uuid::Uuid;

use crate::openai::error::ApiError;
use crate::upstream::BodyError;

use super::Gateway;
use super::Reply;
use super::body;
use super::call::ID;
use super::error;
use super::head;

pub(super) const PATH: &str = "/api/search";
/// Bytes of one question.
const LONGEST: u64 = 64 << 10;

/// Searches by the body of a request, and waits for the question's vector no longer than it is told, or
/// as long as usual. Handed in by who starts the gateway: documents are no business of this room's.
pub type Search = Arc<dyn Fn(Bytes, Option<Duration>) -> Searching + Send + Sync>;
/// What [`Search`] returns: the answer's JSON.
pub type Searching = Pin<Box<dyn Future<Output = Result<Bytes, ApiError>> + Send>>;

/// Answers a search. It is no call: what it costs is that of the question's vector, which is one.
pub(super) async fn answer<B>(gateway: &Gateway, parts: &Parts, body: B) -> Response<Reply>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let mut response = match found(gateway, parts, body).await {
        Ok(json) => {
            let mut response = Response::new(Reply::whole(json));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => error::reply(&error),
    };
    // The mark of an answer that is the gateway's own, not its HTTP engine's.
    if let Ok(id) = HeaderValue::try_from(Uuid::now_v7().to_string()) {
        response.headers_mut().insert(ID, id);
    }
    response
}

async fn found<B>(gateway: &Gateway, parts: &Parts, body: B) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    head::check(parts)?;
    if parts.method != Method::POST {
        return Err(error::method_not_allowed(&parts.method));
    }
    gateway.authenticate(parts)?;
    let Some(search) = &gateway.search else { return Err(error::store_off()) };
    let body = body::read(&parts.headers, body, LONGEST).await?;
    search(body, None).await
}
