//! `POST /api/feedback` for apps: what an answer was worth to the one who got it.

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::header;
use http::request::Parts;
use http_body::Body;
use uuid::Uuid;

use crate::openai::error::ApiError;
use crate::redact::Kinds;
use crate::store::Verdict;
use crate::upstream::BodyError;

use super::Gateway;
use super::Reply;
use super::body;
use super::call::ID;
use super::error;
use super::head;

pub(super) const PATH: &str = "/api/feedback";
/// Bytes of one verdict. A demonstration is an answer, and no longer than one.
const LONGEST: u64 = 1 << 20;

/// Takes a verdict. It is no call: nothing is billed or captured.
pub(super) async fn answer<B>(gateway: &Gateway, parts: &Parts, body: B) -> Response<Reply>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let mut response = match take(gateway, parts, body).await {
        Ok(verdict) => {
            let mut response = Response::new(Reply::whole(verdict.to_json().to_string().into()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
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

async fn take<B>(gateway: &Gateway, parts: &Parts, body: B) -> Result<Verdict, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    head::check(parts)?;
    if parts.method != Method::POST {
        return Err(error::method_not_allowed(&parts.method));
    }
    let policy = gateway.policy.current();
    let client = gateway.authenticate(parts)?;
    let Some(recorder) = &gateway.recorder else { return Err(error::store_off()) };
    let body = body::read(&parts.headers, body, LONGEST).await?;
    let idempotency = parts.headers.get("idempotency-key").map(|key| key.as_bytes());
    let mut verdict = Verdict::parse(&body, client.key(), idempotency).map_err(|wrong| {
        ApiError::bad_request("invalid_parameter", wrong.to_string()).param(wrong.name)
    })?;
    recorder.judge(&mut verdict, Kinds { secrets: true, pii: policy.redacts_pii() });
    Ok(verdict)
}
