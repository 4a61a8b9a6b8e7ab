//! Who calls. With `auth: passthrough` the caller's own key goes through.

use http::HeaderMap;
use http::Method;
use http::header;

use crate::openai::error::ApiError;
use crate::policy::Upstream;

use super::error;

/// A caller, as metrics and rules name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// The key's name. Callers with keys of their own are one series.
    pub(super) key: &'static str,
    /// The key's team.
    pub(super) team: &'static str,
}

/// Lets a caller in. Preflights carry no key by design; they have no body and cost nothing.
pub(super) fn authenticate(
    method: &Method,
    headers: &HeaderMap,
    upstream: &Upstream,
) -> Result<Client, ApiError> {
    let has_key = headers.contains_key(header::AUTHORIZATION) || carries_key_elsewhere(headers);
    if !has_key && upstream.authorization.is_none() && method != Method::OPTIONS {
        return Err(error::no_key());
    }
    Ok(Client { key: "passthrough", team: "" })
}

/// Browsers cannot set headers on a WebSocket: OpenAI takes the key as a subprotocol.
fn carries_key_elsewhere(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("openai-insecure-api-key.")))
        || headers.contains_key("api-key")
}

/// Puts the gateway's own key in place of the caller's, where it has one.
pub(super) fn credential(headers: &mut HeaderMap, upstream: &Upstream) {
    if let Some(own) = &upstream.authorization {
        headers.remove("api-key");
        headers.insert(header::AUTHORIZATION, own.clone());
    }
}
