//! Calls that the gateway makes itself, on the way that clients' calls take: policy, limits, cost,
//! metrics and the record are the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Full;

use crate::metering::money::Usd;
use crate::openai::error::ApiError;
use crate::upstream::root_cause;

use super::Gateway;
use super::call::COST;
use super::error;

/// Who calls from within, such as `embeddings:docs`. In a request's extensions, where no client can
/// put it.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Arc<str>);

/// An answer in memory.
#[derive(Debug)]
pub struct InternalAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, the gateway's own among them.
    pub headers: HeaderMap,
    /// All of its body.
    pub body: Bytes,
}

impl InternalAnswer {
    /// When to come again, where the answer says so in seconds or in milliseconds.
    pub fn retry_after(&self) -> Option<Duration> {
        let number = |name: &str| self.headers.get(name)?.to_str().ok()?.trim().parse().ok();
        let seconds = || number("retry-after").map(Duration::from_secs);
        number("retry-after-ms").map(Duration::from_millis).or_else(seconds)
    }

    /// What the call cost, where that is known.
    pub fn cost(&self) -> Option<Usd> {
        self.headers.get(COST)?.to_str().ok()?.parse().ok()
    }
}

impl Gateway {
    /// Posts JSON to a path below `/v1` in the name of `caller`, which is the key that limits see
    /// and the route that metrics and the record name. Needs no key; what it says is not kept, its
    /// figures are.
    pub async fn call_internally(
        &self,
        path: &'static str,
        body: Bytes,
        caller: &str,
    ) -> InternalAnswer {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        // Without a connection there is no host to name.
        *request.version_mut() = Version::HTTP_2;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request.extensions_mut().insert(Caller(caller.into()));
        let (head, body) = self.handle(request).await.into_parts();
        let (status, body) = match body.collect().await {
            Ok(whole) => (head.status, whole.to_bytes()),
            Err(cut) => cut_off(&root_cause(&*cut)),
        };
        InternalAnswer { status, headers: head.headers, body }
    }
}

/// What a client would see as a connection that breaks off.
fn cut_off(reason: &str) -> (StatusCode, Bytes) {
    let error: ApiError = error::answer_cut(reason);
    (StatusCode::BAD_GATEWAY, error.to_json())
}
