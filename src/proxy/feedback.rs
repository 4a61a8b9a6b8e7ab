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
use crate::store::Asked;
use crate::store::Recorder;
use crate::store::Turn;
use crate::store::Verdict;
use crate::store::idempotency_key;
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
        Ok(answer) => answer.map(Reply::whole),
        Err(error) => error::reply(&error),
    };
    // The mark of an answer that is the gateway's own, not its HTTP engine's.
    if let Ok(id) = HeaderValue::try_from(Uuid::now_v7().to_string()) {
        response.headers_mut().insert(ID, id);
    }
    response
}

async fn take<B>(gateway: &Gateway, parts: &Parts, body: B) -> Result<Response<Bytes>, ApiError>
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
    let key = idempotency_key(parts.headers.get("idempotency-key"))?;
    let mut verdict = Verdict::parse(&body, client.key(), key).map_err(|wrong| {
        ApiError::bad_request("invalid_parameter", wrong.to_string()).param(wrong.name)
    })?;
    let claim = match turn(recorder, client.key(), key, &body).await {
        Some(Turn::Over(answer)) => return Ok(answer),
        Some(Turn::First(claim)) => Some(claim),
        None => None,
    };
    recorder.judge(&mut verdict, Kinds { secrets: true, pii: policy.redacts_pii() });
    let mut answer = Response::new(Bytes::from(verdict.to_json().to_string()));
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    if let (Some(claim), Some(idempotency)) = (claim, recorder.idempotency().cloned()) {
        let kept = answer.clone();
        // Not cut short when the client leaves.
        let keep = tokio::spawn(async move { idempotency.end(&claim, &kept).await });
        if let Ok(Err(error)) = keep.await {
            tracing::warn!(%error, "an answer is not kept: its Idempotency-Key is in use for a day");
        }
    }
    Ok(answer)
}

/// Whether it was said before. While the store is away it is said again: a verdict's id comes from
/// its key, so that it counts once.
async fn turn(recorder: &Recorder, caller: &str, key: Option<&str>, body: &[u8]) -> Option<Turn> {
    let asked = Asked { caller, route: PATH, key: key?, token: &[], request: body };
    recorder.idempotency()?.begin(&asked).await.ok()
}
